"""Names and values out of a payload, for services that know no events: no schema, no route needed."""

from __future__ import annotations

import math
from base64 import b64encode

import orjson

from gateway.core.events import Kind, WireEvent


def plain_values(event: WireEvent) -> dict[str, object]:
    """The members of a JSON object, or all of it as `value`. Null and what is no number are left out. Of an
    aggregate, its results as `window.name`."""
    values = _members(event.payload)
    if event.kind == Kind.AGGREGATE:
        window, result = values.get("window"), values.get("result")
        named = result if isinstance(result, dict) else {"result": result}
        values = {f"{window}.{name}": value for name, value in named.items()}
    return {name: value for name, value in values.items() if not _is_nothing(value)}


def aggregate_key(event: WireEvent) -> str:
    """The key of an aggregate's window; empty for other events."""
    return str(_members(event.payload).get("key") or "") if event.kind == Kind.AGGREGATE else ""


def _members(payload: bytes) -> dict[str, object]:
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError:
        found = _text(payload)
    return found if isinstance(found, dict) else {"value": found}


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return b64encode(payload).decode()


def _is_nothing(value: object) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))
