"""Units of what windows gather, as the routes that feed them name them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from gateway.core.topics import TopicTemplate, overlap
from gateway.decode.routes import RouteSpec
from gateway.windows.spec import WindowSpec


def units_of(window: WindowSpec, routes: Sequence[RouteSpec]) -> Mapping[str, str]:
    """Return the unit of each field that all routes of the window agree about."""
    found = {name: units_of_field(window, name, routes) for name in window.fields}
    return {name: units[0] for name, units in found.items() if len(units) == 1 and units[0]}


def units_of_field(window: WindowSpec, field: str, routes: Iterable[RouteSpec]) -> list[str]:
    """Return the different units that routes give a field of a window; the empty one where none is named."""
    return sorted(
        {route.units.get(field, "") for route in _feeding(window, routes) if _may_have(route, field)}
    )


def _feeding(window: WindowSpec, routes: Iterable[RouteSpec]) -> Iterator[RouteSpec]:
    topic = None if window.topic is None else TopicTemplate(window.topic).filter
    for route in routes:
        is_named = window.route is None or window.route == route.name
        if is_named and (topic is None or overlap(topic, TopicTemplate(route.topic).filter)):
            yield route


def _may_have(route: RouteSpec, field: str) -> bool:
    return field in route.fields or not route.fields
