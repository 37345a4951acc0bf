"""Rows of new events for INSERT statements: the innermost loop of storing, so it makes few calls per event.

Invariants:
- The columns stand in the order of the table, see `insertion`.
- Each event gets the next number of its stream, in the order in which the events come.
- The checksum is that of `checksum.event_checksum`, which a reader of the row computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from gateway.buffer.checksum import NO_TIME, pack_columns
from gateway.buffer.compression import PayloadCompressor
from gateway.buffer.streams import Streams
from gateway.core.events import Status
from gateway.core.identifiers import EventIds

NewRow = tuple[str, str, int, int, int | None, int, int, int, bytes, bytes | None, bool]
"""The fields of a `NewEvent`, in a plain tuple: there may be tens of thousands in a second."""

_PENDING, _KEPT = int(Status.PENDING), int(Status.KEPT)


def column_values(
    events: Sequence[NewRow], streams: Streams, ids: EventIds, compressor: PayloadCompressor
) -> list[object]:
    """Return the columns of all events, one after the other."""
    topics, families, _, arrivals_ms, _, _, _, _, payloads, _, _ = zip(*events, strict=True)
    packed = compressor.compress_all(families, payloads)
    numbered = streams.next_numbers(topics)
    values: list[object] = []
    for (
        (_, _, event_ms, arrival_ms, device_ms, priority, kind, flags, payload, own_id, kept),
        (stream, number),
        (codec, stored),
        new_id,
    ) in zip(events, numbered, packed, ids.many(arrivals_ms), strict=True):
        if not kind:  # what a device sent
            stream.mark = crc32(payload) << 16 | len(payload) & 0xFFFF  # `payload_mark`
        event_id, stream_id = own_id or new_id, stream.id
        said_ms = NO_TIME if device_ms is None else device_ms
        times = event_ms, arrival_ms, said_ms
        columns = pack_columns(event_id, stream_id, number, *times, priority, kind, flags, codec)
        checksum = crc32(stored, crc32(columns))
        status = _KEPT if kept else _PENDING
        # fmt: off
        values += (event_id, stream_id, number, event_ms, arrival_ms, device_ms,
                   status, priority, kind, flags, 0, stored, codec, checksum)
        # fmt: on
    return values
