"""`gateway check --against SAMPLES.ndjson`: the readings that recorded messages give, and what none gives."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson

from gateway.cli.explain import Explainer
from gateway.config import Config
from gateway.core.topics import TopicTemplate, placeholders
from gateway.core.units import format_duration
from gateway.pipeline.explanation import Explanation, clock_text, nearest
from gateway.pipeline.replay import read_events

SHOWN_NAMES = 12


class Against:
    """Runs samples through a configuration and remembers what came. Raises ReplayError for a bad line."""

    def __init__(self, config: Config, samples: Path) -> None:
        self._config = config
        explainer = Explainer(config)
        with samples.open("rb") as file:
            events = read_events(_dated(file), str(samples))
            self.explanations = [explainer(event.topic, event.payload, event.time_ms) for event in events]

    def lines(self) -> Iterator[str]:
        """Yield a line for each reading, then a list of fields that no sample had."""
        for number, said in enumerate(self.explanations, 1):
            yield from _sample_lines(number, said)
        yield from (f"warning: {warning}" for warning in self.warnings())

    def warnings(self) -> list[str]:
        """Fields and keys that no sample had, with the nearest of the names that came."""
        return [*self._fields(), *self._sources(), *self._window_names()]

    def _of_route(self, name: str) -> list[Explanation]:
        return [said for said in self.explanations if said.route == name and said.decoded is not None]

    def _fields(self) -> Iterator[str]:
        for route in self._config.all_routes:
            samples = self._of_route(route.name)
            given = {name for said in samples for name in _fields_of(said)}
            missed = {name for said in samples if said.decoded for name in said.decoded.misses}
            for name in route.fields:
                if name in missed and name not in given:
                    yield f"route {route.name}: no sample has {name}{_instead(name, _came(samples))}"

    def _sources(self) -> Iterator[str]:
        for entry in self._config.routes:
            if not any(self._of_route(route.name) for route in entry.routes):
                yield f"route {entry.name}: no sample is on {entry.topic}"

    def _window_names(self) -> Iterator[str]:
        for window in self._config.windows:
            routes = [route for route in self._config.all_routes if route.name == window.route]
            samples = [said for route in routes for said in self._of_route(route.name)]
            if not samples:
                continue
            given = sorted({name for said in samples for name in _fields_of(said)})
            levels = TopicTemplate(routes[0].topic).names
            for name in window.field_names:
                if name not in given and name not in routes[0].fields:
                    yield f"window {window.name}: no sample has the field {name}{_instead(name, given)}"
            for name in placeholders(window.key):
                if name not in levels and name not in given:
                    told = _instead(name, [*levels, *given])
                    yield f"window {window.name}: no sample has {{{name}}} of the key{told}"


def _dated(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines, those without a time dated now."""
    for line in lines:
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError:
            yield line
            continue
        if isinstance(found, dict) and "time_ms" not in found:
            found["time_ms"] = time.time_ns() // 1_000_000
            line = orjson.dumps(found)  # noqa: PLW2901 - the same line, with its time
        yield line


def _fields_of(said: Explanation) -> set[str]:
    return {name for sample in said.decoded.samples for name in sample.fields} if said.decoded else set()


def _came(samples: Iterable[Explanation]) -> list[str]:
    return list(dict.fromkeys(name for said in samples for name in said.came))


def _instead(name: str, came: Iterable[str]) -> str:
    names = list(came)
    near = nearest(name, names)
    if near:
        return f"; did you mean {near}?"
    shown = ", ".join(names[:SHOWN_NAMES]) + (", …" if len(names) > SHOWN_NAMES else "")
    return f"; what came: {shown}" if names else ""


def _sample_lines(number: int, said: Explanation) -> Iterator[str]:
    decoded = said.decoded
    if decoded is None:
        yield f"{number} {said.topic}: no route takes it"
        return
    head = f"{number} {said.topic} ({said.route})"
    if decoded.problem:
        yield f"{head}: cannot be read ({decoded.problem})"
    elif not decoded.samples:
        yield f"{head}: no reading{', filtered' if decoded.filtered else ''}"
    for sample in decoded.samples:
        fields = json.dumps(dict(sample.fields), ensure_ascii=False)
        ahead_ms = sample.time_ms - said.arrival_ms
        when = "on arrival" if not ahead_ms else _when(sample.time_ms, ahead_ms)
        yield f"{head}: {fields} {when}"
    if decoded.misses:
        yield f"{head}: misses {', '.join(decoded.misses)}"


def _when(time_ms: int, ahead_ms: int) -> str:
    side = "after" if ahead_ms > 0 else "before"
    return f"at {clock_text(time_ms)}, {format_duration(abs(ahead_ms) / 1000)} {side} it arrived"
