"""Stream numbers and their dense sequence numbers, cached for the writer's thread."""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

import orjson

from gateway.buffer.orm import APSWDatabase, fn
from gateway.buffer.schema import BufferEvent, Stream

CACHED_STREAMS = 100_000  # about 25 MB; a million topics must not fill the memory
CACHED_CHARS = 8 * 1024 * 1024  # nor must long ones


def payload_mark(payload: bytes) -> int:
    """48 bits that tell apart the payloads of one topic."""
    return crc32(payload) << 16 | len(payload) & 0xFFFF


class StreamPosition:
    """The position of a stream. `last_sequence` is the number of its newest event, `mark` the fingerprint of
    the newest payload from a device."""

    __slots__ = ("dirty", "id", "last_sequence", "mark")

    def __init__(self, id_: int, last_sequence: int, mark: int | None = None) -> None:
        self.id = id_
        self.last_sequence = last_sequence
        self.mark = mark
        self.dirty = False


class Streams:
    """All streams by name. Sequence numbers reach the table with a checkpoint, not with every event.

    What happened after the last checkpoint is counted again from the events themselves (`recount`), and
    retention never evicts past a checkpoint, so a number is never given twice.
    """

    def __init__(self, database: APSWDatabase) -> None:
        self._database = database
        self._by_name: dict[str, StreamPosition] = {}
        self._dirty: list[StreamPosition] = []
        self._skipped = 0
        self.floor = 0
        """The numbers up to this one may have been given in streams whose names are lost."""
        self._cached_chars = 0

    def position(self, name: str) -> StreamPosition:
        """The stream of that name, new ones with a number of their own. Inside a transaction only."""
        known = self._by_name.get(name)
        if known is None:
            known = self._by_name[name] = self._find(name) or self._create(name)
            self._cached_chars += len(name)
        return known

    def _find(self, name: str) -> StreamPosition | None:
        row = self._database.execute_sql(_FIND, (name,)).fetchone()
        return None if row is None else StreamPosition(*row)

    def _create(self, name: str) -> StreamPosition:
        self._database.execute_sql(_CREATE, (name, self.floor))
        created = self._database.connection().last_insert_rowid()
        if self.floor:
            self._note_skipped("SELECT id, last_sequence, 1, 1, 'damage' FROM streams WHERE id = ?", created)
            self._skipped += self.floor
        return StreamPosition(created, self.floor)

    def _note_skipped(self, runs: str, value: int) -> None:
        self._database.execute_sql(
            f"INSERT INTO loss_runs (stream, last_sequence, first_sequence, step, reason) {runs}", (value,)
        )

    def known(self, name: str) -> StreamPosition | None:
        """The stream of that name, if there is one."""
        return self._by_name.get(name) or self._find(name)

    def mark(self, name: str) -> int | None:
        """The fingerprint of the newest payload on that stream; None where none is known."""
        known = self.known(name)
        return None if known is None else known.mark

    def note_mark(self, name: str, mark: int) -> None:
        """Make good what the last checkpoint did not see yet. The stream must be known."""
        position = self.position(name)
        position.mark = mark
        self._touch(position)

    def _touch(self, position: StreamPosition) -> None:
        if not position.dirty:
            position.dirty = True
            self._dirty.append(position)

    def next_numbers(self, names: Iterable[str]) -> tuple[list[StreamPosition], list[int]]:
        """Return for each name its stream, and that stream's next number. Inside a transaction only."""
        positions: list[StreamPosition] = []
        numbers: list[int] = []
        known = self._by_name
        for name in names:
            position = known.get(name) or self.position(name)
            if not position.dirty:
                self._touch(position)
            position.last_sequence = number = position.last_sequence + 1
            positions.append(position)
            numbers.append(number)
        return positions, numbers

    def save(self) -> None:
        """Write the positions that changed since the last call. Inside a transaction only."""
        changed = [[p.id, p.last_sequence] for p in self._dirty]
        marks = [[p.id, p.mark] for p in self._dirty if p.mark is not None]
        if marks:
            self._database.execute_sql(_SAVE_MARKS, (orjson.dumps(marks).decode(),))
        if changed:
            self._database.execute_sql(
                "UPDATE streams SET last_sequence = changed.last FROM ("
                " SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS last"
                " FROM json_each(?)) AS changed WHERE streams.id = changed.id",
                (orjson.dumps(changed).decode(),),
            )
        for position in self._dirty:
            position.dirty = False
        self._dirty = []
        if len(self._by_name) > CACHED_STREAMS or self._cached_chars > CACHED_CHARS:
            self._forget()  # all are saved; those in use come back one by one

    def _forget(self) -> None:
        self._by_name.clear()
        self._cached_chars = 0

    def skip(self, last_sequences: str) -> int:
        """Go on behind the numbers of a JSON array of [topic, number], and note what is left out as lost;
        returns how many that is."""
        total = "SELECT coalesce(sum(last_sequence), 0) FROM streams"
        self.save()
        self._forget()
        ((before,),) = self._database.execute_sql(total)
        for statement in _SKIP:
            self._database.execute_sql(statement, (last_sequences,))
        ((after,),) = self._database.execute_sql(total)
        return int(after - before)

    def skip_all(self, numbers: int) -> None:
        """Leave out so many numbers in each stream, now and in those that are met later."""
        self.save()
        self._forget()
        self.floor += numbers
        self._database.execute_sql("UPDATE streams SET last_sequence = last_sequence + ?", (numbers,))
        self._note_skipped(
            "SELECT id, last_sequence, last_sequence - ? + 1, 1, 'damage' FROM streams", numbers
        )
        ((streams,),) = self._database.execute_sql("SELECT count(*) FROM streams")
        self._skipped += numbers * streams

    def take_skipped(self) -> int:
        """Return how many numbers were left out in this transaction, and reset the count."""
        skipped, self._skipped = self._skipped, 0
        return skipped

    def recount(self, after_id: int, floor: int = 0) -> None:
        """Forget the cache and bring the table up to date with the events after `after_id`."""
        self._forget()
        self._dirty = []
        self._skipped, self.floor = 0, floor
        newest = (
            BufferEvent.select(BufferEvent.stream, fn.MAX(BufferEvent.sequence_num))
            .where(BufferEvent.id > after_id)
            .group_by(BufferEvent.stream)
        )
        rows: Iterable[tuple[int, int]] = newest.tuples().bind(self._database)  # type: ignore[assignment]
        for stream, last_sequence in rows:
            # Never back: after a salvage the table is ahead of the events that are left.
            ahead = Stream.update(last_sequence=fn.MAX(Stream.last_sequence, last_sequence))
            ahead.where(Stream.id == stream).bind(self._database).execute()


# Statements as text: a flood of new topics would have each of them composed anew, at half a millisecond.
_FIND = (
    "SELECT id, last_sequence, mark FROM streams LEFT JOIN last_payloads ON last_payloads.stream = streams.id"
    " WHERE name = ?"
)
_SAVE_MARKS = (
    "REPLACE INTO last_payloads (stream, mark)"
    " SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)"
)
_CREATE = "INSERT INTO streams (name, last_sequence) VALUES (?, ?)"

_FURTHER = """
(SELECT json_extract(value, '$[0]') AS name, json_extract(value, '$[1]') AS last FROM json_each(?)) AS further
"""
_SKIP = (
    f"INSERT OR IGNORE INTO streams (name, last_sequence) SELECT name, 0 FROM {_FURTHER}",  # noqa: S608
    "INSERT INTO loss_runs (stream, last_sequence, first_sequence, step, reason)"  # noqa: S608 - constants
    f" SELECT id, last, last_sequence + 1, 1, 'restored' FROM {_FURTHER} JOIN streams USING (name)"
    " WHERE last > last_sequence",
    f"UPDATE streams SET last_sequence = max(last_sequence, last) FROM {_FURTHER}"  # noqa: S608 - constants
    " WHERE streams.name = further.name",
)
