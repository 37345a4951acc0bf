"""Units of fields and of results, as the routes of the configuration name them."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.decode.routes import RouteSpec
from gateway.windows.spec import WindowSpec

_SAME_UNIT = frozenset({"", "mean", "min", "max", "first", "last", "median", "range", "stddev", "value"})
"""Numbers of a result that have the unit of what was measured."""


class Units:
    """The units of all fields."""

    def __init__(self, routes: Iterable[RouteSpec]) -> None:
        self._units = {(route.name, name): unit for route in routes for name, unit in route.units.items()}

    def of_field(self, route: str | None, field: str) -> str:
        """The unit of a field; empty where none is known."""
        return self._units.get((route or "", field), "")

    def of_result(self, window: WindowSpec, field: str, measure: str) -> str:
        """The unit of a number in a window's results."""
        return window.units.get(field, "") if measure.rpartition(".")[2] in _SAME_UNIT else ""
