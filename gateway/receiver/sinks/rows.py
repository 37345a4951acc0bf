"""Events as rows of a table: the columns that SQLite and PostgreSQL have in common."""

from __future__ import annotations

from gateway.receiver.event_lines import kind_name, priority_name
from gateway.receiver.sinks.sink import Received

COLUMNS = (
    *("event_id", "gateway", "stream", "sequence_num", "event_time_ms", "ingest_time_ms"),
    *("device_time_ms", "priority", "kind", "flags", "payload", "payload_bytes", "buffer"),
)
WRITTEN = (*COLUMNS, "device")
"""All columns; the last one is not the event's, but found in its topic."""
IDENTITY = ("gateway", "event_id", "stream", "sequence_num", "ingest_time_ms", "buffer")

Row = tuple[object, ...]


def row_of(received: Received, event_id: object, device: str | None) -> Row:
    """Return the values of WRITTEN. A payload that is text is in `payload`, any other in `payload_bytes`."""
    gateway_id, event, buffer_id = received
    return (
        event_id,
        gateway_id,
        event.stream,
        event.sequence_num,
        event.event_time_ms,
        event.ingest_time_ms,
        event.device_time_ms,
        str(priority_name(event.priority)),
        str(kind_name(event.kind)),
        event.flags,
        *payload_columns(event.payload),
        buffer_id,
        device,
    )


def payload_columns(payload: bytes) -> tuple[str | None, bytes | None]:
    """Return the payload as text, or else as bytes."""
    text = _text(payload)
    return (None, payload) if text is None else (text, None)


def _text(payload: bytes) -> str | None:
    """The payload as text, unless a column of text cannot hold it."""
    if b"\0" in payload:
        return None
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None
