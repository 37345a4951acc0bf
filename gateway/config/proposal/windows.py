"""Windows for proposed routes: what is worth a chart, how long a window is, where an alarm begins."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.config.proposal.quantities import quantity_of, rank
from gateway.config.proposal.routes import ProposedRoute, RoutePart
from gateway.core.units import format_duration

MOST_CHARTS = 3
"""Per route. More are easily added, and each costs results."""
_MANY = 5
_SIZES_MS = (60_000, 300_000, 900_000, 3_600_000)
_SIZE_NAMES = ("1m", "5m", "15m", "1h")
_READINGS_PER_WINDOW = 4


@dataclass(frozen=True)
class ProposedWindow:
    """An entry for `windows` with the reasons for it."""

    entry: dict[str, object]
    reasons: tuple[str, ...]


def propose_windows(route: ProposedRoute) -> Iterator[ProposedWindow]:
    """Yield windows over what a route read."""
    for part in route.parts.values():
        if part.fields:
            yield from _of_part(part, is_preset="preset" in route.entry)


def _of_part(part: RoutePart, *, is_preset: bool) -> Iterator[ProposedWindow]:
    size, why = _size(part.interval_ms)
    ranked = sorted(part.fields, key=lambda name: (rank(name), -len(part.fields[name].keys)))
    worth = [name for name in ranked if _is_worth(part, name, is_preset=is_preset)][:MOST_CHARTS]
    for name in worth:
        yield _chart(part, name, size, why)
        yield from _alarm(part, name, name, size)
    if worth == ["value"]:
        yield from _alarms_of_topics(part, size)
    battery = next((name for name in part.fields if _says(name, "battery")), None)
    if battery is not None:
        yield from _alarm(part, battery, battery, "1h")


def _is_worth(part: RoutePart, name: str, *, is_preset: bool) -> bool:
    """Return True for a field that says what it measures, for the only one, and for what a pattern found."""
    if _says(name, "battery"):
        return False
    return quantity_of(name) is not None or len(part.fields) == 1 or not is_preset


def _says(name: str, quantity: str) -> bool:
    found = quantity_of(name)
    return found is not None and found.name == quantity


def _alarms_of_topics(part: RoutePart, size: str) -> Iterator[ProposedWindow]:
    """Yield alarms where a level of the topic says what is measured: on the topics of that quantity."""
    for level, values in part.levels.items():
        for value in sorted(values)[:MOST_CHARTS]:
            if _says(value, "temperature"):
                topic = part.template.text.replace(f"{{{level}}}", value)
                key = "/".join(name for name in part.key.split("/") if name != f"{{{level}}}")
                yield from _alarm(part, "value", value, size, topic=topic, key=key or value)
    last = part.template.text.rpartition("/")[2]
    if _says(last, "temperature"):
        yield from _alarm(part, "value", last, size)


def _size(interval_ms: float | None) -> tuple[str, str]:
    if interval_ms is None:
        return "5m", "no topic spoke twice while it was listened to; shorten the windows if yours speak often"
    for size_ms, name in zip(_SIZES_MS, _SIZE_NAMES, strict=True):
        if size_ms >= _READINGS_PER_WINDOW * interval_ms or name == _SIZE_NAMES[-1]:
            break
    every = format_duration(max(0.1, round(interval_ms / 1000, 1)))
    return name, f"a message every {every} or so: about {max(1, round(size_ms / interval_ms))} in {name}"


def _chart(part: RoutePart, field: str, size: str, why: str) -> ProposedWindow:
    quantity, values = quantity_of(field), part.fields[field].values
    named = part.name if field == "value" else f"{part.name}_{_word(field)}"
    entry: dict[str, object] = {"name": f"{named}_{size}", "route": part.name}
    if field != "value":
        entry["field"] = field
    entry["key"] = part.key
    if quantity is not None and quantity.counter:
        entry |= {"name": f"{named}_1h", "plugin": "counter"}
        size, why = "1h", "a counter that only rises: `counter` gives its rise in the hour"
    entry |= {
        "window": {"type": "tumbling", "size": size},
        "allowed_lateness": size if size in ("1m", "5m") else "15m",
        "publish": {"retain": True},
    }
    return ProposedWindow(entry, (f"{field}, seen: {_number(min(values))} to {_number(max(values))}", why))


def _alarm(
    part: RoutePart, field: str, named: str, size: str, topic: str | None = None, key: str | None = None
) -> Iterator[ProposedWindow]:
    series = part.fields[field] if topic is None else part.fields[field].below(named)
    quantity, values = quantity_of(named), series.values
    if quantity is None or not values or (not quantity.alarm_above and quantity.alarm_below is None):
        return
    if quantity.alarm_above:
        limit = _above(max(values))
        options: dict[str, object] = {"above": limit, "clear": limit - 1}
        why = f"above all that was seen ({_number(max(values))}): set the limit that you need"
    else:
        limit = int(quantity.alarm_below or 0)
        options = {"below": limit, "clear": limit + 5, "of": "last"}
        why = f"low battery (seen: {_number(min(values))} to {_number(max(values))})"
    word = "high" if quantity.alarm_above else "low"
    name = part.name if part.name.endswith(_word(named)) else f"{part.name}_{_word(named)}"
    entry: dict[str, object] = {"name": f"{name}_{word}"}
    entry |= {"route": part.name} if topic is None else {"topic": topic}
    if field != "value":
        entry["field"] = field
    entry |= {
        "key": key or part.key,
        "plugin": "threshold",
        "options": options,
        "window": {"type": "tumbling", "size": size},
        "priority": "critical",
    }
    yield ProposedWindow(entry, ("alarm: " + why,))


def _above(highest: float) -> int:
    return math.ceil((highest + max(5.0, abs(highest) / 4)) / _MANY) * _MANY


def _number(value: float) -> str:
    return f"{value:.6g}"


def _word(name: str) -> str:
    return (
        "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name).strip("_").lower()
        or "value"
    )
