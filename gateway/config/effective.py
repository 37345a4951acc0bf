"""The configuration in use, a line for each value, as people write it; secrets are hidden."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, get_args

import orjson
from pydantic import BaseModel, SecretStr, WithJsonSchema

from gateway.core.timestamps import TimeBound

HIDDEN = "(hidden)"
_MAX_CHARS = 500
_IN_URL = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]*@")
_OR_AUTO = "duration or auto"
_SECRET_KEYS = frozenset({"headers", "command"})
"""Values that may hold a secret although they are plain text."""


class Setting(NamedTuple):
    """A value by its place, such as `windows.minute.window.size`; `given` if the file names it."""

    path: str
    value: str
    given: bool


def effective(config: BaseModel) -> list[Setting]:
    """Return every value of a configuration, in the order of the file."""
    return [*_lines(config, "")]


def _lines(model: BaseModel, path: str) -> Iterator[Setting]:
    given = model.model_fields_set
    plain = model.model_dump(mode="json")
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        place = f"{path}.{name}" if path else name
        if value is None and name not in given:
            continue
        if isinstance(value, SecretStr) or (name in _SECRET_KEYS and value):
            yield Setting(place, HIDDEN, name in given)
            continue
        kind = _kind(field.annotation, field.metadata)
        yield from _of_value(value, plain[name], place, kind, name in given)


def _of_value(value: object, plain: Any, path: str, kind: str, given: bool) -> Iterator[Setting]:
    """`plain` is the value as JSON, which knows what must not be shown."""
    if isinstance(value, BaseModel):
        lines = [*_lines(value, path)]
        yield from lines if given else (line._replace(given=False) for line in lines)
    elif isinstance(value, Mapping) and value:
        for key, one in value.items():
            yield from _of_value(one, plain[key], f"{path}.{key}", kind, given)
    elif isinstance(value, Sequence) and any(isinstance(one, BaseModel) for one in value):
        for at, one in enumerate(value):
            yield from _of_value(one, plain[at], f"{path}.{getattr(one, 'name', None) or at}", kind, given)
    elif isinstance(value, TimeBound):
        yield Setting(path, duration_text(value.ms) if value.relative else _date_text(value.ms), given)
    elif isinstance(value, SecretStr):
        yield Setting(path, HIDDEN, given)
    else:
        yield Setting(path, _text(plain, kind)[:_MAX_CHARS], given)


def _text(plain: object, kind: str) -> str:
    match plain:
        case None:
            text = "off"
        case bool():
            text = str(plain).lower()
        case int() | float():
            text = _number(plain, kind)
        case list():
            text = ", ".join(_text(one, kind) for one in plain) or "none"
        case dict():
            text = orjson.dumps(plain).decode() if plain else "none"
        case _:
            text = str(plain)
    return _IN_URL.sub(rf"\1:{HIDDEN}@", text)


def _number(value: float, kind: str) -> str:
    if kind == _OR_AUTO and not value:
        return "auto"
    if kind in ("duration", _OR_AUTO):
        return duration_text(round(value))
    if "size" in kind:
        return size_text(round(value))
    if kind == "rate":
        return f"{size_text(round(value))}/s"
    if kind == "rate of messages":
        return f"{value:g}/s"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _date_text(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat().removesuffix("T00:00:00+00:00")


def duration_text(ms: int) -> str:
    """`90000` → `1m30s`: exact, and readable as a configuration's duration."""
    if not ms:
        return "0s"
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, ms = divmod(ms, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def size_text(count: int) -> str:
    """`67108864` → `64MiB`: exact, and readable as a configuration's size."""
    for unit, size in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return f"{count}B"


def _kind(annotation: Any, metadata: Sequence[object]) -> str:
    """The kind of a text that a number was written as, out of its type; empty where it is a plain one."""
    for each in metadata:
        if isinstance(each, WithJsonSchema) and each.json_schema:
            choices = [each.json_schema, *each.json_schema.get("anyOf", ())]
            kind = next((str(choice["$comment"]) for choice in choices if "$comment" in choice), "")
            if kind:
                return _OR_AUTO if kind == "duration" and {"const": "auto"} in choices else kind
    for inner in get_args(annotation):
        more = getattr(inner, "__metadata__", ())
        if found := _kind(inner, more):
            return found
    return ""
