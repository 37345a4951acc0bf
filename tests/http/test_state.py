"""What the state says of the devices."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from gateway.decode.presence import Presence
from gateway.http.results import Results
from gateway.http.state import State
from gateway.status.gateway_status import GatewayStatus
from gateway.testing import ManualClock
from gateway.timekeeping.devices import DeviceClocks

MINUTE_MS = 60_000


def devices_of(presence: Presence, clocks: DeviceClocks, now_ms: int) -> dict[str, Any]:
    gateway = SimpleNamespace(presence=presence, device_clocks=clocks, clock=ManualClock(now_ms))
    return State(cast(GatewayStatus, gateway), cast(Results, None)).devices(listed=1)


def test_wrong_clocks_are_those_that_the_estimate_finds_the_worst_first() -> None:
    presence, clocks = Presence(), DeviceClocks(wrong_ms=5_000)
    for at_ms in range(0, 3 * MINUTE_MS, 10_000):
        for name, offset_ms in (("a", -7_000), ("b", 90_000), ("right", 200)):
            presence.note(name, at_ms, readable=True)
            clocks.observe(name, at_ms + offset_ms, at_ms)
    found = devices_of(presence, clocks, 3 * MINUTE_MS)
    assert (found["known"], found["silent_count"], found["wrong_clock_count"]) == (3, 0, 2)
    assert found["wrong_clock"] == [
        {"name": "b", "offset_ms": 90_000, "drift_ppm": None, "wrong_since_ms": 0}
    ]


def test_the_silent_and_the_unreadable_are_listed_as_far_as_there_is_room() -> None:
    presence = Presence()
    for at_ms in (0, 1_000, 2_000):
        for name in "ab":
            presence.note(name, at_ms, readable=name == "a")
    found = devices_of(presence, DeviceClocks(wrong_ms=5_000), 10 * MINUTE_MS)
    assert (found["silent_count"], len(found["silent"])) == (2, 1)
    assert [device["name"] for device in found["unreadable"]] == ["b"]
