"""Explanation of what the gateway makes of one message, step by step, for authors of a configuration.

It runs the route and the windows themselves, each message with windows of its own, so that it cannot say
anything else than what happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import NamedTuple

from gateway.core.errors import DecodeError
from gateway.core.events import FieldValue, Flag
from gateway.core.topics import placeholders
from gateway.core.units import format_duration
from gateway.decode.routes import Decoded, Route, RouteTable
from gateway.windows.engine import WindowEngine, gathered
from gateway.windows.spec import WindowSpec

MAX_NAMES = 60
"""Names that are told of a message; more are not read by anybody."""
_NEAR = 0.6


class WindowShare(NamedTuple):
    """A window's share of a message: the key and bounds of its result, or why there is none."""

    window: str
    key: str | None
    start_ms: int | None
    end_ms: int | None
    result: object
    note: str


@dataclass(frozen=True)
class Explanation:
    """A message as the gateway reads it. `came` are the names in the message, `near` similar names for a
    missing field."""

    topic: str
    arrival_ms: int
    route: str | None
    levels: Mapping[str, str]
    decoded: Decoded | None
    time_reason: str
    came: tuple[str, ...]
    near: Mapping[str, str]
    windows: tuple[WindowShare, ...]
    units: Mapping[str, str] = field(default_factory=dict)
    """Of fields, as the route names them."""

    def as_json(self) -> dict[str, object]:
        """Return the explanation for programs: times in ms, fields with their types."""
        decoded = self.decoded
        return {
            "topic": self.topic,
            "arrival_ms": self.arrival_ms,
            "route": self.route,
            "levels": dict(self.levels),
            "problem": decoded.problem if decoded else "no_route",
            "readings": [
                {
                    "time_ms": sample.time_ms,
                    "fields": dict(sample.fields),
                    "units": {name: unit for name, unit in self.units.items() if name in sample.fields},
                    "types": {name: type_name(value) for name, value in sample.fields.items()},
                }
                for sample in (decoded.samples if decoded else ())
            ],
            "filtered": decoded.filtered if decoded else 0,
            "misses": list(decoded.misses) if decoded else [],
            "near": dict(self.near),
            "notes": list(decoded.notes) if decoded else [],
            "came": list(self.came),
            "event_time_ms": decoded.event_time_ms if decoded else self.arrival_ms,
            "device_time_ms": decoded.device_time_ms if decoded else None,
            "flags": flag_names(decoded.flags) if decoded else [],
            "time_reason": self.time_reason,
            "windows": [share._asdict() for share in self.windows],
        }


def explain(
    routes: RouteTable,
    new_engine: Callable[[], WindowEngine],
    specs: Iterable[WindowSpec],
    topic: str,
    payload: bytes,
    arrival_ms: int,
) -> Explanation:
    """Read one message as the gateway would that has just started. Never raises for what a message holds."""
    found = routes.match(topic)
    if found is None:
        return Explanation(topic, arrival_ms, None, {}, None, "no route takes this topic", (), {}, ())
    route, levels = found
    decoded = route.decode(topic, levels, payload, arrival_ms)
    came = names_in(route, levels, payload, arrival_ms)
    return Explanation(
        topic,
        arrival_ms,
        route.spec.name,
        levels,
        decoded,
        time_reason(route, decoded, arrival_ms),
        came,
        {name: near for name in decoded.misses if (near := nearest(name, came))},
        tuple(_shares(new_engine(), specs, route, levels, decoded, topic, arrival_ms)),
        route.spec.units,
    )


def type_name(value: FieldValue) -> str:
    """The type of a value in the words of JSON."""
    names = {bool: "boolean", int: "whole number", float: "number", str: "text"}
    return names.get(type(value), "null")


def flag_names(flags: int) -> list[str]:
    """The names of an event's flags."""
    return [flag.name.lower() for flag in Flag if flags & flag and flag.name]


def nearest(name: str, known: Iterable[str]) -> str:
    """The one of `known`, or of the ends of its paths, that is most like `name`, or an empty text."""
    lowered: dict[str, str] = {}
    for each in known:
        lowered.setdefault(each.lower(), each)
        lowered.setdefault(each.rpartition(".")[2].lower(), each)
    close = get_close_matches(name.lower(), lowered, n=1, cutoff=_NEAR)
    return lowered[close[0]] if close else ""


def names_in(route: Route, levels: Mapping[str, str], payload: bytes, arrival_ms: int) -> tuple[str, ...]:
    """The names that a message has, as paths below its first reading."""
    try:
        item = route.first_item(levels, payload, arrival_ms)
    except DecodeError:
        return ()
    names: dict[str, None] = {}
    _collect(item, "", names)
    return tuple(names)


def _collect(item: object, prefix: str, names: dict[str, None]) -> None:
    if len(names) >= MAX_NAMES or prefix.count(".") > 4:
        return
    if isinstance(item, dict):
        for name, value in item.items():
            _collect(value, f"{prefix}.{name}" if prefix else str(name), names)
    elif isinstance(item, list):
        for number, value in enumerate(item[:3]):
            _collect(value, f"{prefix}[{number}]", names)
    elif prefix:
        names[prefix] = None


def time_reason(route: Route, decoded: Decoded, arrival_ms: int) -> str:
    """Return the reason for the event time."""
    spec = route.spec
    path = route.timestamp_path
    if decoded.problem:
        return "the arrival, because the payload cannot be read"
    if decoded.device_time_ms is None:
        if path is None:
            return "the arrival, because the route names no timestamp_path"
        return f"the arrival, because there is no usable time at {path}"
    away = f"{format_duration(abs(arrival_ms - decoded.device_time_ms) / 1000)} from the arrival"
    said = f"the device said {clock_text(decoded.device_time_ms)}, {away}"
    if spec.timestamp == "ingest":
        return f"the arrival, as `timestamp: ingest` says; {said}"
    if decoded.flags & Flag.CORRECTED:
        return f"{said}, which is more than `time` lets pass: moved ({', '.join(flag_names(decoded.flags))})"
    believed = "trusted" if spec.timestamp == "trusted" else "within the bounds of `time`"
    return f"{said}: {believed}"


def clock_text(time_ms: int) -> str:
    """`2026-05-01T00:00:00.000Z`."""
    moment = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03}Z"


def _shares(
    engine: WindowEngine,
    specs: Iterable[WindowSpec],
    route: Route,
    levels: Mapping[str, str],
    decoded: Decoded,
    topic: str,
    arrival_ms: int,
) -> Iterable[WindowShare]:
    emitted = gathered(engine.process(topic, route.spec.name, levels, decoded.samples, arrival_ms))
    emitted += engine.flush()
    for spec in specs:
        own = [each for each in emitted if each.window == spec.name]
        for each in own:
            yield WindowShare(spec.name, each.key, each.start_ms, each.end_ms, each.result, each.reason)
        if own:
            continue
        counters = engine.counters[spec.name]
        if counters.misses:
            said = f"no number in {', '.join(spec.fields)}"
            yield WindowShare(spec.name, None, None, None, None, said)
        elif counters.key_misses:
            wanted = ", ".join(f"{{{name}}}" for name in placeholders(spec.key))
            yield WindowShare(spec.name, None, None, None, None, f"the key needs {wanted}")
        elif counters.events:
            yield WindowShare(spec.name, None, None, None, None, "counted, no result from this alone")
