"""Which events of a buffer an operator means."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.events import Kind, Status


@dataclass(frozen=True)
class Choice:
    """All conditions hold at once; one that is None holds always. `stream` is a topic, as it was published
    to; `before_ms` bounds the arrival time."""

    status: Status | None = None
    stream: str | None = None
    kind: Kind | None = None
    before_ms: int | None = None
    event_id: bytes | None = None

    def where(self) -> tuple[str, tuple[object, ...]]:
        """The condition in SQL, and its parameters."""
        conditions = {
            "status = ?": None if self.status is None else int(self.status),
            "stream = (SELECT id FROM streams WHERE name = ?)": self.stream,
            "kind = ?": None if self.kind is None else int(self.kind),
            "ingest_time < ?": self.before_ms,
            "event_id = ?": self.event_id,
        }
        given = {sql: value for sql, value in conditions.items() if value is not None}
        return " AND ".join(given) or "true", tuple(given.values())
