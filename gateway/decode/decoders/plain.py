"""JSON, numbers, text and raw bytes."""

from __future__ import annotations

import json
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


_UTF8_MARK = b"\xef\xbb\xbf"


def check_utf8(payload: bytes) -> None:
    """Raise DecodeError for what may be no plain UTF-8 text: it has a byte order mark, or other bytes."""
    if payload.isascii():
        return
    if payload.startswith(_UTF8_MARK):
        raise DecodeError("a byte order mark", reason="utf8")
    try:
        payload.decode()
    except UnicodeDecodeError as exc:
        raise DecodeError("not UTF-8", reason="utf8") from exc


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


DUPLICATE_KEYS = "duplicate_keys"


def parse_unique_json(payload: bytes, arrival_ms: int = 0) -> Document:
    """JSON in which no object has a key twice. Raises DecodeError with the reason DUPLICATE_KEYS."""
    document = parse_json(payload, arrival_ms)
    if payload.count(b"{") > _objects_in(document):  # or a brace stands in a text: then nothing is lost
        raise DecodeError("an object has a key twice", reason=DUPLICATE_KEYS)
    return document


def _objects_in(document: Document) -> int:
    if isinstance(document, dict):
        return 1 + sum(map(_objects_in, document.values()))
    return sum(map(_objects_in, document)) if isinstance(document, list) else 0


def parse_numbered_json(payload: bytes, _arrival_ms: int = 0) -> tuple[Document, bool]:
    """JSON in which the second `name` of an object is called `name-2`; and whether there was one."""
    check_size(payload)
    doubled = False

    def number(pairs: list[tuple[str, Document]]) -> dict[str, Document]:
        nonlocal doubled
        found: dict[str, Document] = {}
        times: dict[str, int] = {}
        for key, value in pairs:
            name = key
            while name in found:
                doubled, times[key] = True, times.get(key, 1) + 1
                name = f"{key}-{times[key]}"
            found[name] = value
        return found

    try:
        document = json.loads(
            _without_nan(payload), object_pairs_hook=number, parse_constant=lambda _name: None
        )
    except (ValueError, RecursionError) as exc:
        raise DecodeError(f"not JSON: {exc}", reason="json") from exc
    return document, doubled


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


_DIGITS_ONLY = re.compile(rb"\s*[+-]?[\d.,]+(?:[eE][+-]?\d+)?\s*")


def parse_comma_number(payload: bytes, _arrival_ms: int = 0) -> Document:
    """A number with a decimal comma. One with a unit is text: `parse: number` reads it."""
    check_size(payload)
    number = number_in(payload.decode()) if _DIGITS_ONLY.fullmatch(payload) else None
    if number is None:
        raise DecodeError("not a number", reason="number")
    return number


def parse_text(payload: bytes, _arrival_ms: int = 0) -> Document:
    """UTF-8 text, as one value. One with a byte order mark or a NUL may be something else."""
    if b"\0" in payload:
        raise DecodeError("a NUL is in the text", reason="utf8")
    check_utf8(payload)
    return parse_any_text(payload)


def parse_any_text(payload: bytes, _arrival_ms: int = 0) -> Document:
    """UTF-8 text, whatever characters are in it."""
    check_size(payload)
    try:
        return payload.decode()
    except UnicodeDecodeError as exc:
        raise DecodeError("not UTF-8", reason="utf8") from exc


def parse_raw(_payload: bytes, _arrival_ms: int = 0) -> Document:
    """Return an empty document: the bytes are kept and bridged, without any readings."""
    return []
