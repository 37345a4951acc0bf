"""Frames in each encoding, above all the lines of JSON: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import DecodeError
from gateway.core.events import WireEvent
from gateway.wire.encodings import Encoding, decode_frame, encode_frame
from gateway.wire.frame import Batch, EventColumns
from tests.wire.test_frame import BATCH_ID, EVENTS, FIRST, PAGE, wire_events


def columns(events: list[WireEvent]) -> EventColumns:
    event_ids, *rest = zip(*events, strict=True) if events else [()] * 10
    return EventColumns(b"".join(event_ids), *rest)


def lines(events: list[WireEvent], gateway_id: str = "plant-7") -> bytes:
    return encode_frame("json", gateway_id, BATCH_ID, columns(events))


def refusal(frame: bytes, **limits: int) -> str:
    with pytest.raises(DecodeError) as caught:
        decode_frame(frame, **limits)
    return caught.value.reason


@pytest.mark.parametrize("encoding", get_args(Encoding))
@given(events=st.lists(wire_events, max_size=10))
def test_every_encoding_brings_every_event_back(encoding: Encoding, events: list[WireEvent]) -> None:
    frame = encode_frame(encoding, "plant-7", BATCH_ID, columns(events))
    assert decode_frame(frame) == Batch("plant-7", BATCH_ID, events)


def test_without_compression_the_body_is_stored_as_it_is() -> None:
    events = [FIRST] * 100
    frame = encode_frame("none", "plant-7", BATCH_ID, columns(events))
    assert frame[5] == 0
    assert len(frame) > 10 * len(encode_frame("zstd", "plant-7", BATCH_ID, columns(events)))


def test_the_documented_lines_are_what_the_encoder_writes_and_the_decoder_reads() -> None:
    documented = PAGE.read_text(encoding="utf-8").split("```jsonl\n")[1].split("```")[0].encode()
    assert lines(EVENTS) == documented
    assert decode_frame(documented) == Batch("plant-7", BATCH_ID, EVENTS)


def test_a_line_is_the_envelope_of_the_event_format() -> None:
    head, first, *_ = lines(EVENTS).splitlines()
    assert json.loads(head)["count"] == 2
    assert json.loads(first)["payload"] == '{"T":21.5}'


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_refused_and_nothing_worse(junk: bytes) -> None:
    refusal(b"{" + junk)
    refusal(lines([]) + junk + b"!")


@given(st.integers(0, 700), st.integers(0, 255))
def test_a_changed_byte_gives_another_frame_or_a_refusal(position: int, value: int) -> None:
    frame = bytearray(lines(EVENTS))
    frame[position % len(frame)] = value
    try:
        assert isinstance(decode_frame(bytes(frame)), Batch)
    except DecodeError as error:
        assert error.reason


@given(st.integers(0, 600))
def test_lines_cut_short_are_refused(length: int) -> None:
    frame = lines(EVENTS)
    refusal(frame[: length % len(frame)])


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ({"frame": 2}, "version"),
        ({"frame": None}, "version"),
        ({"gateway": ""}, "malformed"),
        ({"count": 3}, "malformed"),
        ({"count": -1}, "malformed"),
        ({"count": True}, "malformed"),
        ({"batch_id": "x"}, "malformed"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(head: dict[str, object], reason: str) -> None:
    first, rest = lines(EVENTS).split(b"\n", 1)
    assert refusal(json.dumps(json.loads(first) | head).encode() + b"\n" + rest) == reason


def test_a_frame_over_the_limit_is_refused_unread() -> None:
    assert refusal(lines(EVENTS), max_bytes=100) == "too_large"


@pytest.mark.parametrize("events", [[FIRST] * 65_536, [FIRST._replace(event_id=b"short")]])
def test_what_a_frame_cannot_hold_is_a_value_error(events: list[WireEvent]) -> None:
    with pytest.raises(ValueError, match="a frame"):
        encode_frame("none", "g", BATCH_ID, columns(events))
