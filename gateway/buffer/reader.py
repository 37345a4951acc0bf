"""Read-only views of the buffer, each on a snapshot of the last commit. One Reader per thread.

A SELECT that steps row by row gives up the GIL at every row, and under load gets it back a switch interval
later: 2000 rows then take 400 ms instead of 3. So the rows of a batch come back as one row of columns.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import apsw
import orjson

from gateway.buffer.checksum import event_checksum, event_checksums
from gateway.buffer.claims import first_since
from gateway.buffer.compression import PayloadDecompressor
from gateway.buffer.confirmed_runs import CONFIRMED
from gateway.buffer.connection import open_reader
from gateway.buffer.event_filter import EventFilter
from gateway.buffer.identity import BUFFER_ID
from gateway.buffer.newest_results import Row, newest_of
from gateway.buffer.repair.damage import note_if_damaged
from gateway.buffer.stored_events import BATCH_BYTES, StoredEvents, among, fitting
from gateway.core.events import Status
from gateway.core.identifiers import split_ids
from gateway.wire.frame import EventColumns

# A damaged row may hold a BLOB in any column, which JSON refuses: as a number it has a wrong checksum.
_BATCH = """
SELECT json_group_array(id), group_concat(substr(hex(event_id) || '{zeros}', 1, 32), ''),
       json_group_array(CAST(stream AS INTEGER)), json_group_array(CAST(sequence_num AS INTEGER)),
       json_group_array(CAST(event_time AS INTEGER)), json_group_array(CAST(ingest_time AS INTEGER)),
       json_group_array(CAST(device_time AS INTEGER)), json_group_array(CAST(priority AS INTEGER)),
       json_group_array(CAST(kind AS INTEGER)), json_group_array(CAST(flags AS INTEGER)),
       json_group_array(CAST(codec AS INTEGER)), json_group_array(CAST(checksum AS INTEGER)),
       json_group_array(coalesce(octet_length(payload), 0)), group_concat(hex(payload), '')
FROM (SELECT * FROM buffer_events WHERE {where} ORDER BY id)
"""
_SIZES = """
SELECT json_group_array(id), json_group_array(size)
FROM (SELECT id, octet_length(payload) AS size FROM buffer_events WHERE id > ? AND {kinds}
      ORDER BY id LIMIT ?)
