"""Events as lines of JSON, as `gateway receive` writes them; docs/wire-format.md lists the fields.

A line gives back exactly the event that it was made of, the payload to the last byte: what `payload` alone
would not tell (JSON with line breaks, or a text in quotes) is in `payload_raw_b64` as well.
"""

from __future__ import annotations

import re
import uuid
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from gateway.core.errors import DecodeError
from gateway.core.events import SKIPPED_SHIFT, Flag, Kind, Priority, WireEvent, skipped
from gateway.receiver.ledger import Identity
from gateway.wire.event_format import id_text

_PRIORITIES = {int(each): each.name.lower() for each in Priority}
_KINDS = {int(each): each.name.lower() for each in Kind}
_PRIORITY_NUMBERS = {name: number for number, name in _PRIORITIES.items()}
_KIND_NUMBERS = {name: number for number, name in _KINDS.items()}
_FLAGS = {str(each.name).lower(): int(each) for each in Flag}
_START, _PAYLOAD = b'{"event_id":"', b',"payload":'
LINE_START = re.compile(
    rb'\{"event_id":"([0-9a-f-]{36})","gateway":"([^"\\]+)","stream":"([^"\\]+)","sequence_num":(\d+),'
    rb'"event_time_ms":-?\d+,"ingest_time_ms":(-?\d+),"device_time_ms":[^,]+,'
    rb'"priority":[^,]+,"kind":("raw"|[^,]+),"flags":\[([^]]*\](?:,"stands_for":\d+)?)'
    rb'(?:,"buffer":"([^"\\]*)")?(,"payload":[^"])?'
)
"""The beginning of a line as `event_line` writes it; any other spelling is parsed as a whole. Its groups:
event id, gateway, stream, number, arrival, kind, flags, buffer, and `,"payload":` if JSON follows, which then
goes from the last byte of the match to the brace that closes the line."""
RAW, NO_FLAGS = b'"raw"', b"]"


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
    fields |= _payload_fields(event.payload)
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


class StoredLine(NamedTuple):
    """Contents of one line."""

    gateway_id: str
    event: WireEvent
    buffer_id: str = ""


def event_of_line(line: bytes) -> StoredLine:
    """Read back the whole event that `event_line` wrote. Raises DecodeError for any other line."""
    try:
        fields, payload = _split(line)
        columns = (
            bytes.fromhex(fields["event_id"].replace("-", "")),
            fields["stream"],
            fields["sequence_num"],
            fields["event_time_ms"],
            fields["ingest_time_ms"],
            fields.get("device_time_ms"),
            priority_number(fields["priority"]),
            kind_number(fields["kind"]),
            _flags_of(fields),
            payload,
        )
        event = WireEvent._make(columns)  # twice as fast as its constructor, as below
        found = StoredLine._make((fields["gateway"], event, fields.get("buffer", "")))
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise _not_a_line() from exc
    is_whole = len(event.event_id) == 16 and isinstance(event.stream, str)
    if not (is_whole and type(event.ingest_time_ms) is type(event.sequence_num) is int):
        raise _not_a_line()
    return found


def _split(line: bytes) -> tuple[Mapping[str, Any], bytes]:
    """The fields of a line, and its payload, which `event_line` writes last, byte by byte."""
    at = line.find(_PAYLOAD)
    if line.startswith(_START) and at > 0 and line.endswith(b"}\n"):
        payload, fields = line[at + len(_PAYLOAD) : -2], orjson.loads(line[:at] + b"}")
        if payload[:1] != b'"' and "payload_raw_b64" not in fields:
            return fields, payload
    fields = orjson.loads(line)
    for name in ("payload_raw_b64", "payload_b64"):
        if name in fields:
            return fields, b64decode(fields[name], validate=True)
    found = fields["payload"]
    return fields, found.encode() if isinstance(found, str) else orjson.dumps(found)


def _flags_of(fields: Mapping[str, Any]) -> int:
    flags: int = fields["stands_for"] - 1 << SKIPPED_SHIFT if "stands_for" in fields else 0
    for one in fields["flags"]:
        flags |= one if isinstance(one, int) else _FLAGS[one]
    return flags


def _not_a_line() -> DecodeError:
    return DecodeError("not a line that `gateway receive` wrote", reason="line")


def _payload_fields(payload: bytes) -> dict[str, object]:
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError:
        try:
            return {"payload": payload.decode()}
        except UnicodeDecodeError:
            return {"payload_b64": b64encode(payload).decode()}
    # Verbatim, so that no digit changes; in JSON a raw line break can only stand between values.
    flat = payload.replace(b"\n", b" ").replace(b"\r", b" ")
    raw: dict[str, object] = {}
    if flat != payload or isinstance(found, str):
        raw["payload_raw_b64"] = b64encode(payload).decode()
    return raw | {"payload": orjson.Fragment(flat)}


def priority_name(priority: int) -> str | int:
    """The name of a priority; one without a name stays a number."""
    return _PRIORITIES.get(priority, priority)


def priority_number(name: str | int) -> int:
    """The priority that `priority_name` named. Raises KeyError."""
    return name if isinstance(name, int) else _PRIORITY_NUMBERS[name]


def kind_number(name: str | int) -> int:
    """The kind that `kind_name` named. Raises KeyError."""
    return name if isinstance(name, int) else _KIND_NUMBERS[name]


def kind_name(kind: int) -> str | int:
    """The name of a kind; one without a name stays a number."""
    return _KINDS.get(kind, kind)
