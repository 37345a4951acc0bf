"""The state of windows that a receiver merges, in a file beside its output.

Invariant: what parts have done to the windows, the results that came of it, and the ids of these parts are
committed together, before any of them reaches the output. After a crash in between the results are written
then, and parts that come again are known.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import apsw

from gateway.buffer.window_states import WindowStates
from gateway.receiver.event_lines import event_line, event_of_line
from gateway.receiver.sinks.sink import OutputError, Received, errors_of

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS window_state (
  "window" TEXT NOT NULL, key BLOB NOT NULL, state BLOB NOT NULL, PRIMARY KEY ("window", key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (line BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS parts (place INTEGER PRIMARY KEY, event_id BLOB NOT NULL UNIQUE);
"""
_KNOWN_PARTS = 100_000
"""Ids of the newest parts: far more than a broker sends again."""


class MergeState:
    """The file at `path`, for one thread at a time. All methods raise OutputError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: apsw.Connection | None = None
        self.windows = WindowStates(lambda: self._open)

    def open(self) -> None:
        """Open the file; it is made where there is none."""
        with self._errors():
            self._connection = connection = apsw.Connection(str(self._path))
            connection.set_busy_timeout(5000)
            connection.execute("PRAGMA journal_mode = wal")
            connection.execute("PRAGMA synchronous = full")
            connection.execute(_SCHEMA)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit together whatever is done inside."""
        with self._errors(), self._open:
            yield

    def knows(self, event_id: bytes) -> bool:
        """Return True for one of the newest parts that were taken."""
        with self._errors():
            return bool(self._open.execute("SELECT 1 FROM parts WHERE event_id = ?", (event_id,)).fetchone())

    def note_parts(self, event_ids: Iterable[bytes]) -> None:
        """Remember parts, and forget the oldest ones."""
        self._open.executemany(
            "INSERT OR IGNORE INTO parts (event_id) VALUES (?)", [(one,) for one in event_ids]
        )
        self._open.execute(
            "DELETE FROM parts WHERE place <= (SELECT max(place) FROM parts) - ?", (_KNOWN_PARTS,)
        )

    def put_results(self, results: Iterable[Received]) -> None:
        """Keep results until the next ones: by then the output has them."""
        self._open.execute("DELETE FROM results")
        self._open.executemany("INSERT INTO results VALUES (?)", [(event_line(*one),) for one in results])

    def results(self) -> list[Received]:
        """Return the results that were put last."""
        with self._errors():
            rows: Any = self._open.execute("SELECT line FROM results ORDER BY rowid").fetchall()
        return [Received(*event_of_line(line)) for (line,) in rows]

    def close(self) -> None:
        """Close the file; without effect when it is not open."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _open(self) -> apsw.Connection:
        if self._connection is None:
            raise OutputError(f"{self._path} is not open")
        return self._connection

    def _errors(self) -> AbstractContextManager[None]:
        return errors_of(apsw.Error, str(self._path))
