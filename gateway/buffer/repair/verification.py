"""Looks through a buffer in use, a little at a time: checksums of events, pages, indexes.

- Nothing outlives a step, no snapshot and no lock: the write-ahead log can be reset in between.
- An event whose checksum is wrong is that event's damage, and is given to the caller to be marked.
- A page that cannot be read, or an index that disagrees with its table, is damage of the file: DamageError.
  It ends the walk, because only a start can mend the file, and it looks at everything anyway.

A `quick_check` would be one statement over the whole file, and keep the log from shrinking all the while.
"""

from __future__ import annotations

from typing import Any

import apsw

from gateway.buffer.reader import Reader
from gateway.buffer.schema import MODELS, BufferEvent
from gateway.core.errors import DamageError

STEP_EVENTS = 500  # some 5 ms: the other threads hardly notice
_PLAIN_TABLES = tuple(model._meta.table_name for model in MODELS if model is not BufferEvent)

DAMAGES = (apsw.CorruptError, apsw.NotADBError, apsw.IOError, ValueError)
"""Errors raised by reading a damaged page; ValueError where a text column holds other bytes."""


class Verification:
    """A walk over the events that exist when it begins. `done` and `total` count ids, for progress."""

    def __init__(self, reader: Reader) -> None:
        self.unused_codecs = _superseded_codecs(reader)
        """Superseded dictionaries that no event needs, of those that were looked at."""
        self._reader = reader
        self._first: int
        self._last: int
        self._first, self._last = _row(reader, _ID_RANGE)
        self._at = self._first - 1
        self._tables = list(_PLAIN_TABLES)

    @property
    def total(self) -> int:
        return self._last - self._first + 1

    @property
    def done(self) -> int:
        return min(self._at, self._last) - self._first + 1

    @property
    def finished(self) -> bool:
        return self._at >= self._last and not self._tables

    def step(self) -> tuple[int, list[int]]:
        """Look at the next events, or behind the last one at a small table; returns how many events, and the
        ids of those whose checksum is wrong. Raises DamageError."""
        try:
            return self._events() if self._at < self._last else self._table()
        except DAMAGES as exc:
            place = f"behind event {self._at}" if self._at < self._last else "in a small table"
            raise DamageError(f"unreadable {place}: {exc}") from exc

    def _events(self) -> tuple[int, list[int]]:
        reader = self._reader
        with reader.snapshot():
            events = reader.all_after(self._at, STEP_EVENTS)
            end = events.ids[-1] if events.ids else self._last
            differing = _differing_indexes(reader, self._at, end)
        if differing:
            raise DamageError(f"{' and '.join(differing)} differ from the table behind event {self._at}")
        _, wrong = reader.without_corrupt(events)
        self.unused_codecs -= {*events.codecs}
        self._at = end
        return len(events.ids), wrong

    def _table(self) -> tuple[int, list[int]]:
        table = self._tables.pop()
        (found,) = _row(self._reader, f"PRAGMA integrity_check({table})")
        if found != "ok":
            raise DamageError(f"table {table}: {found}")
        return 0, []


def _superseded_codecs(reader: Reader) -> set[int]:
    """The dictionaries that nothing is compressed with now."""
    return {codec for (codec,) in reader.rows(_SUPERSEDED)}


def _differing_indexes(reader: Reader, after_id: int, last_id: int) -> list[str]:
    """The indexes that do not hold, of that range of ids, what the table holds."""
    return [
        index
        for index, where in _INDEXES.items()
        if _row(reader, _OF_TABLE.format(where=where), after_id, last_id)
        != _row(reader, _OF_INDEX.format(index=index, where=where), after_id, last_id)
    ]


def _row(reader: Reader, sql: str, *values: object) -> tuple[Any, ...]:
    (row,) = reader.rows(sql, *values)
    return row


# (1, 0) when there is no event.
_ID_RANGE = """
SELECT coalesce((SELECT min(id) FROM buffer_events), 1), coalesce((SELECT max(id) FROM buffer_events), 0)
"""
_SUPERSEDED = """
SELECT codec FROM dictionaries WHERE codec NOT IN (SELECT max(codec) FROM dictionaries GROUP BY family)
"""
# The same count and sum out of the table and out of an index: where they differ, one of the two is damaged.
_OF_TABLE = "SELECT count(*), total(id) FROM buffer_events NOT INDEXED WHERE id > ? AND id <= ? AND {where}"
_OF_INDEX = (
    "SELECT count(*), total(id) FROM buffer_events INDEXED BY {index} WHERE id > ? AND id <= ? AND {where}"
)
_INDEXES = {
    "buffer_events_unsettled": "status < 2 AND status IN (0, 1) AND priority IN (0, 1, 2, 3)",
    "buffer_events_derived": "kind <> 0",
}
