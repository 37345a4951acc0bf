"""Warnings about settings of routes and windows that are allowed, but have no effect or an unexpected one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from gateway.config.models import Config
from gateway.config.route_model import RouteModel
from gateway.config.window_model import Window
from gateway.config.window_units import units_of_field
from gateway.core.expressions import is_comparison
from gateway.core.timestamps import uses_timezone
from gateway.core.topics import TopicTemplate, placeholders
from gateway.decode.presets import TYPICAL_FIELDS

_TIME_SETTINGS = ("timestamp_format", "timestamp_timezone", "timestamp_min", "timestamp_max", "timestamp")
_NEAR = 0.8


def reading_warnings(config: Config) -> Iterator[str]:
    """Yield all warnings, by route and window."""
    for entry in config.routes:
        for route in entry.routes:
            yield from _comparisons(route)
        yield from _idle_time_settings(entry)
    for window in config.windows:
        yield from _misspelt_names(window, config)
    yield from _mixed_units(config)


def _comparisons(route: RouteModel) -> Iterator[str]:
    for name, field in route.fields.items():
        path = field if isinstance(field, str) else field.from_
        if path is not None and is_comparison(path):
            yield (
                f"route {route.name}: the field {name} is only a comparison ({path}), so an absent or an "
                "unknown word counts as 0; write {from: …, map: {…}}"
            )


def _idle_time_settings(entry: RouteModel) -> Iterator[str]:
    """Settings of the device's time where no route of the entry reads one, or its format needs none."""
    timed = [route for route in entry.routes if route.timestamp_path or decoder_path(route)]
    for name in _TIME_SETTINGS:
        if name not in entry.model_fields_set or timed:
            continue
        if name == "timestamp" and entry.timestamp != "trusted":
            continue
        yield f"route {entry.name}: {name} has no effect without timestamp_path"
    if timed and "timestamp_timezone" in entry.model_fields_set:
        formats = [route.timestamp_format or route.reader.timestamp_format for route in timed]
        if not any(uses_timezone(layout) for layout in formats):
            told = ", ".join(dict.fromkeys(formats))
            yield (
                f"route {entry.name}: timestamp_timezone has no effect: {told} says its zone itself "
                "(seconds of the local time are unix_local)"
            )


def decoder_path(route: RouteModel) -> str | None:
    """Return the path where a route's decoder looks for the time by itself."""
    return route.reader.timestamp_path


def _misspelt_names(window: Window, config: Config) -> Iterator[str]:
    route = next((each for each in config.all_routes if each.name == window.route), None)
    topic = window.topic or (route.topic if route else None)
    levels = TopicTemplate(topic).names if topic else frozenset()
    typical = _typical(route)
    for name in window.read_names:
        near = _near(name, typical)
        if near:
            yield f"window {window.name}: no message has the field {name}; did you mean {near}?"
    if route is not None and route.fields:
        return  # all names are known there: a wrong one is a problem
    for name in placeholders(window.key):
        near = "" if name in levels else _near(name, [*levels, *typical])
        if near:
            yield f"window {window.name}: the key names {{{name}}}; did you mean {{{near}}}?"


def _mixed_units(config: Config) -> Iterator[str]:
    routes = config.route_specs()
    for spec in config.window_specs():
        for field in spec.fields:
            units = [unit for unit in units_of_field(spec, field, routes) if unit]
            if len(units) > 1:
                yield (
                    f"window {spec.name}: {field} comes in {' and '.join(units)}, as its routes say, and is "
                    "gathered all the same; give it one unit with scale and offset"
                )


def _typical(route: RouteModel | None) -> tuple[str, ...]:
    """The fields that messages of the route's preset usually have, where no others are named."""
    if route is None or route.fields or route.preset is None:
        return ()
    return TYPICAL_FIELDS.get(route.preset, ())


def _near(name: str, known: Iterable[str]) -> str:
    """The known name that is meant, or an empty text: also one in other letters, such as `temperature`."""
    names = {each.lower(): each for each in known}
    if name in names.values():
        return ""
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=_NEAR)
    return names[close[0]] if close else ""
