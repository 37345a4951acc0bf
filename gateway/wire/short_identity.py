"""The identity of a single event in as few bytes as possible: the Correlation Data of MQTT 5.

docs/wire-format.md specifies it byte for byte. Numbers are big-endian and have as many bytes as they need;
the ingest time is left out where the event id, a UUID of version 7, begins with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from gateway.core.errors import DecodeError
from gateway.core.identifiers import split_ids
from gateway.wire.frame import EventColumns

_VERSION = 0x10  # in the upper half of the first byte; the lower half says what is there
_HAS_BUFFER, _HAS_INGEST_TIME, _HAS_FLAGS, _HAS_DEVICE_TIME = 1, 2, 4, 8
_BUFFER_BYTES, _TIME_BYTES, _FLAGS_BYTES = 8, 8, 4
_ID_TIME_BYTES = 6  # RFC 9562, section 5.7
_LEAST_BYTES = 3 + 16


class ShortIdentity(NamedTuple):
    """An identity as it was read; the numbers are not judged yet."""

    event_id: bytes
    fields: dict[str, Any]
    buffer_id: str


def short_identities(columns: EventColumns, buffer_id: str) -> list[bytes]:
    """Return the identities of these events. `buffer_id` has 16 hexadecimal digits, or none."""
    rows: Iterable[tuple[Any, ...]] = zip(split_ids(columns.event_ids), *columns[2:9], strict=True)
    buffer = bytes.fromhex(buffer_id)
    always = _VERSION | (_HAS_BUFFER if buffer else 0)
    heads: dict[tuple[int, int, int, int, int], bytes] = {}
    found = []
    for event_id, number, time_ms, ingest_ms, device_ms, priority, kind, flags in rows:
        there, rest = always, b""
        if int.from_bytes(event_id[:_ID_TIME_BYTES], "big") != ingest_ms:
            there |= _HAS_INGEST_TIME
            rest = ingest_ms.to_bytes(_TIME_BYTES, "big", signed=True)
        if flags:
            there |= _HAS_FLAGS
            rest += flags.to_bytes(_FLAGS_BYTES, "big")
        if device_ms is not None:
            there |= _HAS_DEVICE_TIME
            rest += device_ms.to_bytes(_TIME_BYTES, "big", signed=True)
        delta_ms = time_ms - ingest_ms
        number_bytes = (number.bit_length() + 7) // 8
        delta_bytes = (delta_ms.bit_length() + 8) // 8 if delta_ms else 0
        key = (there, number_bytes, delta_bytes, priority, kind)
        head = heads.get(key)
        if head is None:
            head = heads[key] = bytes((there, number_bytes << 4 | delta_bytes, priority << 4 | kind))
        found.append(
            b"%s%s%s%s%s%s"
            % (
                head,
                event_id,
                buffer,
                number.to_bytes(number_bytes, "big"),
                delta_ms.to_bytes(delta_bytes, "big", signed=True),
                rest,
            )
        )
    return found


def read_short_identity(data: bytes) -> ShortIdentity:
    """Read one. Raises DecodeError with the reason `properties`."""
    if len(data) < _LEAST_BYTES or data[0] & 0xF0 != _VERSION:
        raise DecodeError(
            "the correlation data is no event's identity",
            reason="properties",
            hint="is this receiver older than the gateway?",
        )
    there, (number_bytes, delta_bytes), nature = data[0], divmod(data[1], 16), divmod(data[2], 16)
    widths = (
        16,
        _BUFFER_BYTES if there & _HAS_BUFFER else 0,
        number_bytes,
        delta_bytes,
        _TIME_BYTES if there & _HAS_INGEST_TIME else 0,
        _FLAGS_BYTES if there & _HAS_FLAGS else 0,
        _TIME_BYTES if there & _HAS_DEVICE_TIME else 0,
    )
    if 3 + sum(widths) != len(data):
        raise DecodeError(
            f"the correlation data has {len(data)} bytes and announces {3 + sum(widths)}", reason="properties"
        )
    parts, at = [], 3
    for width in widths:
        parts.append(data[at : at + width])
        at += width
    event_id, buffer, number, delta, ingest, flags, device = parts
    ingest_ms = _signed(ingest) if ingest else int.from_bytes(event_id[:_ID_TIME_BYTES], "big")
    fields = {
        "sequence_num": int.from_bytes(number, "big"),
        "event_time_ms": ingest_ms + _signed(delta),
        "ingest_time_ms": ingest_ms,
        "priority": nature[0],
        "kind": nature[1],
        "flags": int.from_bytes(flags, "big"),
    }
    if device:
        fields["device_time_ms"] = _signed(device)
    return ShortIdentity(event_id, fields, buffer.hex())


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)
