"""The window states of the last checkpoint, as rows of one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import apsw


class WindowStates:
    """The table `window_state`. For the writer's thread.

    It asks for the connection each time: the windows hold on to `state` for longer than a connection lives.
    """

    def __init__(self, connection: Callable[[], apsw.Connection]) -> None:
        self._connection = connection

    def save(self, changes: Iterable[tuple[str, bytes, bytes | None]]) -> None:
        """Store changed (window, key, state) rows; a state of None removes its row."""
        kept, gone = [], []
        for window, key, state in changes:
            if state is None:
                gone.append((window, key))
            else:
                kept.append((window, key, state))
        connection = self._connection()
        connection.executemany("REPLACE INTO window_state VALUES (?, ?, ?)", kept)
        connection.executemany('DELETE FROM window_state WHERE "window" = ? AND key = ?', gone)

    def all(self) -> Iterator[tuple[str, bytes, bytes]]:
        """The (window, key, state) rows in the order of window and key, one by one: there may be millions."""
        yield from self._connection().execute(
            'SELECT "window", key, state FROM window_state ORDER BY "window", key'
        )

    def state(self, window: str, key: bytes) -> bytes | None:
        """Return one row. Called for keys that the windows do not hold in memory."""
        row = (
            self._connection()
            .execute('SELECT state FROM window_state WHERE "window" = ? AND key = ?', (window, key))
            .fetchone()
        )
        return None if row is None else bytes(row[0])
