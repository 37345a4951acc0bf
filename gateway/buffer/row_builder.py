"""Rows of new events for INSERT statements: built by columns, so that few calls are made for each event.

Invariants:
- The columns stand in the order of the table, see `insertion`.
- Each event gets the next number of its stream, in the order in which the events come.
- The checksum is that of `checksum.event_checksums`, which a reader of the rows computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

from gateway.buffer.checksum import event_checksums
from gateway.buffer.compression import PayloadCompressor
from gateway.buffer.streams import Streams
from gateway.core.events import Kind, Status
from gateway.core.identifiers import EventIds

NewRow = tuple[str, str, int, int, int | None, int, int, int, bytes, bytes | None, bool]
"""The fields of a `NewEvent`, in a plain tuple: there may be tens of thousands in a second."""

_PENDING, _KEPT = int(Status.PENDING), int(Status.KEPT)
_RAW = int(Kind.RAW)
_WIDTH = 14


def column_values(
    events: Sequence[NewRow], streams: Streams, ids: EventIds, compressor: PayloadCompressor
) -> list[object]:
    """Return the columns of all events, one event after the other."""
    columns: tuple[Any, ...] = tuple(zip(*events, strict=True))
    topics, families, event_ms, arrival_ms, device_ms, *facts, payloads, own_ids, kept = columns
    codecs, stored = zip(*compressor.compress_all(families, payloads), strict=True)
    positions, numbers = streams.next_numbers(topics)
    for position, kind, payload in zip(positions, facts[1], payloads, strict=True):
        if kind == _RAW:
            position.mark = crc32(payload) << 16 | len(payload) & 0xFFFF  # `payload_mark`
    event_ids = [own or new for own, new in zip(own_ids, ids.many(arrival_ms), strict=True)]
    stream_ids = [position.id for position in positions]
    times = (event_ms, arrival_ms, device_ms)
    unchanging: tuple[Any, ...] = (event_ids, stream_ids, numbers, *times, *facts, codecs, stored)
    checksums = event_checksums(*unchanging)
    statuses = [_KEPT if keeps else _PENDING for keeps in kept]
    retries = [0] * len(events)
    columns = (event_ids, stream_ids, numbers, *times, statuses, *facts, retries, stored, codecs, checksums)
    values: list[object] = [None] * (_WIDTH * len(events))
    for place, column in enumerate(columns):
        values[place::_WIDTH] = column
    return values
