"""The event format and the uplink's topics."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import DecodeError
from gateway.core.events import WireEvent
from gateway.core.own_topics import OwnTopics, UplinkTopic, parse_uplink_topic
from gateway.core.topics import filter_matches
from gateway.wire.event_format import (
    buffer_of_message,
    event_envelope,
    event_from_message,
    event_properties,
)

PLANT = OwnTopics("gateway", "plant-7")

EVENT = WireEvent(
    bytes(range(16)), "tele/a/SENSOR", 7, 1_700_000_000_000, 1_700_000_000_250, None, 2, 0, 9, b"{}"
)
int64 = st.integers(-(2**63), 2**63 - 1)
wire_events = st.builds(
    WireEvent,
    event_id=st.binary(min_size=16, max_size=16),
    stream=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30),
    sequence_num=st.integers(1, 2**63 - 1),
    event_time_ms=int64,
    ingest_time_ms=int64,
    device_time_ms=st.none() | int64,
    priority=st.integers(0, 3),
    kind=st.integers(0, 3),
    flags=st.integers(0, 65_535),
    payload=st.binary(max_size=60) | st.text(st.characters(exclude_categories=["Cs"])).map(str.encode),
)


def envelope(**changes: Any) -> bytes:
    return json.dumps({**json.loads(event_envelope(EVENT)), **changes}).encode()


def refusal(properties: list[tuple[str, str]] | None, payload: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        event_from_message("tele/a/SENSOR", properties, payload)
    return caught.value.reason


@given(wire_events)
def test_user_properties_and_the_untouched_payload_make_the_event_again(event: WireEvent) -> None:
    assert event_from_message(event.stream, event_properties(event), event.payload) == event


@given(wire_events)
def test_an_envelope_alone_makes_the_event_again(event: WireEvent) -> None:
    assert event_from_message(event.stream, None, event_envelope(event)) == event


def test_the_properties_are_the_documented_ones() -> None:
    assert event_properties(EVENT._replace(device_time_ms=5)) == [
        ("event_id", "00010203-0405-0607-0809-0a0b0c0d0e0f"),
        ("sequence_num", "7"),
        ("event_time_ms", "1700000000000"),
        ("ingest_time_ms", "1700000000250"),
        ("priority", "2"),
        ("kind", "0"),
        ("flags", "9"),
        ("device_time_ms", "5"),
    ]


def test_an_envelope_shows_text_as_text_and_other_bytes_as_base64() -> None:
    assert json.loads(event_envelope(EVENT))["payload"] == "{}"
    binary = json.loads(event_envelope(EVENT._replace(payload=b"\xff\x00")))
    assert (binary["payload_b64"], "payload" in binary) == ("/wA=", False)


@pytest.mark.parametrize(
    "broken",
    [
        b"21.5",
        b"\xff",
        b'{"T":21.5}',
        envelope(event_id="no uuid"),
        envelope(stream="another/topic"),
        envelope(sequence_num="7"),
        envelope(sequence_num=None),
        envelope(flags=True),
        envelope(event_time_ms=2**63),
        envelope(device_time_ms=1.5),
        envelope(sequence_num=0),
        envelope(priority=256),
        envelope(kind=-1),
        envelope(flags=2**31),
        envelope(payload=21.5),
        envelope(payload_b64="AA=="),
        envelope(payload=None, payload_b64="?"),
    ],
)
def test_what_is_no_envelope_is_refused(broken: bytes) -> None:
    assert refusal(None, broken) == "envelope"


def test_a_name_with_a_nul_is_refused_since_no_database_takes_it() -> None:
    with pytest.raises(DecodeError):
        event_from_message("a\0b", None, envelope(stream="a\0b"))
    with pytest.raises(DecodeError):
        event_from_message("a\0b", event_properties(EVENT), b"{}")
    assert buffer_of_message(None, envelope(buffer="b\0")) == ""


@pytest.mark.parametrize(
    ("name", "value"), [("event_id", "x"), ("kind", "raw"), ("sequence_num", str(2**63)), ("flags", None)]
)
def test_properties_that_are_missing_or_wrong_are_refused(name: str, value: str | None) -> None:
    properties = [(key, text) for key, text in event_properties(EVENT) if key != name]
    if value is not None:
        properties.append((name, value))
    assert refusal(properties, b"{}") == "properties"


@given(st.binary(max_size=80), st.lists(st.tuples(st.sampled_from(["event_id", "kind", "x"]), st.text())))
def test_arbitrary_messages_are_refused_and_nothing_worse(
    payload: bytes, properties: list[tuple[str, str]]
) -> None:
    assert refusal(properties, payload) in {"properties", "envelope"}


@pytest.mark.parametrize(
    ("topic", "parsed"),
    [
        (PLANT.batch(1), UplinkTopic("plant-7", "batch", "1")),
        (PLANT.event("tele/a"), UplinkTopic("plant-7", "event", "tele/a")),
        (PLANT.audit, UplinkTopic("plant-7", "audit", "")),
    ],
)
def test_an_uplink_topic_is_read_back_and_covered_by_the_subscriptions(
    topic: str, parsed: UplinkTopic
) -> None:
    assert parse_uplink_topic("gateway", topic) == parsed
    for gateway_id in ("+", "plant-7"):
        filters = OwnTopics("gateway", gateway_id).uplink_filters
        assert sum(filter_matches(each, topic) for each in filters) == 1
    assert not any(filter_matches(each, topic) for each in OwnTopics("gateway", "other").uplink_filters)


@pytest.mark.parametrize(
    "topic",
    ["gateway/g/status", "gateway/g/aggregates/w/k", "gateway/g/audit/more", "other/g/up/batch/0", "gateway"],
)
def test_other_topics_are_no_uplink(topic: str) -> None:
    assert parse_uplink_topic("gateway", topic) is None
