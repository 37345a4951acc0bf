"""The counters that are committed together with what they count."""

from __future__ import annotations

from collections import Counter

import apsw
import orjson

from gateway.core.events import Status

_SAVE = """
INSERT INTO counters (name, label, value)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]')
FROM json_each(?) WHERE true
ON CONFLICT (name, label) DO UPDATE SET value = value + excluded.value
"""


class Tally:
    """`committed` holds every counter by (name, label), `moved` what this transaction adds to them.

    Changed by the writer's thread; any thread may read `committed`.
    """

    def __init__(self) -> None:
        self.committed: Counter[tuple[str, str]] = Counter()
        self.moved: Counter[tuple[str, str]] = Counter()

    def load(self, connection: apsw.Connection) -> None:
        """Start again from what is committed."""
        self.moved.clear()
        rows = connection.execute("SELECT name, label, value FROM counters")
        self.committed = Counter({(name, label): value for name, label, value in rows})

    def change_status(self, before: Status, after: Status | None, events: int) -> None:
        """Count `events` that went from one status to another, or away."""
        self.moved["status", before.name] -= events
        if after is not None:
            self.moved["status", after.name] += events

    def events_that_are(self, *statuses: Status) -> int:
        """Return the number of events in any of these statuses, including changes of this transaction."""
        names = [("status", status.name) for status in statuses]
        return sum(self.committed[each] + self.moved[each] for each in names)

    def save(self, connection: apsw.Connection) -> None:
        """Write what has moved, inside the transaction, at its end."""
        moved = [[name, label, by] for (name, label), by in self.moved.items() if by]
        if moved:
            connection.execute(_SAVE, (orjson.dumps(moved).decode(),))

    def commit(self) -> None:
        """Mark the saved changes as committed."""
        self.committed.update(self.moved)
        self.moved.clear()
