"""What `gateway clock` prints for people."""

from __future__ import annotations

from gateway.cli.clock import describe_devices


def test_a_wrong_clock_is_told_within_80_columns() -> None:
    wrong = {"device": "living-room-sensor", "offset_ms": -3_600_250, "drift_ppm": -1234.5}
    right = {"device": "b", "offset_ms": 3, "drift_ppm": None, "wrong_since_ms": None}
    devices = [wrong | {"wrong_since_ms": 1_700_000_000_000}, right]
    told = [*describe_devices({"wrong": 1, "watched": 2, "unwatched_messages": 0, "devices": devices})]
    assert told == [
        "1 of 2 devices have a wrong clock",
        "living-room-sensor  -3600.250 s  -1234.5 ppm  wrong since 11-14 22:13Z",
        "b                      +0.003 s",
    ]
    assert max(map(len, told)) <= 80
