"""The devices that were ever heard, so that a restart does not forget one that has fallen silent."""

from __future__ import annotations

from collections.abc import Iterable

import apsw

DeviceRow = tuple[str, int, int, int]
"""Name, first heard, last heard (ms), number of messages."""


class KnownDevices:
    """The table `known_devices`. For the writer's thread, inside a transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def save(self, rows: Iterable[DeviceRow]) -> None:
        self._connection.executemany("REPLACE INTO known_devices VALUES (?, ?, ?, ?)", rows)

    def forget(self, before_ms: int) -> None:
        """Forget those that were last heard before then."""
        self._connection.execute("DELETE FROM known_devices WHERE last_ms < ?", (before_ms,))

    def all(self) -> list[DeviceRow]:
        """Return all of them, the one heard last first."""
        rows = self._connection.execute(
            "SELECT name, first_ms, last_ms, messages FROM known_devices ORDER BY last_ms DESC"
        )
        return [*rows]
