"""Reading of one field: finding its text or value, and turning that into the final value.

In this order: `from` finds it, `parse` reads text, `map` turns words into numbers, `scale` and `offset` make
it a quantity. Each step gives None, which is a miss, for what it does not fit: a word that is not in the map
is never 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from gateway.core.errors import ConfigError
from gateway.core.events import FieldValue
from gateway.core.expressions import (
    Find,
    bytes_of_base64,
    compile_expression,
    parse_json_text,
    split_path,
)
from gateway.core.quantities import number_in

Parse = Literal["number", "json", "hex", "base64"]
Step = Callable[[object], object]


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """Rules for reading one field; a plain expression is the same with `from` alone.

    `path` is None for a field that is computed.
    """

    path: str | None = None
    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""
    map: Mapping[str, FieldValue] | None = None
    parse: Parse | None = None
    compute: str | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.compute is None):
            raise ConfigError(
                "a field has either from or compute", hint="write {from: path} or {compute: expression}"
            )
        if self.compute is not None and (self.map is not None or self.parse is not None):
            raise ConfigError(
                "a field that is computed has no map or parse", hint="put it into a field before"
            )


def field_finder(field: str | FieldSpec, levels: Collection[str]) -> Find:
    """Return the function that finds a field's value in a document. Raises ConfigError for an invalid
    expression."""
    if isinstance(field, str):
        return compile_expression(field, levels)
    path, steps = field.path or "@", value_steps(field)
    if field.parse != "json":
        return _followed(compile_expression(path, levels), steps)
    return _followed(_json_inside(path, levels), steps)


def value_steps(field: FieldSpec) -> tuple[Step, ...]:
    """Return the steps that a value goes through once it is found, in order."""
    steps: list[Step] = []
    if field.parse in _PARSERS:
        steps.append(_PARSERS[field.parse])
    if field.map is not None:
        steps.append(_mapped(field.map))
    if field.scale != 1.0 or field.offset != 0.0:
        steps.append(_scaled(field.scale, field.offset))
    return tuple(steps)


def _followed(find: Find, steps: tuple[Step, ...]) -> Find:
    if not steps:
        return find
    if len(steps) == 1:
        (only,) = steps
        return lambda document, levels: only(find(document, levels))

    def find_and_convert(document: object, levels: Mapping[str, str]) -> object:
        value = find(document, levels)
        for step in steps:
            value = step(value)
        return value

    return find_and_convert


def _json_inside(path: str, levels: Collection[str]) -> Find:
    """The path's value where some part of the way is text that holds JSON: it is parsed, and the way goes on.

    Of a real expression, the value itself is the text.
    """
    parts = split_path(path)
    if parts is None:
        whole = compile_expression(path, levels)
        return lambda document, named: _read_inside(whole(document, named))

    def find(document: object, _levels: Mapping[str, str]) -> object:
        for part in parts:
            if isinstance(document, str):
                document = parse_json_text(document)
            try:
                document = document[part]  # type: ignore[index] # of another type: a miss, below
            except (LookupError, TypeError):
                return None
        return _read_inside(document)

    return find


def _read_inside(value: object) -> object:
    """Text that is a JSON value, as that value; a plain word is none."""
    return parse_json_text(value) if isinstance(value, str) else value


def _number(value: object) -> object:
    if isinstance(value, str):
        return number_in(value)
    return value if type(value) in (int, float) else None


_HEX_NUMBER = re.compile(r"\s*(?:0[xX])?([0-9A-Fa-f]{1,16})\s*")


def _hexadecimal(value: object) -> object:
    found = _HEX_NUMBER.fullmatch(value) if isinstance(value, str) else None
    return None if found is None else int(found[1], 16)


def _base64_text(value: object) -> object:
    found = bytes_of_base64(value) if isinstance(value, str) else None
    try:
        return None if found is None else found.decode()
    except UnicodeDecodeError:
        return None


_PARSERS: Mapping[str | None, Step] = {"number": _number, "hex": _hexadecimal, "base64": _base64_text}


def word(value: object) -> str | None:
    """Return the text of a payload's value as a key of `map`."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, (int, float)) else None


def _mapped(words: Mapping[str, FieldValue]) -> Step:
    def look_up(value: object) -> object:
        key = word(value)
        return None if key is None else words.get(key)

    return look_up


def _scaled(scale: float, offset: float) -> Step:
    def convert(value: object) -> object:
        if isinstance(value, str):
            try:
                value = float(value) if "_" not in value else None
            except ValueError:
                return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return _tidy(value * scale + offset)

    return convert


def _tidy(number: float) -> float:
    """Without what binary fractions add: 194 × 0.1 is 19.4, not 19.400000000000002."""
    return float(f"{number:.15g}")
