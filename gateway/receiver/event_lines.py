"""Events as lines of JSON, as `gateway receive` writes them; docs/wire-format.md lists the fields."""

from __future__ import annotations

import uuid
from base64 import b64encode
from collections.abc import Sequence

import orjson

from gateway.core.errors import DecodeError
from gateway.core.events import SKIPPED_SHIFT, Flag, Kind, Priority, WireEvent, skipped
from gateway.receiver.ledger import Identity
from gateway.wire.event_format import id_text

_PRIORITIES = {int(each): each.name.lower() for each in Priority}
_KINDS = {int(each): each.name.lower() for each in Kind}


def event_line(gateway_id: str, event: WireEvent, buffer_id: str = "") -> bytes:
    """The event as one line of JSON, with its newline."""
    fields: dict[str, object] = {
        "event_id": id_text(event.event_id),
        "gateway": gateway_id,
        "stream": event.stream,
        "sequence_num": event.sequence_num,
        "event_time_ms": event.event_time_ms,
        "ingest_time_ms": event.ingest_time_ms,
        "device_time_ms": event.device_time_ms,
        "priority": priority_name(event.priority),
        "kind": kind_name(event.kind),
        "flags": flag_names(event.flags & ~(0xFF << SKIPPED_SHIFT)),
    }
    if skipped(event.flags):
        fields["stands_for"] = skipped(event.flags) + 1
    if buffer_id:
        fields["buffer"] = buffer_id
    name, payload = _payload_field(event.payload)
    fields[name] = payload
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def identity_of_line(line: bytes) -> Identity:
    """Read back what `event_line` wrote. Raises DecodeError for any other line."""
    try:
        fields = orjson.loads(line)
        found = Identity(
            fields["gateway"],
            uuid.UUID(fields["event_id"]).bytes,
            fields["stream"],
            fields["sequence_num"],
            fields["ingest_time_ms"],
            fields.get("buffer", ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise DecodeError("not a line that `gateway receive` wrote", reason="line") from exc
    if not isinstance(found.buffer_id, str):
        raise DecodeError("not a line that `gateway receive` wrote", reason="line")
    if not (type(found.sequence_num) is int and type(found.ingest_time_ms) is int):
        raise DecodeError("not a line that `gateway receive` wrote", reason="line")
    return found


def flag_names(flags: int) -> Sequence[str | int]:
    """The names of the flags that are set; what has no name stays a number."""
    if not flags:
        return ()
    known = [each for each in Flag if flags & each]
    rest = flags & ~sum(known)
    return [*(str(each.name).lower() for each in known), *([rest] if rest else [])]


def _payload_field(payload: bytes) -> tuple[str, object]:
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError:
        try:
            return "payload", payload.decode()
        except UnicodeDecodeError:
            return "payload_b64", b64encode(payload).decode()
    # Verbatim, so that no digit changes; in JSON a raw line break can only stand between values.
    return "payload", orjson.Fragment(payload.replace(b"\n", b" ").replace(b"\r", b" "))


def priority_name(priority: int) -> str | int:
    """The name of a priority; one without a name stays a number."""
    return _PRIORITIES.get(priority, priority)


def kind_name(kind: int) -> str | int:
    """The name of a kind; one without a name stays a number."""
    return _KINDS.get(kind, kind)