"""
_RAW, _DERIVED, _ANY = "kind = 0", "kind <> 0", "true"

ReadError = apsw.Error
"""Raised by a Reader when the file cannot be read."""


class Reader:
    """A read-only connection that remembers the stream names and dictionaries it has met.

    Damage that it meets is noted beside the buffer, see `repair.damage`.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._connection = open_reader(path)
        except Exception as exc:
            note_if_damaged(path, exc)
            raise
        self._connection.cursor_factory = partial(_WatchfulCursor, path)
        self._names: dict[int, str] = {}
        self._buffer_id = ""
        self._decompressor = PayloadDecompressor()

    def close(self) -> None:
        self._connection.close()

    @property
    def buffer_id(self) -> str:
        """The buffer's own id; empty for a file that was not opened since buffers have one."""
        if not self._buffer_id:
            row = self._connection.execute("SELECT value FROM meta WHERE name = ?", (BUFFER_ID,)).fetchone()
            self._buffer_id = "" if row is None else str(row[0])
        return self._buffer_id

    def marks(self, start: str) -> list[str]:
        """The names in `meta` that begin with `start`, without it."""
        found = self._connection.execute(
            "SELECT substr(name, length(?) + 1) FROM meta WHERE substr(name, 1, length(?)) = ?", (start,) * 3
        )
        return [str(name) for (name,) in found]

    def by_ids(self, ids: Sequence[int]) -> StoredEvents:
        """The events of `ids`, in the order of their ids; missing ones are left out."""
        return self._batch(*among(ids))

    def derived_after(self, after_id: int, limit: int) -> StoredEvents:
        """Aggregates, alerts and reports behind `after_id`, oldest first: up to `limit` or BATCH_BYTES."""
        return self._stretch(_DERIVED, after_id, self._stretch_end(_DERIVED, after_id, limit))

    def derived_before(self, count: int) -> int:
        """The id behind which there are up to `count` aggregates, alerts and reports; 0: all of them."""
        row = self._connection.execute(
            f"SELECT id FROM buffer_events WHERE {_DERIVED} ORDER BY id DESC LIMIT 1 OFFSET ?",  # noqa: S608
            (count,),
        ).fetchone()
        return 0 if row is None else int(row[0])

    def first_since(self, time_ms: int) -> int:
        """The id of the first event that arrived at `time_ms` or later."""
        return first_since(self._connection, time_ms)

    def raw_after(self, after_id: int, chunk: int = 2000, to_id: int | None = None) -> Iterator[StoredEvents]:
        """Yield all raw events behind `after_id`, up to `to_id` if given, oldest first.

        They come in chunks of up to `chunk` or BATCH_BYTES.
        """
        while (last_id := self._stretch_end(_RAW, after_id, chunk)) > after_id:
            yield self._stretch(_RAW, after_id, last_id if to_id is None else min(last_id, to_id))
            if to_id is not None and last_id >= to_id:
                return
            after_id = last_id

    def all_after(self, after_id: int, limit: int) -> StoredEvents:
        """Events of every kind behind `after_id`, oldest first: up to `limit` or BATCH_BYTES."""
        return self._stretch(_ANY, after_id, self._stretch_end(_ANY, after_id, limit))

    def chosen(self, choice: EventFilter, after_id: int = 0, limit: int = 1000) -> list[tuple[int, int, int]]:
        """(id, status, retry count) of the next chosen events behind `after_id`, oldest first."""
        where, values = choice.where()
        row = self._row(
            "SELECT json_group_array(id), json_group_array(status), json_group_array(retry_count) FROM"  # noqa: S608
            f" (SELECT * FROM buffer_events WHERE id > ? AND {where} ORDER BY id LIMIT ?)",
            (after_id, *values, limit),
        )
        return list(zip(*map(orjson.loads, row), strict=True))

    def count(self, choice: EventFilter, statuses: Sequence[Status]) -> int:
        """Return the number of selected events in any of those statuses."""
        where, values = choice.where()
        ((count,),) = self._connection.execute(
            "SELECT count(*) FROM buffer_events"  # noqa: S608 - constants only
            f" WHERE status IN (SELECT value FROM json_each(?)) AND {where}",
            (orjson.dumps([int(status) for status in statuses]).decode(), *values),
        )
        return int(count)

    def backlog(self, shard: int, shards: int, to_id: int | None = None) -> tuple[int, str]:
        """`to_id`, or the id of the newest event; and the numbers of the streams of a shard that are not all
        acknowledged up to there, as a JSON array."""
        with self.snapshot():
            if to_id is None:
                sequence = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'buffer_events'"
                ((to_id,),) = self._connection.execute(sequence)
            ((streams,),) = self._connection.execute(
                "SELECT json_group_array(DISTINCT stream) FROM buffer_events"
                " WHERE status IN (0, 1) AND status < 2 AND id <= ? AND stream % ? = ?",
                (to_id, shards, shard),
            )
        return to_id, streams

    def refusals(self, ids: Sequence[int]) -> dict[int, str]:
        """Return the reason of the cloud's last refusal for each refused event in `ids`. Older files hold no
        reasons."""
        ((kept,),) = self._connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'refusals'")
        if not kept:
            return {}
        row = self._row(
            "SELECT json_group_object(id, reason) FROM refusals WHERE id IN (SELECT value FROM json_each(?))",
            (orjson.dumps(list(ids)).decode(),),
        )
        return {int(event): reason for event, reason in orjson.loads(row[0]).items()}

    def columns(self, events: StoredEvents) -> EventColumns:
        """The events as the codec and the consumers know them. Raises DecodeError."""
        return EventColumns(
            events.event_ids,
            self.names(events.stream_ids),
            events.sequence_nums,
            events.event_times_ms,
            events.ingest_times_ms,
            events.device_times_ms,
            events.priorities,
            events.kinds,
            events.flags,
            self.payloads(events),
        )

    def without_corrupt(self, events: StoredEvents) -> tuple[StoredEvents, list[int]]:
        """The events that are as they were appended, and the ids of the others.

        An event whose dictionary is lost counts as corrupt too: `payloads` can read all that remain.
        """
        self._meet(events.codecs)
        event_ids = split_ids(events.event_ids)
        columns = (event_ids, events.stream_ids, *events[3:10], events.codecs, events.stored)
        actual = _checksums(columns)
        known = [*map(self._decompressor.knows, events.codecs)]
        if actual == events.checksums and all(known):
            return events, []
        good = [
            at
            for at, found in enumerate(zip(actual, known, strict=True))
            if found == (events.checksums[at], True)
        ]
        kept = events.pick(good)
        return kept, sorted({*events.ids} - {*kept.ids})

    def payloads(self, events: StoredEvents) -> list[bytes]:
        """The payloads as they were received. Raises DecodeError when one does not decompress."""
        self._meet(events.codecs)
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

    def streams_after(self, name: str, limit: int) -> list[tuple[str, int]]:
        """(topic, last sequence number as of the checkpoint) of the next `limit` streams by name."""
        rows = self._connection.execute(
            "SELECT name, last_sequence FROM streams WHERE name > ? ORDER BY name LIMIT ?", (name, limit)
        )
        return [(topic, last) for topic, last in rows]

    def newest_of(self, streams: Sequence[int]) -> list[Row]:
        """The newest windows that were published on these streams of aggregates."""
        return newest_of(self._connection, streams)

    def stream_ids(self, names: Sequence[str]) -> dict[str, int]:
        """The numbers of those streams that there are, by name."""
        rows = self._connection.execute(
            "SELECT name, id FROM streams WHERE name IN (SELECT value FROM json_each(?))",
            (orjson.dumps([*names]).decode(),),
        )
        return dict(rows)

    def count_unconfirmed(self) -> int:
        """Return the number of SYNCED events that no receiver has confirmed: all of them in a buffer that a
        version without confirmations has written."""
        table = "SELECT 1 FROM sqlite_master WHERE name = 'confirmed_runs'"
        known = CONFIRMED if self._connection.execute(table).fetchone() else "FALSE"
        sql = f"SELECT count(*) FROM buffer_events WHERE status = ? AND NOT {known}"  # noqa: S608 - constant
        (row,) = self._connection.execute(sql, (int(Status.SYNCED),))
        return int(row[0])

    def id_range(self) -> tuple[int, int]:
        """The lowest and the highest id in the buffer; (1, 0) when it is empty."""
        (row,) = self._connection.execute("SELECT min(id), max(id) FROM buffer_events")
        return (1, 0) if row[0] is None else (int(row[0]), int(row[1]))

    def newest_id(self) -> int:
        """The id of the newest event that was ever stored."""
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'buffer_events'")
        return int(next(iter(row), (0,))[0])

    def arrays(self, sql: str, *values: object) -> list[list[Any]]:
        """The JSON arrays that a query gives in its one row."""
        return list(map(orjson.loads, self._row(sql, values)))

    def counters(self) -> dict[tuple[str, str], int]:
        """Return every counter at the last commit, by (name, label)."""
        rows = self._connection.execute("SELECT name, label, value FROM counters")
        return {(name, label): value for name, label, value in rows}

    def count_undated(self) -> int:
        """Return the number of messages that wait until the time is known; 0 in a file of an earlier
        version."""
        there = self._connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'undated'").fetchone()
        return int(self._row("SELECT count(*) FROM undated")[0]) if there else 0

    def count_by_status(self) -> dict[int, int]:
        """Count the rows of each status one by one: slow on a large buffer."""
        return dict(self._connection.execute("SELECT status, count(*) FROM buffer_events GROUP BY status"))

    def rows(self, sql: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, one by one: for a process that has no busy threads beside it."""
        return iter(self._connection.execute(sql, values))

    def has_table(self, name: str) -> bool:
        return (
            self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone()
            is not None
        )

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Hold one snapshot: everything read inside sees the same commit. Keep it short, because the WAL
        grows."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("COMMIT")

    def _meet(self, codecs: Sequence[int]) -> None:
        """Load the dictionaries if one of `codecs` is new."""
        if all(map(self._decompressor.knows, {*codecs})):
            return
        rows = self._connection.execute("SELECT codec, content, checksum FROM dictionaries")
        for codec, content, checksum in rows:
            if crc32(content) == checksum:
                self._decompressor.install(codec, content)

    def _row(self, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
        """Return the row of a statement that always has one."""
        return next(self._connection.execute(sql, tuple(values)))

    def _stretch_end(self, kinds: str, after_id: int, limit: int) -> int:
        """The last id of the next up to `limit` events or BATCH_BYTES; `after_id` when there are none."""
        row = self._row(_SIZES.format(kinds=kinds), (after_id, limit))
        ids, sizes = orjson.loads(row[0]), orjson.loads(row[1])
        return int(ids[fitting(sizes, BATCH_BYTES) - 1]) if ids else after_id

    def _stretch(self, kinds: str, after_id: int, last_id: int) -> StoredEvents:
        return self._batch(f"id > ? AND id <= ? AND {kinds}", after_id, last_id)

    def _batch(self, where: str, *values: object) -> StoredEvents:
        row = self._row(_BATCH.format(where=where, zeros="0" * 32), values)
        numbers = [orjson.loads(row[position]) for position in (0, *range(2, 13))]
        *columns, lengths = numbers
        packed = bytes.fromhex(row[13] or "")
        ends = accumulate(lengths, initial=0)
        stored = [packed[start:end] for start, end in pairwise(ends)]
        return StoredEvents(columns[0], bytes.fromhex(row[1] or ""), *columns[1:], stored)  # type: ignore[call-arg]


class _WatchfulCursor(apsw.Cursor):
    """A cursor of a Reader, which notes that the file is damaged."""

    def __init__(self, path: Path, connection: apsw.Connection) -> None:
        super().__init__(connection)
        self._path = path

    def execute(self, *arguments: Any, **options: Any) -> apsw.Cursor:
        try:
            return super().execute(*arguments, **options)
        except apsw.Error as exc:
            note_if_damaged(self._path, exc)
            raise

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except apsw.Error as exc:
            note_if_damaged(self._path, exc)
            raise


def _checksums(columns: Sequence[Any]) -> list[int]:
    """The checksums that rows should have, -1 where a column holds what was never appended."""
    try:
        return event_checksums(*columns)
    except struct.error:
        return [_checksum(row) for row in zip(*columns, strict=True)]


def _checksum(row: Sequence[Any]) -> int:
    try:
        return event_checksum(*row)
    except struct.error:
        return -1


_CACHED_NAMES = 100_000
