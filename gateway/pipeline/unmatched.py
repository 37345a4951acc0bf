"""Names in the configuration that no message has: fields of routes, fields and keys of windows.

Nothing here is spent on a message that matches: at times, a look compares the names with the last readings of
devices. A name is told once in the log, and listed until it matches.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import NamedTuple

from gateway.core.events import FieldValue
from gateway.core.topics import TopicTemplate, filter_matches, placeholders
from gateway.decode.fields import FieldSpec
from gateway.decode.presence import Presence
from gateway.decode.routes import Route, RouteTable
from gateway.pipeline.explanation import names_in, nearest, type_name
from gateway.windows.counters import Counters
from gateway.windows.spec import WindowSpec

log = logging.getLogger(__name__)

LOOK_EVERY_MS = 2_000
PATIENCE_MS = 300_000
"""Time without a match before a name is told; one that is nearly another is told at the next look."""
MAX_SOURCES = 5_000
"""Topics whose last readings are looked at; a fleet's devices are much alike."""
MAX_TOLD = 100
_SHOWN_NAMES = 12
_SHOWN_CHARS = 40
_NEAR = 0.8

Key = tuple[str, str]
"""`route r` or `window w`, and the name."""


class Example(NamedTuple):
    """A message in which a field was missing."""

    topic: str
    payload: bytes
    arrival_ms: int


class _Readings(NamedTuple):
    """The fields of last readings, each with a value that it had; `any` is False if there are none."""

    fields: Mapping[str, FieldValue]
    any: bool


class UnmatchedNames:
    """Used by the writer's thread; `told` may be read from any."""

    def __init__(self) -> None:
        self.told: tuple[str, ...] = ()
        """A sentence for each name that nothing matches."""
        self._since_ms: dict[Key, int] = {}
        self._said: dict[Key, str] = {}
        self._look_at_ms = 0

    def look(
        self,
        now_ms: int,
        routes: RouteTable,
        specs: Iterable[WindowSpec],
        counters: Mapping[str, Counters],
        misses: Mapping[tuple[str, str], int],
        examples: Mapping[str, Example],
        presence: Presence,
    ) -> None:
        """Find names without a match, unless the last look was just now. Times are of any steady clock."""
        if now_ms < self._look_at_ms:
            return
        self._look_at_ms = now_ms + LOOK_EVERY_MS
        found = {
            **_of_routes(routes, misses, examples, presence),
            **_of_windows(routes, specs, counters, presence),
        }
        self._since_ms = {key: self._since_ms.get(key, now_ms) for key in found}
        due = {
            key: sentence
            for key, (sentence, is_near) in found.items()
            if now_ms - self._since_ms[key] >= (0 if is_near else PATIENCE_MS)
        }
        for key, sentence in due.items():
            if key not in self._said and len(self._said) < MAX_TOLD:
                self._said[key] = sentence
                log.warning("%s", sentence)
        self.told = tuple(list(due.values())[:MAX_TOLD])


def _of_routes(
    routes: RouteTable,
    misses: Mapping[tuple[str, str], int],
    examples: Mapping[str, Example],
    presence: Presence,
) -> dict[Key, tuple[str, bool]]:
    found: dict[Key, tuple[str, bool]] = {}
    missed = {name for name, _ in misses}
    for route in routes.routes:
        spec = route.spec
        if spec.name not in missed or spec.name not in examples:
            continue
        had = _last_readings(presence, route=spec.name).fields
        for name, where in _paths(route):
            if (spec.name, name) in misses and name not in had:
                came = _names(route, examples[spec.name])
                found[f"route {spec.name}", name] = _sentence(f"route {spec.name}", name, where, came)
    return found


def _paths(route: Route) -> Iterator[tuple[str, str]]:
    """The fields that a route finds in messages, each with its path."""
    for name, entry in route.spec.fields.items():
        path = entry.path if isinstance(entry, FieldSpec) else entry
        if path is not None:
            yield name, path


def _names(route: Route, example: Example) -> tuple[str, ...]:
    found = route.template.match(example.topic)
    return names_in(route, found or {}, example.payload, example.arrival_ms)


def _of_windows(
    routes: RouteTable, specs: Iterable[WindowSpec], counters: Mapping[str, Counters], presence: Presence
) -> dict[Key, tuple[str, bool]]:
    found: dict[Key, tuple[str, bool]] = {}
    templates = {route.spec.name: route.template for route in routes.routes}
    for spec in specs:
        numbers = counters.get(spec.name)
        if numbers is None or (len(spec.fields) == 1 and not (numbers.misses or numbers.key_misses)):
            continue
        had = _last_readings(presence, spec.route, spec.topic)
        if not had.any:
            continue
        levels = {
            *(TopicTemplate(spec.topic).names if spec.topic else ()),
            *(templates[spec.route].names if spec.route in templates else ()),
        }
        where = f"window {spec.name}"
        for name in spec.read_fields:
            if name not in had.fields:
                found[where, name] = _sentence(where, name, name, had.fields)
            elif not numbers.events and isinstance(had.fields[name], str):
                found[where, name] = _no_number(where, name, had.fields[name]), True
        for name in placeholders(spec.key):
            if name not in levels and name not in had.fields:
                key = f"{{{name}}} of the key"
                found[where, key] = _sentence(where, key, name, [*levels, *had.fields])
    return found


def _last_readings(presence: Presence, route: str | None = None, topic: str | None = None) -> _Readings:
    """The last readings that come through a route, or on the topics of a template."""
    fields: dict[str, FieldValue] = {}
    seen = False
    topic_filter = TopicTemplate(topic).filter if topic else None
    for source, last in presence.newest_sources(MAX_SOURCES):
        if route is not None and last.route != route:
            continue
        if topic_filter is None or filter_matches(topic_filter, source):
            fields.update(last.sample.fields)
            seen = True
    return _Readings(fields, seen)


def _sentence(where: str, name: str, path: str, came: Iterable[str]) -> tuple[str, bool]:
    """The sentence, and whether the name is nearly one that came."""
    names = list(came)
    shown = ", ".join(names[:_SHOWN_NAMES]) + (", …" if len(names) > _SHOWN_NAMES else "")
    near = nearest(path, names) or nearest(name, names)
    hint = f"did you mean {near}? " if near else ""
    said = f"{where}: no message has {name}; {hint}what came: {shown or 'nothing with a name'}"
    return said, bool(_nearly(path, names))


def _nearly(path: str, names: list[str]) -> list[str]:
    ends = [part.lower() for each in names for part in (each, each.rpartition(".")[2])]
    return get_close_matches(path.rpartition(".")[2].lower(), ends, n=1, cutoff=_NEAR)


def _no_number(where: str, name: str, value: FieldValue) -> str:
    shown = str(value)[:_SHOWN_CHARS]
    return f"{where}: {name} is no number in any message; it came as {type_name(value)}, such as {shown!r}"
