"""The identity of an event in the correlation data."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.errors import DecodeError
from gateway.core.events import WireEvent
from gateway.core.identifiers import EventIds
from gateway.wire.event_format import buffer_of_message, event_from_message, event_properties
from gateway.wire.frame import EventColumns
from gateway.wire.short_identity import read_short_identity, short_identities
from tests.wire.test_event_format import EVENT, wire_events

BUFFER = "00112233aabbccdd"


def columns(*events: WireEvent) -> EventColumns:
    event_ids, *others = zip(*events, strict=True)
    return EventColumns(b"".join(event_ids), *others)


def short(event: WireEvent, buffer_id: str = "") -> bytes:
    (identity,) = short_identities(columns(event), buffer_id)
    return identity


@given(wire_events, st.sampled_from(["", BUFFER]))
@example(EVENT._replace(event_time_ms=-(2**63), ingest_time_ms=2**63 - 1, sequence_num=2**63 - 1), BUFFER)
def test_it_makes_the_event_and_its_buffer_again(event: WireEvent, buffer_id: str) -> None:
    identity = short(event, buffer_id)
    assert event_from_message(event.stream, (), event.payload, identity) == event
    assert buffer_of_message((), event.payload, identity) == buffer_id


def test_many_are_the_same_as_each_alone() -> None:
    events = [EVENT, EVENT._replace(sequence_num=300, flags=0), EVENT._replace(device_time_ms=5, kind=2)]
    assert short_identities(columns(*events), BUFFER) == [short(event, BUFFER) for event in events]


def test_a_usual_one_has_few_bytes() -> None:
    now_ms = 1_700_000_000_000
    usual = EVENT._replace(
        event_id=EventIds().next(now_ms), ingest_time_ms=now_ms, sequence_num=40_000, flags=0
    )
    assert len(short(usual._replace(event_time_ms=now_ms), BUFFER)) == 29
    assert len(short(usual._replace(event_time_ms=now_ms - 250), BUFFER)) == 31
    assert sum(len(name) + len(text) for name, text in event_properties(usual, BUFFER)) > 150


def test_the_old_properties_come_first_where_both_are_there() -> None:
    other = EVENT._replace(sequence_num=8)
    assert event_from_message(EVENT.stream, event_properties(other), EVENT.payload, short(EVENT)) == other


@pytest.mark.parametrize(
    "broken",
    [
        b"\x10",
        b"somebody's own correlation data",
        b"\x20" + short(EVENT)[1:],
        short(EVENT)[:-1],
        short(EVENT) + b"\0",
        short(EVENT._replace(sequence_num=0)),
        b"\x10\xf0\x00" + bytes(16) + b"\xff" * 15,
        b"\x10\x1f\x00" + bytes(16) + b"\x01" + b"\x7f" * 15,
    ],
)
def test_what_is_none_is_refused(broken: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        event_from_message("tele/a/SENSOR", (), b"{}", broken)
    assert caught.value.reason == "properties"


@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_refused_and_nothing_worse(data: bytes) -> None:
    try:
        read_short_identity(data)
    except DecodeError as exc:
        assert exc.reason == "properties"
