"""An operator's choice of events in a buffer."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.core.errors import StoreError
from gateway.core.events import Kind, Status


@dataclass(frozen=True)
class EventFilter:
    """All conditions hold at once; one that is None holds always. `stream` is a topic or a topic filter;
    `from_ms` (included) and `before_ms` bound the arrival time, the other two the time of the event."""

    status: Status | None = None
    stream: str | None = None
    kind: Kind | None = None
    from_ms: int | None = None
    before_ms: int | None = None
    event_ids: tuple[uuid.UUID, ...] | None = None
    happened_from_ms: int | None = None
    happened_before_ms: int | None = None

    @property
    def is_everything(self) -> bool:
        return self == EventFilter()

    def where(self) -> tuple[str, tuple[object, ...]]:
        """The condition in SQL, and its parameters."""
        ids = None if self.event_ids is None else orjson.dumps([one.hex for one in self.event_ids]).decode()
        conditions = {
            "status = ?": None if self.status is None else int(self.status),
            "stream IN (SELECT id FROM streams WHERE topic_matches(?, name))": self.stream,
            "kind = ?": None if self.kind is None else int(self.kind),
            "ingest_time >= ?": self.from_ms,
            "ingest_time < ?": self.before_ms,
            "event_time >= ?": self.happened_from_ms,
            "event_time < ?": self.happened_before_ms,
            "lower(hex(event_id)) IN (SELECT value FROM json_each(?))": ids,
        }
        given = {sql: value for sql, value in conditions.items() if value is not None}
        return " AND ".join(given) or "true", tuple(given.values())

    def as_json(self) -> dict[str, Any]:
        """Return the filter as `from_json` reads it."""
        ids = None if self.event_ids is None else [str(one) for one in self.event_ids]
        values = {
            "status": None if self.status is None else self.status.name,
            "stream": self.stream,
            "kind": None if self.kind is None else self.kind.name,
            "from_ms": self.from_ms,
            "before_ms": self.before_ms,
            "event_ids": ids,
            "happened_from_ms": self.happened_from_ms,
            "happened_before_ms": self.happened_before_ms,
        }
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> EventFilter:
        """Raises StoreError when it is not what `as_json` gives: that of another version, perhaps."""
        try:
            ids = found.get("event_ids")
            chosen = cls(
                None if found.get("status") is None else Status[found["status"]],
                found.get("stream"),
                None if found.get("kind") is None else Kind[found["kind"]],
                found.get("from_ms"),
                found.get("before_ms"),
                None if ids is None else tuple(uuid.UUID(one) for one in ids),
                found.get("happened_from_ms"),
                found.get("happened_before_ms"),
            )
        except (KeyError, ValueError, TypeError, AttributeError) as exc:
            raise StoreError(f"the filter of events cannot be read: {exc}") from exc
        unknown = found.keys() - chosen.as_json().keys()
        if unknown or not _is_plain(chosen):
            raise StoreError(f"the filter of events cannot be read: {', '.join(unknown) or found}")
        return chosen


def _is_plain(choice: EventFilter) -> bool:
    bounds = (choice.from_ms, choice.before_ms, choice.happened_from_ms, choice.happened_before_ms)
    times = all(isinstance(at, (int, type(None))) for at in bounds)
    return times and isinstance(choice.stream, (str, type(None)))
