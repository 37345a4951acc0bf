"""Frames of many events in each of their encodings: `zstd` and `none` are the binary frame of `codec`, with
its body compressed or not; `json` is lines of JSON, for consumers that read nothing else.
"""

from __future__ import annotations

import uuid
from typing import Literal

import orjson

from gateway.core.errors import DecodeError
from gateway.wire.event_format import event_envelope, event_from_envelope, id_text
from gateway.wire.frame import (
    MAX_BODY_BYTES,
    MAX_EVENTS,
    Batch,
    EventColumns,
    decode_batch,
    encode_columns,
    wire_events,
)

Encoding = Literal["zstd", "none", "json"]

JSON_VERSION = 1


def encode_frame(
    encoding: Encoding, gateway_id: str, batch_id: bytes, columns: EventColumns, buffer_id: str = ""
) -> bytes:
    """The frame of `columns`, out of that buffer. Raises ValueError for what a frame cannot hold."""
    if encoding == "json":
        return _encode_lines(gateway_id, batch_id, columns, buffer_id)
    return encode_columns(gateway_id, batch_id, columns, compressed=encoding == "zstd", buffer_id=buffer_id)


def decode_frame(frame: bytes, *, max_bytes: int = MAX_BODY_BYTES) -> Batch:
    """Read a frame of any encoding. Raises DecodeError, for lines with the reason `too_large`, `malformed` or
    `envelope`; for the others see `codec.decode_batch`."""
    if frame[:1] == b"{":
        return _decode_lines(frame, max_bytes)
    return decode_batch(frame, max_body_bytes=max_bytes)


def _encode_lines(gateway_id: str, batch_id: bytes, columns: EventColumns, buffer_id: str) -> bytes:
    count = len(columns.streams)
    if count > MAX_EVENTS or len(batch_id) != 16 or not gateway_id:
        raise ValueError(f"a frame has a name, a batch id of 16 bytes and at most {MAX_EVENTS} events")
    head: dict[str, object] = {"frame": JSON_VERSION, "gateway": gateway_id}
    head |= {"batch_id": id_text(batch_id), "count": count} | ({"buffer": buffer_id} if buffer_id else {})
    return b"\n".join([orjson.dumps(head), *map(event_envelope, wire_events(columns)), b""])


def _decode_lines(frame: bytes, max_bytes: int) -> Batch:
    if len(frame) > max_bytes:
        raise DecodeError(f"a frame of {len(frame)} bytes is over the limit", reason="too_large")
    head, *lines = frame.split(b"\n", MAX_EVENTS + 1)
    gateway_id, batch_id, count, buffer_id = _read_head(head)
    if len(lines) != count + 1 or lines[-1]:
        raise DecodeError(f"the frame does not have the {count} lines it announced", reason="malformed")
    return Batch(gateway_id, batch_id, [event_from_envelope(line) for line in lines[:-1]], buffer_id)


def _read_head(line: bytes) -> tuple[str, bytes, int, str]:
    try:
        head = orjson.loads(line)
        version, gateway_id, count = head["frame"], head["gateway"], head["count"]
        batch_id = uuid.UUID(head["batch_id"]).bytes
        buffer_id = head.get("buffer", "")
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise DecodeError("the first line is not the head of a frame", reason="malformed") from exc
    if version != JSON_VERSION:
        raise DecodeError(f"frame version {version!r} is not known", reason="version")
    if not isinstance(buffer_id, str):
        raise DecodeError("the frame's buffer is no text", reason="malformed")
    if not isinstance(gateway_id, str) or not gateway_id or type(count) is not int or count < 0:
        raise DecodeError("the frame names no gateway or no count", reason="malformed")
    return gateway_id, batch_id, count, buffer_id
