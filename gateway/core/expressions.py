"""Paths into decoded messages: JMESPath, with a short cut for the plain dotted paths that most are.

`{device}` stands for a named level of the topic and `{topic}` for the whole of it. To the functions of
JMESPath this adds some for the shapes in which devices send:
- `items(object)` gives `[{"key": …, "value": …}, …]`; `sections(object, 'name')` the objects inside, each
  with its key as `name`.
- `zip_objects('a', 'b', list, list)` makes parallel lists into a list of objects; `inherit(list, object)`
  gives each object of the list what it lacks of `object`.
- `flat(object)` gives what is nested names with dots, `a.b` and, in a list, `a.1`; `switches(object)` turns
  the words on, off, true and false into booleans, `scalar(text)` one such word, or a number. `sensors(object,
  'name')` does what Tasmota's messages need.
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
_ALL_SECTIONS = re.compile(r"(sections|sensors)\(@, *'([^'\\]*)'\)")
_STEP = re.compile(r'(?:^|\.)([A-Za-z_][A-Za-z0-9_]*|"(?:[^"\\]|\\.)*")|\[(-?\d+)\]')

# What JMESPath's functions raise on data that they were not meant for. All of it means: nothing there.
_MISFITS = (
    *(exceptions.JMESPathError, ArithmeticError, TypeError, ValueError, AttributeError, RecursionError),
    *(LookupError, struct.error),
)


def _sections(mapping: dict[str, object], name: str) -> list[dict[str, object]]:
    return [{name: key, **inner} for key, inner in mapping.items() if type(inner) is dict]


_SWITCHES = {"on": True, "off": False, "true": True, "false": False}


def _switch(value: object) -> object:
    """A boolean for a word that is one; anything else stays."""
    return _SWITCHES.get(value.lower(), value) if isinstance(value, str) else value


def _scalar(value: object) -> object:
    """Return the value of a one-word text: a boolean, a number without a unit, or a text."""
    switched = _switch(value)
    if not isinstance(switched, str):
        return switched
    try:
        return float(switched) if "_" not in switched else switched
    except ValueError:
        return switched


def _flat(value: object, prefix: str, into: dict[str, object]) -> dict[str, object]:
    if isinstance(value, dict):
        for key, inner in value.items():
            _flat(inner, f"{prefix}.{key}" if prefix else key, into)
    elif isinstance(value, list):
        for number, inner in enumerate(value, 1):
            _flat(inner, f"{prefix}.{number}", into)
    else:
        into[prefix] = value
    return into


_NO_SENSORS = ("Time", "Epoch")


def _sensors(mapping: dict[str, object], name: str) -> list[dict[str, object]]:
    """Each sensor of a message of Tasmota's, with its name as `name`.

    What is an object of objects holds devices by their addresses (`ZbReceived`); lists, one number for each
    phase, become numbered fields; what stands beside the sensors, such as switches, is one called `device`.
    """
    found: list[dict[str, object]] = []
    beside: dict[str, object] = {}
    for key, inner in mapping.items():
        if type(inner) is dict:
            if inner and all(type(each) is dict for each in inner.values()):
                found += [{name: each.get("Name") or at, **each} for at, each in inner.items()]
            else:
                found.append({name: key, **inner})
        elif key not in _NO_SENSORS and not key.endswith("Unit"):
            beside[key] = _switch(inner)
    if beside:
        found.append({name: "device", **beside})
    return [_numbered(each) if list in map(type, each.values()) else each for each in found]


def _numbered(fields: dict[str, object]) -> dict[str, object]:
    """`{"Power": [1, 2]}` as `{"Power_1": 1, "Power_2": 2}`."""
    numbered: dict[str, object] = {}
    for key, value in fields.items():
        if type(value) is list:
            numbered |= {f"{key}_{number}": each for number, each in enumerate(value, 1)}
        else:
            numbered[key] = value
    return numbered


class _Functions(functions.Functions):
    @functions.signature({"types": ["object"]})
    def _func_items(self, mapping: dict[str, object]) -> list[dict[str, object]]:
        return [{"key": key, "value": value} for key, value in mapping.items()]

    @functions.signature({"types": ["object"]}, {"types": ["string"]})
    def _func_sections(self, mapping: dict[str, object], name: str) -> list[dict[str, object]]:
        return _sections(mapping, name)

    @functions.signature({"types": ["object"]}, {"types": ["string"]})
    def _func_sensors(self, mapping: dict[str, object], name: str) -> list[dict[str, object]]:
        return _sensors(mapping, name)

    @functions.signature({"types": ["object", "array", "null"]})
    def _func_flat(self, value: object) -> dict[str, object]:
        return {} if value is None else _flat(value, "", {})

    @functions.signature({"types": ["object"]})
    def _func_switches(self, mapping: dict[str, object]) -> dict[str, object]:
        return {key: _switch(value) for key, value in mapping.items()}

    @functions.signature({"types": ["string", "number", "boolean", "null"]})
    def _func_scalar(self, value: object) -> object:
        return _scalar(value)

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
    """Return the content of JSON inside a text, or None where it is no JSON."""
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
    try:
        return _compile(text, levels)
    except RecursionError as exc:
        raise ConfigError("is nested too deeply", hint="write it shorter") from exc


def _compile(text: str, levels: Collection[str]) -> Find:
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


def choices(text: str) -> list[str]:
    """The paths of `a || b.c`, or the expression itself where it is another one."""
    paths = [path.strip() for path in text.split("||")]
    return paths if all(split_path(path) for path in paths) else [text]


_JUDGEMENTS = ("comparator", "not_expression")


def is_comparison(text: str) -> bool:
    """Return True if an expression is only a comparison, which gives false for missing or unknown values."""
    if _LEVEL.fullmatch(text.strip()) or split_path(text) is not None:
        return False
    try:
        tree = jmespath.compile(text).parsed
    except exceptions.JMESPathError:
        return False
    return _judges(tree)


def _judges(tree: Any) -> bool:
    if tree["type"] in ("or_expression", "and_expression"):
        return all(_judges(child) for child in tree["children"])
    return tree["type"] in _JUDGEMENTS


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
    """Compile the forms common in presets, for which JMESPath takes many times as long: `a || b.c`,
    `sections(@, 'name')`."""
    sections = _ALL_SECTIONS.fullmatch(text.strip())
    if sections:
        return _find_sections(_sections if sections[1] == "sections" else _sensors, sections[2])
    choices = [_plain_steps(choice.strip()) for choice in text.split("||")]
    return None if None in choices else _find_first([_find_by_steps(choice) for choice in choices if choice])


def _find_sections(cut: Callable[[dict[str, object], str], object], name: str) -> Find:
    return lambda document, _levels: cut(document, name) if isinstance(document, dict) else None


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


_CALCULATION = re.compile(r"[\w\]\")`]\s+[-+*/%]\s+[\w\"(`]|[*/]\s*`?\d")


def _hint_for(text: str) -> str:
    if _CALCULATION.search(text):
        return (
            "JMESPath does not calculate; write {from: t, scale: 0.1}, or {compute: t / 10} over other fields"
        )
    return 'a name with other characters than letters, digits and _ stands in quotes: "my-name".value'


def _find_by_jmespath(text: str) -> Find:
    try:
        expression = jmespath.compile(text)
    except exceptions.JMESPathError as exc:
        raise ConfigError(f"{text!r} is not a JMESPath expression", hint=_hint_for(text)) from exc
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
