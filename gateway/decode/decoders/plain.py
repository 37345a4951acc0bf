"""JSON, numbers, text and raw bytes."""

from __future__ import annotations

import math
import re

import orjson

from gateway.core.errors import DecodeError
from gateway.core.quantities import number_in

Document = object

# Reading JSON of this size takes some 10 ms, in which nothing else is read. Sensors send 1000 times less.
MAX_DECODED_BYTES = 1024 * 1024


def check_size(payload: bytes) -> None:
    """Raise DecodeError for what is empty, or too large to be read in passing."""
    if not payload:
        raise DecodeError("the payload is empty", reason="empty")
    if len(payload) > MAX_DECODED_BYTES:
        raise DecodeError("the payload is larger than 1 MiB", reason="too_large")


def parse_json(payload: bytes, _arrival_ms: int = 0) -> Document:
    """JSON, also with the NaN and Infinity that firmware prints for a broken sensor: they become null."""
    check_size(payload)
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError as exc:
        repaired = _without_nan(payload)
        if repaired == payload:
            raise DecodeError(f"not JSON: {exc}", reason="json") from exc
    try:
        return orjson.loads(repaired)
    except orjson.JSONDecodeError as exc:
        raise DecodeError(f"not JSON: {exc}", reason="json") from exc


# A string is taken whole, so that "NaN" in a text stays; it may lack its end, so that each byte is looked
# at once even in garbage. What printf makes of a broken number is `nan`, `-nan`, `inf`.
_STRING_OR_NAN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[-+]?\b(?:nan|inf(?:inity)?)\b', re.DOTALL | re.IGNORECASE)


def _without_nan(payload: bytes) -> bytes:
    return _STRING_OR_NAN.sub(lambda match: match[0] if match[0][:1] == b'"' else b"null", payload)


def parse_number(payload: bytes, _arrival_ms: int = 0) -> Document:
    """A plain decimal number as text. NaN and infinity are no numbers: None, which counts as a miss."""
    check_size(payload)
    try:
        number = float(payload) if b"_" not in payload else None
    except ValueError:
        number = None
    if number is None:
        raise DecodeError("not a number", reason="number")
    return number if math.isfinite(number) else None


def parse_comma_number(payload: bytes, _arrival_ms: int = 0) -> Document:
    """A number with a decimal comma. One with a unit is text: `parse: number` reads it."""
    check_size(payload)
    number = number_in(payload.decode("latin-1")) if payload.strip()[-1:].isdigit() else None
    if number is None or b"0x" in payload.lower():
        raise DecodeError("not a number", reason="number")
    return number


def parse_text(payload: bytes, _arrival_ms: int = 0) -> Document:
    """UTF-8 text, as one value. One with a byte order mark or a NUL may be something else."""
    if payload[:3] == b"\xef\xbb\xbf" or b"\0" in payload:
        raise DecodeError("more than plain UTF-8", reason="utf8")
    return parse_any_text(payload)


def parse_any_text(payload: bytes, _arrival_ms: int = 0) -> Document:
    """UTF-8 text, whatever characters are in it."""
    check_size(payload)
    try:
        return payload.decode()
    except UnicodeDecodeError as exc:
        raise DecodeError("not UTF-8", reason="utf8") from exc


def parse_raw(_payload: bytes, _arrival_ms: int = 0) -> Document:
    """Nothing is read: the bytes are kept and bridged, and there is nothing to gather."""
    return []
