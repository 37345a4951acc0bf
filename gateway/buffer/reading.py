"""Read-only views of the buffer, each on a snapshot of the last commit. One Reader per thread.

A SELECT that steps row by row gives up the GIL at every row, and under load gets it back a switch interval
later: 2000 rows then take 400 ms instead of 3. So the rows of a batch come back as one row of columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import orjson

from gateway.buffer.checksum import event_checksum
from gateway.buffer.compression import PayloadDecompressor
from gateway.buffer.schema import open_reader

_BATCH = """
SELECT json_group_array(id), group_concat(hex(event_id), ''), json_group_array(stream),
       json_group_array(sequence_num), json_group_array(event_time), json_group_array(ingest_time),
       json_group_array(device_time), json_group_array(priority), json_group_array(kind),
       json_group_array(flags), json_group_array(codec), json_group_array(checksum),
       json_group_array(length(payload)), group_concat(hex(payload), '')
FROM (SELECT * FROM buffer_events {where})
"""
_BY_IDS = _BATCH.format(where="WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id")
_DERIVED = _BATCH.format(where="WHERE id > ? AND kind <> 0 ORDER BY id LIMIT ?")
_RAW = _BATCH.format(where="WHERE id > ? AND kind = 0 ORDER BY id LIMIT ?")


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
        """Only the events at those positions."""
        event_ids = b"".join(self.event_ids[16 * at : 16 * at + 16] for at in positions)
        ids, _, *columns = ([column[at] for at in positions] for column in self)
        return StoredEvents(ids, event_ids, *columns)  # type: ignore[arg-type]


class Reader:
    """One read-only connection, with the stream names and dictionaries that it has met."""

    def __init__(self, path: Path) -> None:
        self._database = open_reader(path)
        self._connection = self._database.connection()
        self._names: dict[int, str] = {}
        self._decompressor = PayloadDecompressor()

    def close(self) -> None:
        self._database.close()

    def by_ids(self, ids: Sequence[int]) -> StoredEvents:
        """The events of `ids`, in the order of their ids; missing ones are left out."""
        return self._batch(_BY_IDS, (orjson.dumps(list(ids)).decode(),))

    def derived_after(self, after_id: int, limit: int) -> StoredEvents:
        """Aggregates, alerts and reports behind `after_id`, oldest first."""
        return self._batch(_DERIVED, (after_id, limit))

    def raw_after(self, after_id: int, chunk: int = 2000) -> Iterator[StoredEvents]:
        """All raw events behind `after_id`, oldest first, in chunks."""
        while (events := self._batch(_RAW, (after_id, chunk))).ids:
            yield events
            after_id = events.ids[-1]

    def without_corrupt(self, events: StoredEvents) -> tuple[StoredEvents, list[int]]:
        """The events whose checksum is right, and the ids of the others."""
        actual = [
            event_checksum(events.event_ids[16 * at : 16 * at + 16], stream, number, time_ms, kind, stored)
            for at, (stream, number, time_ms, kind, stored) in enumerate(
                zip(
                    events.stream_ids,
                    events.sequence_nums,
                    events.event_times_ms,
                    events.kinds,
                    events.stored,
                    strict=True,
                )
            )
        ]
        if actual == events.checksums:
            return events, []
        good = [at for at, checksum in enumerate(events.checksums) if checksum == actual[at]]
        corrupt = [events.ids[at] for at in {*range(len(actual))}.difference(good)]
        return events.pick(good), corrupt

    def payloads(self, events: StoredEvents) -> list[bytes]:
        """The payloads as they were received. Raises DecodeError when one does not decompress."""
        for codec in {*events.codecs}:
            if not self._decompressor.knows(codec):
                self._load_dictionaries()
                break
        return self._decompressor.decompress_all(events.codecs, events.stored)

    def names(self, stream_ids: Sequence[int]) -> list[str]:
        """The topics of those streams."""
        unknown = {*stream_ids} - self._names.keys()
        if unknown:
            if len(self._names) > _CACHED_NAMES:
                self._names.clear()
                unknown = {*stream_ids}
            rows = self._connection.execute(
                "SELECT id, name FROM streams WHERE id IN (SELECT value FROM json_each(?))",
                (orjson.dumps([*unknown]).decode(),),
            )
            self._names.update(rows)
        return [self._names[stream] for stream in stream_ids]

    def counters(self) -> dict[tuple[str, str], int]:
        """Every counter of the last commit, by (name, label)."""
        rows = self._connection.execute("SELECT name, label, value FROM counters")
        return {(name, label): value for name, label, value in rows}

    def count_by_status(self) -> dict[int, int]:
        """How many rows have which status, counted from the rows themselves: slow on a large buffer."""
        return dict(self._connection.execute("SELECT status, count(*) FROM buffer_events GROUP BY status"))

    def count_streams(self) -> tuple[int, int]:
        """How many streams have events here, and how many numbers are missing inside of them."""
        row = self._connection.execute(
            "SELECT count(*), coalesce(sum(last - first + 1 - n), 0) FROM ("
            " SELECT min(sequence_num) AS first, max(sequence_num) AS last,"
            " count(DISTINCT sequence_num) AS n FROM buffer_events GROUP BY stream)"
        ).fetchone()
        return int(row[0]), int(row[1])

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside sees one and the same commit. Keep it short: the WAL grows meanwhile."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("COMMIT")

    def _load_dictionaries(self) -> None:
        for codec, content in self._connection.execute("SELECT codec, content FROM dictionaries"):
            self._decompressor.install(codec, content)

    def _batch(self, sql: str, values: tuple[object, ...]) -> StoredEvents:
        row = self._connection.execute(sql, values).fetchone()
        numbers = [orjson.loads(row[position]) for position in (0, *range(2, 13))]
        *columns, lengths = numbers
        packed = bytes.fromhex(row[13] or "")
        ends = accumulate(lengths, initial=0)
        stored = [packed[start:end] for start, end in pairwise(ends)]
        return StoredEvents(columns[0], bytes.fromhex(row[1] or ""), *columns[1:], stored)  # type: ignore[call-arg]


_CACHED_NAMES = 100_000
