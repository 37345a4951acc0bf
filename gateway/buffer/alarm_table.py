"""The alarms and their states: rows of one table, all of them in memory too.

Changed by the writer's thread, inside a transaction; any thread may read what is committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import apsw
import orjson

MAX_ENDED = 10_000
"""Alarms that are over and still shown; beyond it the one that ended first is forgotten."""

AlarmName = tuple[str, str]
"""Window and key."""

_COLUMNS = '"window", key, state, priority, since_ms, changed_ms, details'


class AlarmRow(NamedTuple):
    """An alarm. `state` is one of `alarms.states`; `since_ms` is the beginning of what is wrong, or was;
    `details` are plain JSON values."""

    window: str
    key: str
    state: str
    priority: int
    since_ms: int
    changed_ms: int
    details: Mapping[str, Any]

    @property
    def name(self) -> AlarmName:
        return self.window, self.key


class AlarmTable:
    """The table `alarms`."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._committed: dict[AlarmName, AlarmRow] = {}
        self._moved: dict[AlarmName, AlarmRow | None] = {}

    def all(self) -> list[AlarmRow]:
        """Return every alarm at the last commit. Any thread may call this."""
        return list(self._committed.values())

    # --- inside a transaction ---

    def get(self, name: AlarmName) -> AlarmRow | None:
        """Return an alarm, with the changes of this transaction."""
        return self._moved[name] if name in self._moved else self._committed.get(name)

    def current(self) -> list[AlarmRow]:
        """Return every alarm, with the changes of this transaction."""
        return [row for row in (self._committed | self._moved).values() if row is not None]

    def put(self, row: AlarmRow) -> None:
        self._moved[row.name] = row

    def remove(self, name: AlarmName) -> None:
        self._moved[name] = None

    def reload(self) -> None:
        """Start again from what is committed."""
        self._moved.clear()
        rows = self._connection.execute(f"SELECT {_COLUMNS} FROM alarms")  # noqa: S608 - a constant
        found = (AlarmRow._make((*values, orjson.loads(details))) for *values, details in rows)
        self._committed = {row.name: row for row in found}

    def save(self) -> None:
        """Write what has changed, at the end of the transaction."""
        if not self._moved:
            return
        kept = [(*row[:-1], orjson.dumps(row.details).decode()) for row in self._moved.values() if row]
        gone = [name for name, row in self._moved.items() if row is None]
        self._connection.executemany("REPLACE INTO alarms VALUES (?, ?, ?, ?, ?, ?, ?)", kept)
        self._connection.executemany('DELETE FROM alarms WHERE "window" = ? AND key = ?', gone)

    def commit(self) -> None:
        """Mark the saved changes as committed."""
        for name, row in self._moved.items():
            if row is None:
                self._committed.pop(name, None)
            else:
                self._committed[name] = row
        self._moved.clear()
