"""Some events of the buffer, column by column, as a reader finds them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import orjson

from gateway.buffer.compression import raw_size

# What one batch may hold, or one event alone if it is larger: a value of SQLite ends at 1 GB, and the memory
# of an edge device long before that.
BATCH_BYTES = 8 * 1024 * 1024


class StoredEvents(NamedTuple):
    """Some events, column by column. `payloads` are as stored: see `Reader.payloads`."""

    ids: list[int]
    event_ids: bytes  # 16 bytes each
    stream_ids: list[int]
    sequence_nums: list[int]
    event_times_ms: list[int]
    ingest_times_ms: list[int]
    device_times_ms: list[int | None]
    priorities: list[int]
    kinds: list[int]
    flags: list[int]
    codecs: list[int]
    checksums: list[int]
    stored: list[bytes]

    def pick(self, positions: Sequence[int]) -> StoredEvents:
        """Return only the events at those positions."""
        event_ids = b"".join(self.event_ids[16 * at : 16 * at + 16] for at in positions)
        ids, _, *columns = ([column[at] for at in positions] for column in self)
        return StoredEvents(ids, event_ids, *columns)  # type: ignore[arg-type]

    def in_order_of(self, ids: Sequence[int]) -> StoredEvents:
        """The same events in the order of `ids`."""
        if all(first < second for first, second in pairwise(ids)):
            return self
        places = {buffer_id: at for at, buffer_id in enumerate(self.ids)}
        return self.pick([places[buffer_id] for buffer_id in ids if buffer_id in places])

    def part(self, start: int, end: int) -> StoredEvents:
        """The events from `start` up to, not including, `end`."""
        ids, _, *columns = (column[start:end] for column in self)
        return StoredEvents(ids, self.event_ids[16 * start : 16 * end], *columns)  # type: ignore[arg-type]

    def fitting(self, start: int, end: int, limit_bytes: int) -> int:
        """Return the end of the stretch from `start`, at most up to `end`, whose payloads have at most
        `limit_bytes` together once they are decompressed; at least one event."""
        sizes = list(map(raw_size, self.codecs[start:end], self.stored[start:end]))
        return start + fitting(sizes, limit_bytes)

    def positions_of(self, stream_id: int, priority: int) -> set[int]:
        """Return the positions of one stream's events of one priority."""
        pairs = enumerate(zip(self.stream_ids, self.priorities, strict=True))
        return {at for at, pair in pairs if pair == (stream_id, priority)}


def among(ids: Sequence[int]) -> tuple[str, *tuple[int | str, ...]]:
    """The condition that an event has one of `ids`, and its values. A range costs a fifth less."""
    if ids and [*ids] == [*range(ids[0], ids[0] + len(ids))]:
        return "id BETWEEN ? AND ?", ids[0], ids[-1]
    return "id IN (SELECT value FROM json_each(?))", orjson.dumps([*ids]).decode()


def fitting(sizes_bytes: Sequence[int], limit_bytes: int) -> int:
    """Return how many of the first `sizes_bytes` fit into `limit_bytes` together; at least one, if there is
    one."""
    return max(1, bisect_left([*accumulate(sizes_bytes)], limit_bytes + 1)) if sizes_bytes else 0
