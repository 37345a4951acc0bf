"""Readers that are compiled for a route: from a payload to its one reading, where nothing is unusual.

Invariants:
- A reader returns what `Route.decode` finds in the payload, or None; then `Route.decode` has to read it.
- It never raises and remembers nothing.

What is compiled is short Python text, because a call for each field and each step of its path would take
longer than all else. Paths of keys become lookups; of any other expression the function is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from gateway.core.errors import DecodeError
from gateway.core.events import FieldValue, Flag
from gateway.core.expressions import Find, split_path
from gateway.core.timestamps import LAST_MS, LEAST_CERTAIN_MS, TimestampReader
from gateway.decode.decoders import Parse
from gateway.decode.decoders.plain import MAX_DECODED_BYTES, parse_json
from gateway.decode.scalars import VALUE, is_scalar, scalars_of
from gateway.timekeeping.normalize import SkewPolicy

Plain = tuple[int, "int | None", int, dict[str, FieldValue], tuple[str, ...]]
"""Event time, device time, flags, fields and misses, as in `Decoded`."""
PlainReader = Callable[[bytes, Mapping[str, str], int], "Plain | None"]
"""(payload, the topic's levels, arrival time in ms) → reading."""

_CORRECTED, _SKEWED = int(Flag.CORRECTED), int(Flag.CLOCK_SKEW)


@dataclass(frozen=True)
class PlainField:
    """A field by its name. `path` is None where only `find` can tell."""

    name: str
    path: str | None
    find: Find


@dataclass(frozen=True)
class PlainTime:
    """Rules for the time that a device says. `is_plausible` is None where any time is."""

    path: str
    find: Find
    read: TimestampReader
    layout: str
    policy: Literal["normalize", "trusted", "ingest"]
    skew: SkewPolicy
    settle: Callable[[int, int], tuple[int, int]]
    is_plausible: Callable[[int, int], bool] | None


def compile_reader(parse: Parse, fields: Sequence[PlainField], time: PlainTime | None) -> PlainReader:
    """Return the reader of a route. No `fields`: it takes all scalars of an object, or a single value."""
    names: dict[str, Any] = {
        "failures": (DecodeError, ValueError),
        "loads": orjson.loads,
        "parse": parse,
        "is_scalar": is_scalar,
        "scalars_of": scalars_of,
    }
    lines = ["def read(payload, levels, arrival_ms):", *_parsing(parse is parse_json)]
    lines += _fields(fields, names) if fields else _OPEN_FIELDS
    lines += ["return arrival_ms, None, 0, fields, misses"] if time is None else _time(time, names)
    exec("\n ".join(lines), names)  # noqa: S102 - of our own text; names and paths stand in it as literals
    reader: PlainReader = names["read"]
    return reader


def _parsing(is_json: bool) -> Iterator[str]:
    if is_json:
        yield f"if len(payload) > {MAX_DECODED_BYTES}: return None"
    yield "try:"
    yield f" document = {'loads(payload)' if is_json else 'parse(payload, arrival_ms)'}"
    yield "except failures: return None"


_OPEN_FIELDS = (
    "misses = ()",
    "if document.__class__ is dict: fields = scalars_of(document)",
    f"elif is_scalar(document): fields = {{{VALUE!r}: document}}",
    "else: return None",
)


def _fields(fields: Sequence[PlainField], names: dict[str, Any]) -> Iterator[str]:
    yield "fields, misses = {}, ()"
    for number, field in enumerate(fields):
        yield from _lookup("value", field.path, f"find_{number}")
        names[f"find_{number}"] = field.find
        # The quick test is for most values; NaN and infinity do not pass it.
        yield "if (value.__class__ is float and -1e100 < value < 1e100) or is_scalar(value):"
        yield f" fields[{field.name!r}] = value"
        yield f"else: misses += ({field.name!r},)"


def _lookup(into: str, path: str | None, find: str) -> Iterator[str]:
    """Yield the lines that look a path up; what it leads through has to be objects."""
    steps = None if path is None else split_path(path)
    if not steps or not all(isinstance(step, str) for step in steps):
        yield f"{into} = {find}(document, levels)"
        return
    place = "document"
    for step in steps:
        yield f"{into} = {place}.get({step!r}) if {place}.__class__ is dict else None"
        place = into


def _time(time: PlainTime, names: dict[str, Any]) -> Iterator[str]:
    names |= {"find_time": time.find, "read_time": time.read, "settle": time.settle}
    names["is_plausible"] = time.is_plausible
    yield from _lookup("said", time.path, "find_time")
    if time.layout == "unix_ms":
        yield f"if said.__class__ is not int or not {LEAST_CERTAIN_MS} <= said <= {LAST_MS}:"
        yield " said = read_time(said)"
    else:
        yield "said = read_time(said)"
    yield "if said is None: return None"
    if time.is_plausible is not None:
        yield "if not is_plausible(said, arrival_ms): return None"
    if time.policy == "trusted":
        yield "return said, said, 0, fields, misses"
    elif time.policy == "ingest":
        yield f"return arrival_ms, said, 0 if said == arrival_ms else {_CORRECTED}, fields, misses"
    else:
        yield from _normalized(time.skew)


def _normalized(skew: SkewPolicy) -> Iterator[str]:
    """Yield the lines that settle on an event time; a large error is judged by more than the message."""
    ahead_ms = min(skew.acceptable_skew_ms, skew.future_tolerance_ms, skew.max_clock_skew_ms)
    behind_ms = min(skew.acceptable_skew_ms, skew.max_clock_skew_ms)
    yield f"if -{ahead_ms} <= arrival_ms - said <= {behind_ms}: return said, said, 0, fields, misses"
    yield "time_ms, flags = settle(said, arrival_ms)"
    yield f"return None if flags & {_SKEWED} else (time_ms, said, flags, fields, misses)"
