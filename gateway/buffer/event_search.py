"""Finds the events that retention, downsampling or an operator may want to change. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import apsw
import orjson

from gateway.buffer.claims import first_since
from gateway.buffer.event_filter import EventFilter
from gateway.core.events import Kind, Priority, Status


class EventSearch:
    """Looks through one buffer, on the writer's connection: it sees what its transaction has changed."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def first_from(self, from_id: int) -> tuple[int, int] | None:
        """(id, ingest time in ms) of the oldest event at or behind `from_id`."""
        row = self._connection.execute(
            "SELECT id, ingest_time FROM buffer_events WHERE id >= ? ORDER BY id LIMIT 1", (from_id,)
        ).fetchone()
        return row if row is None else (int(row[0]), int(row[1]))

    def first_since(self, time_ms: int) -> int:
        """The id of the first event that arrived at `time_ms` or later."""
        return first_since(self._connection, time_ms)

    def oldest_raw_pending(self, priority: int, to_id: int) -> int | None:
        """The id of the oldest PENDING raw event of that priority or lower."""
        (first_id,) = self._connection.execute(
            "SELECT min(id) FROM (SELECT (SELECT id FROM buffer_events WHERE status = ? AND status < 2"
            " AND priority = value AND kind = ? AND id <= ? ORDER BY id LIMIT 1) AS id FROM json_each(?))",
            (
                *(int(Status.PENDING), int(Kind.RAW), to_id),
                orjson.dumps([int(each) for each in Priority if each >= priority]).decode(),
            ),
        ).fetchone() or (None,)
        return first_id

    def oldest_pending(self, priority: int, to_id: int, limit: int) -> list[int]:
        """The ids of the oldest PENDING events of one priority."""
        return self._ids(
            "SELECT json_group_array(id) FROM (SELECT id FROM buffer_events WHERE status = ? AND status < 2"
            " AND priority = ? AND id <= ? ORDER BY id LIMIT ?)",
            (int(Status.PENDING), priority, to_id, limit),
        )

    def oldest_synced(self, from_id: int, to_id: int, limit: int) -> list[int]:
        """The ids of the oldest SYNCED events of an id range."""
        return self._ids(
            "SELECT json_group_array(id) FROM (SELECT id FROM buffer_events"
            " WHERE id BETWEEN ? AND ? AND status = ? ORDER BY id LIMIT ?)",
            (from_id, to_id, int(Status.SYNCED), limit),
        )

    def oldest_undelivered(self, status: Status, to_id: int, limit: int) -> list[int]:
        """The ids of the oldest events that are FAILED, or CORRUPT."""
        return self._ids(
            "SELECT json_group_array(id) FROM (SELECT id FROM buffer_events"
            " WHERE status = ? AND status > 2 AND status < 5 AND id <= ? ORDER BY id LIMIT ?)",
            (int(status), to_id, limit),
        )

    def chosen(self, wanted: EventFilter, statuses: Sequence[Status], from_id: int, to_id: int) -> list[int]:
        """The ids in a range that an operator means, of events in one of those statuses."""
        where, values = wanted.where()
        return self._ids(
            "SELECT json_group_array(id) FROM buffer_events WHERE id BETWEEN ? AND ?"  # noqa: S608 - constants
            f" AND status IN (SELECT value FROM json_each(?)) AND {where}",
            (from_id, to_id, orjson.dumps([int(status) for status in statuses]).decode(), *values),
        )

    def _ids(self, sql: str, values: tuple[object, ...]) -> list[int]:
        ((array,),) = self._connection.execute(sql, values)
        ids: list[int] = orjson.loads(array)
        return ids
