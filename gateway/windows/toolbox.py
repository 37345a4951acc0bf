"""Tools for plugins: reading options, and a short record of what happened when."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from gateway.core.errors import UnitError
from gateway.core.units import parse_duration_ms
from gateway.windows.values import number

Point = list[Any]
"""[time_ms, value]"""

A_NUMBER = object()
"""The default of an option that is a number, or None where it is not given."""


def read_options(options: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
    """The options of a plugin with its defaults. Those whose default is a number have to be numbers.

    Raises ValueError for an option that is unknown or no number, with what to write.
    """
    found = {name: None if default is A_NUMBER else default for name, default in defaults.items()}
    for name, value in options.items():
        if name == "fields":
            continue
        if name not in defaults:
            close = get_close_matches(name, defaults, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(defaults)}"
            raise ValueError(f"no such option: {name}; {hint}")
        default = defaults[name]
        wants_number = default is A_NUMBER or (isinstance(default, (int, float)) and default is not False)
        found[name] = _number(name, value) if wants_number else value
    return found


def _number(name: str, value: Any) -> float:
    found = None if isinstance(value, (str, bool)) else number(value)
    if found is None:
        raise ValueError(f"option {name} is a number, not {value!r}")
    return found


def duration_ms(name: str, value: Any) -> float:
    """The option `name` as milliseconds, written `90s`, `10m`. Raises ValueError."""
    try:
        found = parse_duration_ms(value)
    except UnitError as exc:
        raise ValueError(f"option {name}: {exc}; {exc.hint}") from exc
    if found <= 0:
        raise ValueError(f"option {name} is a duration above zero, such as 10m")
    return found


def share(name: str, value: Any) -> float:
    """The option `name` as a share of one, written `10%` or 0.1. Raises ValueError."""
    is_percent = isinstance(value, str) and value.rstrip().endswith("%")
    found = number(value.rstrip().removesuffix("%")) if is_percent else _number(name, value)
    if found is None or not 0 <= found <= (100 if is_percent else 1):
        raise ValueError(f"option {name} is a share such as 10%, not {value!r}")
    return found / 100 if is_percent else found


UNTOUCHED = 64
"""The newest points are kept as they are, so disorder among them loses nothing."""


class Record:
    """Rules for a short record of values over time: points in order, without old ones that add nothing.

    `order` sorts points, `is_between(before, value, after)` tells which values are implied by the ones
    around them, and `limit` is how many points one window may keep.
    """

    def __init__(
        self, order: Callable[[Point], Any], is_between: Callable[[Any, Any, Any], bool], limit: int
    ) -> None:
        self._order = order
        self._is_between = is_between
        self._limit = limit

    def insert(self, points: list[Point], point: Point) -> None:
        """Put a point in its place. Raises OverflowError, and changes nothing, when there are too many."""
        if len(points) >= self._limit:
            raise OverflowError(f"more than {self._limit} changes in one window")
        points.insert(bisect_right(points, self._order(point), key=self._order), point)
        if len(points) > UNTOUCHED and len(points) % UNTOUCHED == 0:
            self._thin(points)

    def merge(self, records: Sequence[Sequence[Point]]) -> list[Point]:
        """Merge several records into one."""
        points = sorted((list(point) for record in records for point in record), key=self._order)
        self._thin(points)
        return points

    def _thin(self, points: list[Point]) -> None:
        kept: list[Point] = []
        old = max(0, len(points) - UNTOUCHED)
        for point in points[:old]:
            while len(kept) > 1 and self._is_between(kept[-2][1], kept[-1][1], point[1]):
                kept.pop()
            kept.append(point)
        points[:old] = kept


def by_time(point: Point) -> int:
    """Order by time; of one time, as they come."""
    return int(point[0])
