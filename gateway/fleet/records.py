"""Lines that `gateway receive` wrote, as records that sort into the order of their gateways.

A record is one line of bytes: gateway, event id, and what the fold needs to know without parsing, then where
the line stands in the input, then the line itself. Ids of raw events begin with the time and count up, so
records that are sorted as bytes are in the order in which each gateway took its messages in, whatever the
order of the input was, and doubled ones are neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import orjson

from gateway.core.errors import DecodeError
from gateway.core.events import Kind
from gateway.receiver.event_lines import (
    LINE_START,
    NO_FLAGS,
    RAW,
    StoredLine,
    event_line,
    event_of_line,
)

MAX_LINE_BYTES = 16 * 1024 * 1024
"""A longer line is a wrong file rather than an event: it is skipped unread."""

_SEPARATOR = b"\0"  # stands in no JSON text


class StoredRecord(NamedTuple):
    """A line of the input. `file` and `offset` say where it stands; every part is bytes, as it is sorted."""

    gateway: bytes
    event_id: bytes
    stream: bytes
    number: bytes
    ingest_ms: bytes
    buffer_id: bytes
    file: bytes
    offset: bytes
    payload_at: bytes
    """Offset of the payload in a line without flags, which ends with it; `0`: the line is to be parsed."""
    line: bytes


class Packed(NamedTuple):
    """A record ready to be sorted. `time` sorts by arrival, with ids behind it."""

    gateway: bytes
    stream: bytes
    is_raw: bool
    time: bytes
    record: bytes


class Trouble(NamedTuple):
    """A line of the input that could not be used. `offset` is where it begins."""

    file: int
    offset: int
    reason: str


def read_record(packed: bytes) -> StoredRecord:
    """The record that `pack` made."""
    return StoredRecord(*packed.split(_SEPARATOR, 9))


def pack(line: bytes, file: int, offset: int) -> Packed:
    """Make the record of a line. Raises DecodeError."""
    found = LINE_START.match(line)
    if found is None or not line.endswith(b"}\n"):
        return pack_event(event_of_line(line), file, offset)
    event_id, gateway, stream, number, ingest_ms, kind, flags, buffer_id, payload = found.groups(b"")
    place = b"%d\0%d\0%d" % (file, offset, found.end() - 1 if payload and flags == NO_FLAGS else 0)
    record = _SEPARATOR.join((gateway, event_id, stream, number, ingest_ms, buffer_id, place, line))
    return Packed(gateway, stream, kind == RAW, ingest_ms, record)


def pack_event(stored: StoredLine, file: int, offset: int) -> Packed:
    """Return the same as `pack` for an event that was read from a table."""
    line, event = event_line(*stored), stored.event
    gateway, stream = (orjson.dumps(text)[1:-1] for text in (stored.gateway_id, event.stream))
    place = b"%d\0%d\x000" % (file, offset)
    numbers = (b"%d" % event.sequence_num, b"%d" % event.ingest_time_ms, stored.buffer_id.encode())
    record = _SEPARATOR.join((gateway, line[13:49], stream, *numbers, place, line))
    return Packed(gateway, stream, event.kind == Kind.RAW, numbers[1], record)


def by_arrival(packed: Packed) -> bytes:
    """Return the record with its arrival in front: over several gateways that is the order that there is."""
    return b"%020d\0%b" % (max(0, int(packed.time)), packed.record)


def without_arrival(record: bytes) -> bytes:
    """Return what `by_arrival` was given."""
    return record[21:]


def lines_of(path: Path, first: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line) of the lines that begin from byte `first` on and before `end`.

    A line that is too long is cut off; `pack` refuses it.
    """
    with path.open("rb") as file:
        if first:
            file.seek(first - 1)
            _skip_line(file.readline(MAX_LINE_BYTES), file)
        offset = file.tell()
        while offset < end and (line := file.readline(MAX_LINE_BYTES)):
            yield offset, line
            _skip_line(line, file)
            offset = offset + len(line) if line.endswith(b"\n") else file.tell()


def _skip_line(begun: bytes, file: object) -> None:
    """Read on to the end of a line of which `begun` is the beginning."""
    while begun and not begun.endswith(b"\n"):
        begun = file.readline(MAX_LINE_BYTES)  # type: ignore[attr-defined]


def reason_of(line: bytes, error: DecodeError) -> str:
    """Return what is wrong with a line that `pack` refused."""
    if len(line) >= MAX_LINE_BYTES:
        return f"a line of more than {MAX_LINE_BYTES:,} bytes"
    if not line.endswith(b"\n"):
        return "the file ends in the middle of a line"
    return str(error)


def line_number(path: Path, offset: int) -> int:
    """Number of the line that begins at a byte, from 1."""
    number, left = 1, offset
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            number += block.count(b"\n")
            left -= len(block)
    return number


def name_of(text: bytes) -> str:
    """The id of a gateway, or a stream, from how it stands in a line."""
    return str(orjson.loads(b'"' + text + b'"'))
