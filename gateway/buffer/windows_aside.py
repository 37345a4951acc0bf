"""A copy of the windows' state and of the alarms, as they were before a configuration went on trial.

If the trial ends badly, they come back, and the events since then are replayed: so windows that the trial had
changed or left out lose nothing. Until then retention keeps those events; where the disk is full, the copy is
given up first.
"""

from __future__ import annotations

from collections.abc import Callable

import apsw

_OWNER, _CHECKPOINT = "trial_owner", "trial_checkpoint_id"
_COPY = (
    "CREATE TABLE window_state_before AS SELECT * FROM window_state",
    "CREATE TABLE alarms_before AS SELECT * FROM alarms",
)
_BACK = (
    "DELETE FROM window_state",
    "INSERT INTO window_state SELECT * FROM window_state_before",
    "INSERT OR IGNORE INTO alarms SELECT * FROM alarms_before",
)
_FORGET = ("DROP TABLE IF EXISTS window_state_before", "DROP TABLE IF EXISTS alarms_before")


class WindowsAside:
    """The tables `…_before`, which exist during a trial only. For the writer's thread, in a transaction."""

    def __init__(self, connection: Callable[[], apsw.Connection]) -> None:
        self._connection = connection

    @property
    def owner(self) -> int | None:
        """The number of the configuration on trial; None where there is no copy."""
        return self._number(_OWNER)

    def oldest_needed(self, checkpoint_id: int) -> int:
        """Return the id behind which every event may still be replayed."""
        aside = self._number(_CHECKPOINT)
        return checkpoint_id if aside is None else min(aside, checkpoint_id)

    def keep(self, owner: int, checkpoint_id: int) -> None:
        """Copy the state of a checkpoint, unless there is an older copy: then that one stays the way back."""
        if self.owner is None:
            self._run(*_FORGET, *_COPY)
            self._set(_CHECKPOINT, checkpoint_id)
        self._set(_OWNER, owner)

    def bring_back(self) -> int:
        """Put the copied state in the place of the present one; return the id of its checkpoint.

        Alarms that are there have gone on; only those that were forgotten come back.
        """
        self._run(*_BACK)
        return self._number(_CHECKPOINT) or 0

    def forget(self) -> None:
        """Drop the copy."""
        self._run(*_FORGET)
        for name in (_OWNER, _CHECKPOINT):
            self._connection().execute("DELETE FROM meta WHERE name = ?", (name,))

    def _run(self, *statements: str) -> None:
        for statement in statements:
            self._connection().execute(statement)

    def _set(self, name: str, value: int) -> None:
        self._connection().execute("REPLACE INTO meta (name, value) VALUES (?, ?)", (name, str(value)))

    def _number(self, name: str) -> int | None:
        row = self._connection().execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else int(row[0])
