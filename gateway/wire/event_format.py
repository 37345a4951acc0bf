"""The event format of the uplink: one message per event, for consumers that know no frames.

On MQTT 5 the payload is the original one and the identity travels in the correlation data, or in user
properties; on MQTT 3.1.1, which has no properties, the payload is a JSON envelope. docs/wire-format.md
specifies all three.
"""

from __future__ import annotations

import binascii
import uuid
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any

import orjson

from gateway.core.errors import DecodeError
from gateway.core.events import WireEvent
from gateway.wire.short_identity import read_short_identity

_INT64 = range(-(2**63), 2**63)
_RANGES = {
    "sequence_num": range(1, 2**63),
    "event_time_ms": _INT64,
    "ingest_time_ms": _INT64,
    "priority": range(256),
    "kind": range(256),
    "flags": range(2**31),
}
"""Numbers that every output can store: one event that it refused would stop a receiver for good."""
_NUMBERS = tuple(_RANGES)


def id_text(event_id: bytes) -> str:
    """16 bytes as people write a UUID; three times as fast as `uuid.UUID` does it."""
    digits = event_id.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def event_properties(event: WireEvent, buffer_id: str = "") -> list[tuple[str, str]]:
    """The MQTT 5 user properties that carry an event's identity; its payload is sent unchanged."""
    properties = [("event_id", id_text(event.event_id))]
    properties += [(name, str(getattr(event, name))) for name in _NUMBERS]
    if event.device_time_ms is not None:
        properties.append(("device_time_ms", str(event.device_time_ms)))
    if buffer_id:
        properties.append(("buffer", buffer_id))
    return properties


def event_envelope(event: WireEvent, buffer_id: str = "") -> bytes:
    """The JSON that carries an event on MQTT 3.1.1: its payload as text, or base64 where it is no UTF-8."""
    envelope: dict[str, object] = {"event_id": id_text(event.event_id), "stream": event.stream}
    envelope |= {name: getattr(event, name) for name in _NUMBERS}
    if event.device_time_ms is not None:
        envelope["device_time_ms"] = event.device_time_ms
    if buffer_id:
        envelope["buffer"] = buffer_id
    try:
        envelope["payload"] = event.payload.decode()
    except UnicodeDecodeError:
        envelope["payload_b64"] = b64encode(event.payload).decode()
    return orjson.dumps(envelope)


def event_from_message(
    stream: str,
    user_properties: Sequence[tuple[str, str]] | None,
    payload: bytes,
    correlation: bytes = b"",
) -> WireEvent:
    """The event of one message in any form; `stream` is the original topic behind `up/event/`.

    Raises DecodeError with the reason `properties` or `envelope`.
    """
    fields = dict(user_properties or ())
    if "event_id" not in fields and correlation:
        event_id, numbers, _ = read_short_identity(correlation)
        return _event(event_id, stream, numbers, payload, reason="properties")
    if "event_id" not in fields:
        event = event_from_envelope(payload)
        if event.stream != stream:
            raise DecodeError("the envelope's stream is not the topic's", reason="envelope")
        return event
    try:
        numbers = {name: int(fields[name]) for name in (*_NUMBERS, "device_time_ms") if name in fields}
    except ValueError as exc:
        raise DecodeError(f"a user property is no number: {exc}", reason="properties") from exc
    return _event(fields["event_id"], stream, numbers, payload, reason="properties")


def buffer_of_message(
    user_properties: Sequence[tuple[str, str]] | None, payload: bytes, correlation: bytes = b""
) -> str:
    """The id of the buffer that a message in any form came from; empty where it does not tell. Call it for
    a message that `event_from_message` has read."""
    fields = dict(user_properties or ())
    if "event_id" not in fields and correlation:
        return read_short_identity(correlation).buffer_id
    found = fields.get("buffer", "") if "event_id" in fields else orjson.loads(payload).get("buffer", "")
    return found if isinstance(found, str) and "\0" not in found else ""


def event_from_envelope(body: bytes) -> WireEvent:
    """The event of one envelope. Raises DecodeError with the reason `envelope`."""
    hint = "subscribe with the protocol version that the gateway's bridge uses"
    try:
        envelope = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise DecodeError("neither event properties nor an envelope", reason="envelope", hint=hint) from exc
    if not isinstance(envelope, dict) or "event_id" not in envelope:
        raise DecodeError("neither event properties nor an envelope", reason="envelope", hint=hint)
    stream = envelope.get("stream")
    if not isinstance(stream, str):
        raise DecodeError("the envelope names no stream", reason="envelope")
    payload = _envelope_payload(envelope)
    return _event(envelope["event_id"], stream, envelope, payload, reason="envelope")


def _envelope_payload(envelope: dict[str, Any]) -> bytes:
    text, encoded = envelope.get("payload"), envelope.get("payload_b64")
    if isinstance(text, str) and encoded is None:
        return text.encode()
    if text is None and isinstance(encoded, str):
        try:
            return b64decode(encoded, validate=True)
        except binascii.Error as exc:
            raise DecodeError(f"payload_b64 is not base64: {exc}", reason="envelope") from exc
    raise DecodeError("an envelope has either payload or payload_b64, as text", reason="envelope")


def _event(
    event_id: object, stream: str, fields: dict[str, Any], payload: bytes, *, reason: str
) -> WireEvent:
    try:
        identity = event_id if isinstance(event_id, bytes) else uuid.UUID(str(event_id)).bytes
    except ValueError as exc:
        raise DecodeError(f"event_id {event_id!r} is not a UUID", reason=reason) from exc
    if "\0" in stream:
        raise DecodeError("the stream's name has a NUL", reason=reason)
    numbers = [_number(fields.get(name), name, within, reason) for name, within in _RANGES.items()]
    sequence_num, event_time_ms, ingest_time_ms, priority, kind, flags = numbers
    device_time_ms = fields.get("device_time_ms")
    if device_time_ms is not None:
        device_time_ms = _number(device_time_ms, "device_time_ms", _INT64, reason)
    return WireEvent(
        identity,
        stream,
        sequence_num,
        event_time_ms,
        ingest_time_ms,
        device_time_ms,
        priority,
        kind,
        flags,
        payload,
    )


def _number(value: object, name: str, within: range, reason: str) -> int:
    if type(value) is not int or value not in within:
        raise DecodeError(
            f"{name} is {value!r}, no number from {within.start} to {within.stop - 1}", reason=reason
        )
    return value
