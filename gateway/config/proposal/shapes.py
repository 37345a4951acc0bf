"""The shape of a payload that no preset knows: its numbers, by path, and the field that is its time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import orjson

from gateway.core.timestamps import timestamp_reader

MOST_FIELDS = 20
_DEPTH = 4
_TIME_NAMES = (
    "time",
    "timestamp",
    "ts",
    "t",
    "datetime",
    "date",
    "epoch",
    "tst",
    "measured_at",
    "created_at",
)
_TIME_FORMATS = ("unix", "unix_ms", "unix_us", "unix_ns", "iso")
_NEAR_MS = 400 * 24 * 3600 * 1000
_NO_MEASUREMENT = re.compile(r"(?:^|_)(?:id|uid|uuid|seq|mac|ip|serial|version|fw|crc|ver)$", re.IGNORECASE)
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(rb"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*")
_WITH_UNIT = re.compile(rb"\s*[-+]?\d+(?:[.,]\d+)?\s*\S{1,6}\s*")
_SWITCHES = {b"ON", b"OFF", b"on", b"off", b"true", b"false", b"open", b"closed", b"OPEN", b"CLOSED"}


class Shape(NamedTuple):
    """A payload's kind (json, number, text, switch, other), and for JSON its numbers by path."""

    kind: str
    numbers: Mapping[tuple[str, ...], float]
    time_path: tuple[str, ...] | None = None
    time_format: str = ""


def shape_of(payload: bytes, arrival_ms: int) -> Shape:
    """Return the shape of a payload."""
    if _NUMBER.fullmatch(payload):
        return Shape("number", {(): float(payload)})
    if payload.strip() in _SWITCHES:
        return Shape("switch", {})
    if _WITH_UNIT.fullmatch(payload):
        return Shape("text", {(): float(re.findall(rb"[-+]?\d+(?:\.\d+)?", payload.replace(b",", b"."))[0])})
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return Shape("other", {})
    if not isinstance(found, dict):
        return Shape("other", {})
    leaves = dict(_leaves(found, ()))
    time_path, time_format = _time_of(leaves, arrival_ms)
    numbers = {
        path: float(value)
        for path, value in leaves.items()
        if isinstance(value, (int, float)) and path != time_path and not _NO_MEASUREMENT.search(path[-1])
    }
    return Shape("json", numbers, time_path, time_format)


def _leaves(found: Mapping[str, object], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    for name, value in found.items():
        path = (*above, name)
        if isinstance(value, dict):
            if len(path) < _DEPTH:
                yield from _leaves(value, path)
        elif isinstance(value, (int, float, str)):
            yield path, value


def _time_of(leaves: Mapping[tuple[str, ...], object], arrival_ms: int) -> tuple[tuple[str, ...] | None, str]:
    """The field of a time near the arrival, and the format in which it is one."""
    named = [path for path in leaves if path[-1].lower() in _TIME_NAMES]
    for path in sorted(named, key=len):
        for form in _TIME_FORMATS:
            value = leaves[path]
            if isinstance(value, bool) or (form == "iso") != isinstance(value, str):
                continue
            found_ms = timestamp_reader(form)(value)
            if found_ms is not None and abs(found_ms - arrival_ms) < _NEAR_MS:
                return path, form
    return None, ""


def jmespath_of(path: tuple[str, ...]) -> str:
    """Return the path as an expression."""
    return ".".join(name if _PLAIN.fullmatch(name) else orjson.dumps(name).decode() for name in path)


def field_name_of(path: tuple[str, ...], taken: set[str]) -> str:
    """Return a name for the field of a path that none of `taken` is: the last level, with those above where
    that is not enough."""
    parts = [re.sub(r"[^A-Za-z0-9_]", "_", name) for name in path]
    for count in range(1, len(parts) + 1):
        name = "_".join(parts[-count:])
        name = name if name[:1].isalpha() or name[:1] == "_" else f"_{name}"
        if name not in taken:
            return name
    return "_".join([*parts, str(len(taken))])
