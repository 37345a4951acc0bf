"""Paths into decoded messages: JMESPath, with a short cut for the plain dotted paths that most are.

`{device}` stands for a named level of the topic and `{topic}` for the whole of it. To the functions of
JMESPath this adds some for the shapes in which devices send:
- `items(object)` gives `[{"key": …, "value": …}, …]`; `sections(object, 'name')` the objects inside, each
  with its key as `name`.
- `zip_objects('a', 'b', list, list)` makes parallel lists into a list of objects; `inherit(list, object)`
  gives each object of the list what it lacks of `object`.
- `parse_json(text)`, `number(text)`, `split(text, sep)` read text; `base64(text)` and `hex(text)` give its
  bytes as numbers, and `unpack(bytes, '>hB')` the numbers that these are, as in Python's `struct`.
"""

from __future__ import annotations

import binascii
import json
import re
import struct
from base64 import b64decode
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import zip_longest
from typing import Any

import jmespath
import orjson
from jmespath import exceptions, functions

from gateway.core.errors import ConfigError
from gateway.core.quantities import number_in

Find = Callable[[object, Mapping[str, str]], object]
"""(document, named levels of the topic) → what stands there, or None. Never raises."""

TOPIC = "topic"

_LEVEL = re.compile(r"\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}")
_ALL_SECTIONS = re.compile(r"sections\(@, *'([^'\\]*)'\)")
_STEP = re.compile(r'(?:^|\.)([A-Za-z_][A-Za-z0-9_]*|"(?:[^"\\]|\\.)*")|\[(-?\d+)\]')

# What JMESPath's functions raise on data that they were not meant for. All of it means: nothing there.
_MISFITS = (
    *(exceptions.JMESPathError, ArithmeticError, TypeError, ValueError, AttributeError, RecursionError),
    *(LookupError, struct.error),
)


def _sections(mapping: dict[str, object], name: str) -> list[dict[str, object]]:
    return [{name: key, **inner} for key, inner in mapping.items() if type(inner) is dict]


class _Functions(functions.Functions):
    @functions.signature({"types": ["object"]})
    def _func_items(self, mapping: dict[str, object]) -> list[dict[str, object]]:
        return [{"key": key, "value": value} for key, value in mapping.items()]

    @functions.signature({"types": ["object"]}, {"types": ["string"]})
    def _func_sections(self, mapping: dict[str, object], name: str) -> list[dict[str, object]]:
        return _sections(mapping, name)

    @functions.signature({"types": ["string", "null"]})
    def _func_parse_json(self, text: str | None) -> object:
        return parse_json_text(text)

    @functions.signature({"types": ["string", "number", "null"]})
    def _func_number(self, value: object) -> object:
        return number_in(value) if isinstance(value, str) else value

    @functions.signature({"types": ["string"]}, {"types": ["string"]})
    def _func_split(self, text: str, separator: str) -> list[str]:
        return [part.strip() for part in text.split(separator)]

    @functions.signature({"types": ["string", "array", "object"], "variadic": True})
    def _func_zip_objects(self, *arguments: object) -> list[dict[str, object]] | None:
        return _zip_objects(arguments)

    @functions.signature({"types": ["array"]}, {"types": ["object"]})
    def _func_inherit(self, listed: list[object], parent: dict[str, object]) -> list[object]:
        return [{**parent, **each} if type(each) is dict else each for each in listed]

    @functions.signature({"types": ["string"]})
    def _func_base64(self, text: str) -> list[int] | None:
        found = bytes_of_base64(text)
        return None if found is None else list(found)

    @functions.signature({"types": ["string"]})
    def _func_hex(self, text: str) -> list[int] | None:
        found = bytes_of_hex(text)
        return None if found is None else list(found)

    @functions.signature({"types": ["array"]}, {"types": ["string"]})
    def _func_unpack(self, numbers: list[int], layout: str) -> list[object]:
        return [part for part in struct.unpack_from(layout, bytes(numbers)) if not isinstance(part, bytes)]


def parse_json_text(text: object) -> object:
    """What the JSON inside of a text says, or None where it is no JSON."""
    if not isinstance(text, str):
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def bytes_of_base64(text: str) -> bytes | None:
    """The bytes that base64 text stands for (with `+/` or `-_`, padded or not), or None."""
    compact = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def bytes_of_hex(text: str) -> bytes | None:
    """The bytes that hexadecimal text stands for (also as `0x…`, `01:ff`, `01 ff`), or None."""
    try:
        return bytes.fromhex(text.strip().removeprefix("0x").replace(":", "").replace("-", ""))
    except ValueError:
        return None


def _zip_objects(arguments: tuple[object, ...]) -> list[dict[str, object]] | None:
    """Objects out of parallel lists: their names first, as texts or as a list, or one object of lists.

    The longest list counts; what a shorter one lacks is null.
    """
    if len(arguments) == 1 and isinstance(arguments[0], dict):
        names, columns = list(arguments[0]), list(arguments[0].values())
    else:
        names = [each for each in arguments if isinstance(each, str)]
        columns = [each for each in arguments if not isinstance(each, str)]
        if not names and columns and isinstance(columns[0], list):
            names, columns = columns[0], columns[1:]
    if not columns or len(names) != len(columns) or not all(isinstance(each, list) for each in columns):
        return None
    return [dict(zip(names, row, strict=True)) for row in zip_longest(*columns)]


