"""ThingsBoard's gateway telemetry and attributes: by device, each value with its time."""

from __future__ import annotations

import json
from typing import Any

from gateway.core.events import Flag, Kind, WireEvent
from gateway.core.own_topics import OwnTopics
from gateway.wire.encoder import Encoded
from gateway.wire.thingsboard import ThingsboardEncoder
from gateway.wire.uplink_topics import UplinkTopics


def wire_event(stream: str, payload: object, at: int = 0, **more: Any) -> WireEvent:
    """An event that happened `at` milliseconds after the epoch; `payload` is bytes, or what becomes JSON."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    base = WireEvent(at.to_bytes(16, "big"), stream, at, at, at, None, 2, Kind.RAW, 0, body)
    return base._replace(**more)


def topics(*routes: str) -> UplinkTopics:
    return UplinkTopics(OwnTopics("gateway", "g1"), routes=routes)


def encoded(*events: WireEvent, routes: tuple[str, ...] = ("tele/{device}/SENSOR",)) -> list[Encoded]:
    return [*ThingsboardEncoder().encode(events, topics(*routes))]


def test_readings_of_many_devices_share_a_message() -> None:
    (message,) = encoded(
        wire_event("tele/hall/SENSOR", {"t": 21.5, "on": True}, 5),
        wire_event("tele/attic/SENSOR", {"t": 9}, 6),
        wire_event("tele/hall/SENSOR", {"t": 22}, 7),
    )
    assert message.topic == "v1/gateway/telemetry"
    assert [*message.events] == [0, 1, 2]
    assert json.loads(message.payload) == {
        "hall": [{"ts": 5, "values": {"t": 21.5, "on": True}}, {"ts": 7, "values": {"t": 22}}],
        "attic": [{"ts": 6, "values": {"t": 9}}],
    }


def test_null_is_left_out_and_what_is_no_object_is_a_value() -> None:
    (message,) = encoded(
        wire_event("a/b", {"t": None, "h": 3}, 1),
        wire_event("a/b", b"17.5", 2),
        wire_event("a/b", b"on", 3),
        wire_event("a/b", b"\xff\x00", 4),
    )
    assert json.loads(message.payload) == {
        "a/b": [
            {"ts": 1, "values": {"h": 3}},
            {"ts": 2, "values": {"value": 17.5}},
            {"ts": 3, "values": {"value": "on"}},
            {"ts": 4, "values": {"value": "/wA="}},
        ]
    }


def test_what_was_retained_becomes_an_attribute() -> None:
    attributes, telemetry = encoded(
        wire_event("tele/hall/SENSOR", {"t": 1}, 1),
        wire_event("tele/hall/SENSOR", {"firmware": "1.2"}, 2, flags=int(Flag.RETAINED)),
    )
    assert (attributes.topic, [*attributes.events]) == ("v1/gateway/attributes", [1])
    assert json.loads(attributes.payload) == {"hall": {"firmware": "1.2"}}
    assert (telemetry.topic, [*telemetry.events]) == ("v1/gateway/telemetry", [0])


def test_an_aggregate_goes_to_the_device_of_its_key_under_the_name_of_its_window() -> None:
    aggregate = {"window": "temp_1m", "key": "hall", "result": {"mean": 2.5, "count": 3}}
    (message,) = encoded(
        wire_event("gateway/g1/aggregates/temp_1m/hall", aggregate, 9, kind=int(Kind.AGGREGATE))
    )
    assert json.loads(message.payload) == {
        "hall": [{"ts": 9, "values": {"temp_1m.mean": 2.5, "temp_1m.count": 3}}]
    }
