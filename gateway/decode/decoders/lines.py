"""Formats that hold a reading a line: NDJSON and InfluxDB's line protocol.

A line that cannot be read is None in the list, which is a counted miss, and costs no other line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from gateway.core.errors import DecodeError
from gateway.decode.decoders.plain import check_size, check_utf8, parse_json

Document = object


def parse_ndjson(payload: bytes, _arrival_ms: int = 0) -> list[Document]:
    """JSON documents, one a line."""
    return _each_line(payload, "ndjson", parse_json)


def parse_line_protocol(payload: bytes, _arrival_ms: int = 0) -> list[Document]:
    """Parse lines of `measurement,tag=text field=1.5,other="text" 1700000000000000000`.

    Each becomes an object of its tags and fields, with `measurement` and, where the line has one, `time` as
    the whole number that stands there. A field goes before a tag of its name.
    """
    return _each_line(payload, "influx", _point)


_BLANKS = b" \t\r"


def _each_line(payload: bytes, reason: str, read: Callable[[bytes], Document]) -> list[Document]:
    check_size(payload)
    check_utf8(payload)
    if payload.endswith(b"\0"):
        raise DecodeError("a NUL ends the text", reason=reason)
    documents: list[Document] = []
    problem: DecodeError | None = None
    for line in payload.splitlines():
        if not line.strip(_BLANKS) or (reason == "influx" and line.lstrip().startswith(b"#")):
            continue
        try:
            documents.append(read(line.strip(_BLANKS)))
        except DecodeError as exc:
            problem = exc
            documents.append(None)
    if all(document is None for document in documents):
        raise DecodeError(f"no line can be read: {problem or 'all are blank'}", reason=reason)
    return documents


# A backslash keeps what follows it from being a separator; in a string field it does so for quotes only.
_KEY = r"(?:[^\\,= ]|\\.)+"
_VALUE = r'"(?:[^"\\]|\\.)*"|[^\s,="]+'
_POINT = re.compile(
    rf"(?P<measurement>(?:[^\\, ]|\\.)+)(?P<tags>(?:,{_KEY}={_KEY})*) +"
    rf"(?P<fields>{_KEY}=(?:{_VALUE})(?:,{_KEY}=(?:{_VALUE}))*)(?: +(?P<time>-?\d{{1,19}}))?",
)
_TAG = re.compile(rf",({_KEY})=({_KEY})")
_FIELD = re.compile(rf"({_KEY})=({_VALUE})(?:,|$)")
_ESCAPED = re.compile(r"\\([,= \"\\])")
_BOOLEANS = {
    **dict.fromkeys(("t", "T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("f", "F", "false", "False", "FALSE"), False),
}
_WHOLE = re.compile(r"-?\d{1,20}[iu]")
_FLOAT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def _point(line: bytes) -> dict[str, Document]:
    found = _POINT.fullmatch(line.decode())
    if found is None:
        raise DecodeError("not a line of the line protocol", reason="influx")
    point: dict[str, Document] = {"measurement": _plain(found["measurement"])}
    if found["time"]:
        point["time"] = int(found["time"])
    for name, value in _TAG.findall(found["tags"]):
        point[_plain(name)] = _plain(value)
    for name, value in _FIELD.findall(found["fields"]):
        point[_plain(name)] = _field_value(value)
    return point


def _plain(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)


def _field_value(text: str) -> object:
    if text[0] == '"':
        return re.sub(r'\\(["\\])', r"\1", text[1:-1])
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _WHOLE.fullmatch(text):
        return int(text[:-1])
    if not _FLOAT.fullmatch(text):
        raise DecodeError(f"{text[:40]!r} is no value of a field", reason="influx")
    number = float(text)
    return number if math.isfinite(number) else None
