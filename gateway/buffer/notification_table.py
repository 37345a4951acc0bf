"""Notifications that wait to be sent, stored in the transaction of the alarm that they are about.

A row is marked before it is sent and removed afterwards. One that is found marked at a start may have been
sent: it goes again, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import apsw
import orjson

MAX_WAITING = 10_000
"""For each target; beyond it the oldest are given up, and counted."""
_COUNT_EVERY = 100  # to count them takes a while

_WAITING, _SENDING, _UNCERTAIN = range(3)


class WaitingNotice(NamedTuple):
    """A notification. `uncertain`: it may have been sent before."""

    id: int
    payload: str
    uncertain: bool


class NotificationTable:
    """The table `notifications`. For the writer's thread, inside a transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def add(self, target: str, payload: bytes, now_ms: int) -> int:
        """Queue a notification; returns how many others had to be given up."""
        self._connection.execute(
            "INSERT INTO notifications (target, payload, made_ms, state) VALUES (?, ?, ?, 0)",
            (target, payload.decode(), now_ms),
        )
        if self._connection.last_insert_rowid() % _COUNT_EVERY:
            return 0
        excess = self._count("WHERE target = ?", target) - MAX_WAITING
        if excess <= 0:
            return 0
        self._connection.execute(
            "DELETE FROM notifications WHERE id IN (SELECT id FROM notifications WHERE target = ?"
            " AND state <> 1 ORDER BY id LIMIT ?)",
            (target, excess),
        )
        return int(self._connection.changes())

    def restart(self, targets: Sequence[str], made_after_ms: int) -> tuple[int, int]:
        """Begin after a start: what was on its way is uncertain. Returns how many wait, and how many were
        given up: those of targets that are gone, or made before `made_after_ms`."""
        self._connection.execute("UPDATE notifications SET state = 2 WHERE state = 1")
        self._connection.execute(
            "DELETE FROM notifications WHERE made_ms < ? OR target NOT IN (SELECT value FROM json_each(?))",
            (made_after_ms, orjson.dumps([*targets]).decode()),
        )
        gone = int(self._connection.changes())
        return self._count(""), gone

    def take(self, target: str, limit: int) -> list[WaitingNotice]:
        """Mark what waits for `target` as on its way, and return it, the oldest first."""
        rows: list[Any] = self._connection.execute(
            "SELECT id, payload, state FROM notifications WHERE target = ? AND state <> 1"
            " ORDER BY id LIMIT ?",
            (target, limit),
        ).fetchall()
        found = [WaitingNotice(row[0], row[1], row[2] == _UNCERTAIN) for row in rows]
        self._mark(_SENDING, [one.id for one in found])
        return found

    def sent(self, ids: Sequence[int]) -> None:
        """Remove what was sent."""
        self._connection.execute(
            "DELETE FROM notifications WHERE id IN (SELECT value FROM json_each(?))",
            (orjson.dumps([*ids]).decode(),),
        )

    def put_back(self, notices: Sequence[WaitingNotice]) -> None:
        """Let notices wait again, none of which was sent."""
        self._mark(_WAITING, [one.id for one in notices if not one.uncertain])
        self._mark(_UNCERTAIN, [one.id for one in notices if one.uncertain])

    def _mark(self, state: int, ids: Sequence[int]) -> None:
        self._connection.execute(
            "UPDATE notifications SET state = ? WHERE id IN (SELECT value FROM json_each(?))",
            (state, orjson.dumps([*ids]).decode()),
        )

    def _count(self, where: str, *values: str) -> int:
        rows = self._connection.execute(f"SELECT count(*) FROM notifications {where}", values)  # noqa: S608
        return int(next(rows)[0])
