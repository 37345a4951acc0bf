"""Messages that came before the gateway knew the time, until they can be dated.

Invariants:
- A message is here or among the events, never in both: it moves in one transaction.
- They leave in the order in which they came; while one is here, all that come later join the end.
- What they carry instead of a time is the machine's uptime, which means something only until the next boot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import apsw

_ROW_BYTES = 64  # what a row takes beside its topic and payload


class PendingMessage(NamedTuple):
    """A message that came `uptime_ms` after the machine's boot that is called `boot`."""

    topic: str
    payload: bytes
    retain: bool
    boot: str
    uptime_ms: int


class PendingTime:
    """The table `undated`, on the writer's connection. Every change is part of the store's transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.count = self.size_bytes = 0
        """Number and size of the waiting messages; kept in memory, because every batch needs it."""
        self._connection = connection
        self.reload()

    def reload(self) -> None:
        """Count anew, after a rollback."""
        found = self._connection.execute(
            "SELECT count(*), coalesce(sum(length(payload) + length(topic) + ?), 0) FROM undated",
            (_ROW_BYTES,),
        )
        self.count, self.size_bytes = next(found)

    def add(self, messages: Sequence[PendingMessage]) -> None:
        """Put messages at the end."""
        self._connection.executemany(
            "INSERT INTO undated (topic, payload, retain, boot, uptime_ms) VALUES (?, ?, ?, ?, ?)", messages
        )
        self.count += len(messages)
        self.size_bytes += sum(len(m.payload) + len(m.topic) + _ROW_BYTES for m in messages)

    def take(self, most: int) -> list[PendingMessage]:
        """Remove the oldest ones."""
        rows: list[tuple[Any, ...]] = self._connection.execute(
            "SELECT id, topic, payload, retain, boot, uptime_ms FROM undated ORDER BY id LIMIT ?", (most,)
        ).fetchall()
        if rows:
            self._connection.execute("DELETE FROM undated WHERE id <= ?", (rows[-1][0],))
        taken = [
            PendingMessage(topic, payload, bool(retain), boot, at)
            for _, topic, payload, retain, boot, at in rows
        ]
        self.count -= len(taken)
        self.size_bytes -= sum(len(m.payload) + len(m.topic) + _ROW_BYTES for m in taken)
        return taken
