"""The batch frame: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import DecodeError
from gateway.core.events import WireEvent
from gateway.wire.frame import Batch, EventColumns, decode_batch, encode_batch, encode_columns
from tests.support.places import DOCS

PAGE = DOCS / "wire-format.md"
BATCH_ID = bytes(range(16))
FIRST = WireEvent(
    bytes.fromhex("0193571f2a007abc8def0123456789ab"),
    "tele/a/SENSOR",
    7,
    1_700_000_000_000,
    1_700_000_000_250,
    None,
    2,
    0,
    0,
    b'{"T":21.5}',
)
SECOND = WireEvent(
    bytes.fromhex("0193571f2a017abc8def0123456789ac"),
    "tele/b/SENSOR",
    1,
    1_700_000_000_500,
    1_700_000_000_750,
    1_699_999_999_000,
    1,
    0,
    9,
    b"\xff\x00",
)
EVENTS = [FIRST, SECOND]

int64 = st.integers(-(2**63), 2**63 - 1)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
wire_events = st.builds(
    WireEvent,
    event_id=st.binary(min_size=16, max_size=16),
    stream=names,
    sequence_num=st.integers(1, 2**63 - 1),
    event_time_ms=int64,
    ingest_time_ms=int64,
    device_time_ms=st.none() | st.integers(-(2**63) + 1, 2**63 - 1),
    priority=st.integers(0, 255),
    kind=st.integers(0, 255),
    flags=st.integers(0, 65_535),
    payload=st.binary(max_size=60),
)


def documented_frames() -> list[bytes]:
    """The hex blocks of the specification, without their comments."""
    blocks = PAGE.read_text(encoding="utf-8").split("```hex\n")[1:]
    lines = [block.split("```")[0].splitlines() for block in blocks]
    return [bytes.fromhex("".join(line.partition("#")[0] for line in block)) for block in lines]


def frame_of(body: bytes, *, count: int, codec: int = 0, raw_bytes: int | None = None) -> bytes:
    """A frame with a right checksum around any body, written from the specification."""
    raw = len(body) if raw_bytes is None else raw_bytes
    header = b"EGBF" + struct.pack("<BBHHHII", 1, codec, 0, count, 2, raw, len(body))
    rest = BATCH_ID + b"gw" + body
    return header + struct.pack("<I", zlib.crc32(header + rest)) + rest


def refusal(frame: bytes, **limits: int) -> str:
    with pytest.raises(DecodeError) as caught:
        decode_batch(frame, **limits)
    return caught.value.reason


def one_event_body(*, stream_index: int = 0, payload_bytes: int = 2, payload: bytes = b"ab") -> bytes:
    names = struct.pack("<HH", 1, 1) + b"t"
    numbers = struct.pack("<HqqqqBBHI", stream_index, 1, 2, 3, 4, 2, 0, 0, payload_bytes)
    return names + bytes(16) + numbers + payload


@pytest.mark.parametrize("position", [0, 1])
def test_the_documented_frames_decode_to_the_documented_events(position: int) -> None:
    assert decode_batch(documented_frames()[position]) == Batch("plant-7", BATCH_ID, EVENTS)


def test_the_encoder_writes_the_documented_body() -> None:
    frame = encode_batch("plant-7", BATCH_ID, EVENTS)
    body = zstandard.ZstdDecompressor().decompress(frame[47:])
    assert body == documented_frames()[0][47:]


@given(st.lists(wire_events, max_size=20), names.filter(bool))
def test_every_event_comes_out_as_it_went_in(events: list[WireEvent], gateway_id: str) -> None:
    assert decode_batch(encode_batch(gateway_id, BATCH_ID, events)) == Batch(gateway_id, BATCH_ID, events)


def test_columns_make_the_same_frame_as_events() -> None:
    columns = [list(column) for column in zip(*EVENTS, strict=True)]
    frame = encode_columns("plant-7", BATCH_ID, EventColumns(b"".join(columns[0]), *columns[1:]))
    assert frame == encode_batch("plant-7", BATCH_ID, EVENTS)


def test_a_body_that_zstd_cannot_shrink_is_stored_as_it_is() -> None:
    frame = encode_batch("g", BATCH_ID, [])
    assert (frame[5], frame[41:], decode_batch(frame).events) == (0, b"\0\0", [])


def test_a_thousand_sensor_events_shrink_to_a_fraction() -> None:
    events = [FIRST._replace(sequence_num=n, payload=b'{"Temperature":%d.5}' % (n % 30)) for n in range(1000)]
    assert len(encode_batch("g", BATCH_ID, events)) < 10 * len(events)


@pytest.mark.parametrize(
    "events",
    [
        [FIRST._replace(event_id=b"short")],
        [FIRST._replace(sequence_num=2**63)],
        [FIRST._replace(priority=256)],
        [FIRST._replace(flags=-1)],
        [FIRST._replace(stream="t" * 65_536)],
        [FIRST] * 65_536,
    ],
    ids=["event id", "sequence number", "priority", "flags", "stream", "count"],
)
def test_what_a_frame_cannot_hold_is_a_value_error(events: list[WireEvent]) -> None:
    with pytest.raises(ValueError, match="a frame"):
        encode_batch("g", BATCH_ID, events)


@pytest.mark.parametrize("gateway_id", ["", "g" * 65_536])
def test_a_gateway_id_that_does_not_fit_is_a_value_error(gateway_id: str) -> None:
    with pytest.raises(ValueError, match="a frame"):
        encode_batch(gateway_id, BATCH_ID, [FIRST])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_and_nothing_worse(junk: bytes) -> None:
    refusal(junk)
    refusal(b"EGBF" + junk)
    refusal(frame_of(junk, count=1, codec=1, raw_bytes=1000))


@given(st.data())
def test_arbitrary_bodies_behind_a_right_checksum_decode_or_are_refused(data: st.DataObject) -> None:
    body = bytearray(documented_frames()[0][47:])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_batch(frame_of(bytes(body), count=2))
    except DecodeError as refused:
        assert refused.reason == "malformed"
    else:
        assert len(decoded.events) == 2


@given(st.integers(0, 400), st.integers(1, 255))
def test_any_flipped_bit_is_noticed(position: int, flip: int) -> None:
    frame = bytearray(encode_batch("plant-7", BATCH_ID, EVENTS * 3))
    frame[position % len(frame)] ^= flip
    assert refusal(bytes(frame)) in {"magic", "version", "truncated", "malformed", "crc"}


@given(st.integers(0, 184))
def test_a_frame_cut_short_is_truncated(length: int) -> None:
    assert refusal(encode_batch("plant-7", BATCH_ID, EVENTS)[:length]) == "truncated"


def test_bytes_behind_a_frame_are_malformed() -> None:
    assert refusal(encode_batch("g", BATCH_ID, EVENTS) + b"x") == "malformed"


def test_a_later_version_and_unknown_flags_are_refused_as_a_version() -> None:
    frame = bytearray(encode_batch("g", BATCH_ID, EVENTS))
    assert refusal(bytes(frame[:4] + b"\x02" + frame[5:])) == "version"
    assert refusal(bytes(frame[:6] + b"\x01" + frame[7:])) == "version"


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (frame_of(one_event_body(), count=1, codec=9), "codec"),
        (frame_of(one_event_body(), count=1, codec=1), "codec"),
        (frame_of(one_event_body(stream_index=1), count=1), "malformed"),
        (frame_of(one_event_body(payload_bytes=3), count=1), "malformed"),
        (frame_of(one_event_body(payload_bytes=1), count=1), "malformed"),
        (frame_of(one_event_body(), count=2), "malformed"),
        (frame_of(one_event_body(), count=65_535), "malformed"),
        (frame_of(one_event_body(), count=0), "malformed"),
        (frame_of(struct.pack("<HH", 1, 1) + b"\xff", count=0), "malformed"),
        (frame_of(struct.pack("<H", 65_535), count=0), "malformed"),
        (frame_of(b"", count=0), "malformed"),
    ],
    ids=[
        "an unknown codec",
        "a body that is no zstd",
        "an event of an unknown stream",
        "payloads too short",
        "payloads too long",
        "one event too few",
        "a count beyond what fits",
        "a count of none with a body of one",
        "a name that is not UTF-8",
        "names that are not there",
        "no body at all",
    ],
)
def test_sizes_that_do_not_add_up_are_refused(frame: bytes, reason: str) -> None:
    assert refusal(frame) == reason


def test_a_frame_that_names_no_gateway_is_malformed() -> None:
    header = b"EGBF" + struct.pack("<BBHHHII", 1, 0, 0, 0, 0, 2, 2)
    rest = BATCH_ID + b"\0\0"
    assert refusal(header + struct.pack("<I", zlib.crc32(header + rest)) + rest) == "malformed"


def test_a_body_larger_than_the_reader_allows_is_refused() -> None:
    frame = encode_batch("g", BATCH_ID, [FIRST._replace(payload=bytes(5000))])
    assert refusal(frame, max_body_bytes=5000) == "too_large"
    assert decode_batch(frame, max_body_bytes=5200).events[0].payload == bytes(5000)


def test_a_zstd_bomb_is_refused_in_bounded_memory() -> None:
    bomb = zstandard.ZstdCompressor(level=3).compress(bytes(100_000_000))
    assert len(bomb) < 10_000
    tracemalloc.start()
    try:
        assert refusal(frame_of(bomb, count=1, codec=1, raw_bytes=1000)) == "malformed"
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1_000_000


def test_a_zstd_window_beyond_8_mib_is_refused() -> None:
    wide = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    stored = compressor.compress(bytes(1000)) + compressor.flush()
    assert refusal(frame_of(stored, count=1, codec=1, raw_bytes=1000)) == "codec"


@pytest.mark.parametrize(
    ("gateway_id", "buffer_id", "event"),
    [
        ("gw", "", FIRST._replace(sequence_num=0)),
        ("gw", "", FIRST._replace(stream="a\0b")),
        ("gw", "", FIRST._replace(stream="\0note")),
        ("gw", "b\0", FIRST),
        ("g\0", "", FIRST),
    ],
)
def test_what_no_output_can_store_is_refused(gateway_id: str, buffer_id: str, event: WireEvent) -> None:
    event_ids, *columns = zip(*[event], strict=True)
    frame = encode_columns(
        gateway_id, BATCH_ID, EventColumns(b"".join(event_ids), *columns), buffer_id=buffer_id
    )
    with pytest.raises(DecodeError) as caught:
        decode_batch(frame)
    assert caught.value.reason == "malformed"