_OPTIONS = jmespath.Options(custom_functions=_Functions())


def compile_expression(text: str, levels: Collection[str] = ()) -> Find:
    """Compile one expression; `levels` are the names that the topic has.

    Raises ConfigError when it is not JMESPath, or calls or names what does not exist.
    """
    level = _LEVEL.fullmatch(text.strip())
    if level:
        return _find_level(level[1], levels)
    if text.strip() == "@":
        return lambda document, _levels: document
    steps = _plain_steps(text)
    if steps is None:
        return _find_common(text) or _find_by_jmespath(text)
    if any(isinstance(step, int) for step in steps):
        return _find_by_steps(steps)
    return _find_by_keys(tuple(str(step) for step in steps))


def _find_level(name: str, levels: Collection[str]) -> Find:
    if name != TOPIC and name not in levels:
        known = ", ".join(f"{{{level}}}" for level in sorted({*levels, TOPIC}))
        raise ConfigError(f"the topic has no level {{{name}}}", hint=f"there is {known}")
    return lambda _document, named: named.get(name)


def split_path(text: str) -> tuple[str | int, ...] | None:
    """The steps of a path such as `ENERGY.Total[0]`, `()` for `@`, or None where it is an expression."""
    return () if text.strip() == "@" else _plain_steps(text.strip())


def _plain_steps(text: str) -> tuple[str | int, ...] | None:
    """The steps of a path such as `ENERGY.Total[0]`, or None where it is a real expression."""
    steps: list[str | int] = []
    position = 0
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None or (position == 0 and match[1] is None):
            return None
        steps.append(int(match[2]) if match[1] is None else _name(match[1]))
        position = match.end()
    return tuple(steps) or None


def _name(identifier: str) -> str:
    if not identifier.startswith('"'):
        return identifier
    try:
        return str(json.loads(identifier))
    except ValueError as exc:
        raise ConfigError(f"{identifier} is not a quoted name: {exc}") from exc


def _find_by_keys(keys: tuple[str, ...]) -> Find:
    if len(keys) == 1:
        (only,) = keys

        def find_one(document: object, _levels: Mapping[str, str]) -> object:
            return document.get(only) if type(document) is dict else None

        return find_one

    def find(document: Any, _levels: Mapping[str, str]) -> object:
        for key in keys:
            if type(document) is not dict:
                return None
            document = document.get(key)
        return document

    return find


def _find_by_steps(steps: tuple[str | int, ...]) -> Find:
    def find(document: Any, _levels: Mapping[str, str]) -> object:
        for step in steps:
            # A text can be indexed too, but its letters are no readings.
            if type(document) is not (list if type(step) is int else dict):
                return None
            try:
                document = document[step]  # type: ignore[index] # a list for a number, a dict for a name
            except LookupError:
                return None
        return document

    return find


def _find_common(text: str) -> Find | None:
    """What presets use, and JMESPath takes many times as long for: `a || b.c`, `sections(@, 'name')`."""
    sections = _ALL_SECTIONS.fullmatch(text.strip())
    if sections:
        return _find_sections(sections[1])
    choices = [_plain_steps(choice.strip()) for choice in text.split("||")]
    return None if None in choices else _find_first([_find_by_steps(choice) for choice in choices if choice])


def _find_sections(name: str) -> Find:
    return lambda document, _levels: _sections(document, name) if isinstance(document, dict) else None


def _find_first(finders: list[Find]) -> Find:
    """`a || b` as in JMESPath: the first that is neither null nor false nor empty, else the last."""

    def find(document: object, levels: Mapping[str, str]) -> object:
        found: object = None
        for each in finders:
            found = each(document, levels)
            if found or (type(found) in (int, float)):
                return found
        return found

    return find


def _find_by_jmespath(text: str) -> Find:
    try:
        expression = jmespath.compile(text)
    except exceptions.JMESPathError as exc:
        raise ConfigError(
            f"{text!r} is not a JMESPath expression",
            hint='a name with other characters than letters, digits and _ stands in quotes: "my-name".value',
        ) from exc
    _check_calls(expression.parsed)

    def find(document: object, _levels: Mapping[str, str]) -> object:
        try:
            return expression.search(document, _OPTIONS)
        except _MISFITS:
            return None

    return find


def _check_calls(tree: object) -> None:
    """JMESPath itself finds an unknown function, or a wrong number of arguments, only in each message."""
    for node in _nodes(tree):
        if node.get("type") != "function_expression":
            continue
        known = _Functions.FUNCTION_TABLE.get(node["value"])
        if known is None:
            names = ", ".join(sorted(_Functions.FUNCTION_TABLE))
            raise ConfigError(f"JMESPath has no function {node['value']}()", hint=f"there is {names}")
        wanted, given = known["signature"], len(node["children"])
        variadic = bool(wanted) and wanted[-1].get("variadic", False)
        if given < len(wanted) or (given > len(wanted) and not variadic):
            raise ConfigError(f"{node['value']}() takes {len(wanted)} arguments, not {given}")


def _nodes(tree: object) -> Iterator[dict[str, Any]]:
    if not isinstance(tree, dict):
        return
    yield tree
    for child in tree.get("children", ()):
        yield from _nodes(child)
