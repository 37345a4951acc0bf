"""The course of a number over time, with as many points as a chart can show.

Where there are more, neighbours become one point with their mean, least and most. Where the source was silent
there is a hole: a line across it would claim values that nobody measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from statistics import median_low
from typing import NamedTuple

from gateway.core.numbers import is_number

_GRID_SLACK = 1.5
SILENT_STEPS = 5
LEAST_SILENCE_MS = 60_000
"""As for a device that fell silent: five of its usual intervals, and at least a minute."""


class Point(NamedTuple):
    """A number at a time, with the range that it stands for; a hole has no value."""

    time_ms: int
    value: float | None
    low: float | None = None
    high: float | None = None
    weight: int = 1


def folded(points: Sequence[Point], most: int) -> tuple[list[Point], int]:
    """Return at most about `most` points, oldest first, and the width in ms that each stands for; 0 where
    they are as they came."""
    points = sorted(points, key=lambda point: point.time_ms)
    if len(points) <= most:
        return points, 0
    first_ms = points[0].time_ms
    width_ms = max((points[-1].time_ms - first_ms) // most, 1)
    groups = groupby(points, key=lambda point: (point.time_ms - first_ms) // width_ms)
    return [_joined([*group]) for _, group in groups], width_ms


def _joined(points: Sequence[Point]) -> Point:
    known = [point for point in points if point.value is not None]
    time_ms = points[-1].time_ms
    if not known:
        return Point(time_ms, None)
    weight = sum(point.weight for point in known) or 1
    mean = sum((point.value or 0.0) * point.weight for point in known) / weight
    low = min(_either(point.low, point.value) for point in known)
    high = max(_either(point.high, point.value) for point in known)
    return Point(time_ms, mean, low, high, weight)


def _either(side: float | None, value: float | None) -> float:
    return side if side is not None else value or 0.0


def with_holes(points: Iterable[Point], usual_ms: int | None, width_ms: int) -> list[Point]:
    """Put a point without a value wherever the source was silent. `usual_ms` is the least distance of two
    points on a grid of time; None where they come as they like."""
    points = [*points]
    steps = [after.time_ms - before.time_ms for before, after in pairwise(points)]
    median_ms = median_low(steps) if steps else 0
    if usual_ms is None:
        longest_ms = max(SILENT_STEPS * median_ms, LEAST_SILENCE_MS)
    else:  # a device that reports less often than windows end leaves some of them empty
        longest_ms = round(max(usual_ms, median_ms) * _GRID_SLACK)
    longest_ms = max(longest_ms, round(width_ms * _GRID_SLACK))
    found = points[:1]
    for before, after in pairwise(points):
        if after.time_ms - before.time_ms > longest_ms:
            found.append(Point(before.time_ms + longest_ms // 2, None))
        found.append(after)
    return found


def numbers_in(result: object) -> dict[str, float]:
    """The numbers of a result by name: `mean`, or `temperature.mean` of one with several fields."""
    if is_number(result):
        return {"": result}
    if not isinstance(result, dict):
        return {}
    found: dict[str, float] = {}
    for name, value in result.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": one for inner, one in value.items() if is_number(one)}
        elif is_number(value):
            found[name] = value
    return found


def chosen_of(measures: Sequence[str], wanted: str | None) -> str:
    """The measure to draw: the wanted one, else a mean, else the first."""
    if wanted is not None and wanted in measures:
        return wanted
    means = [name for name in measures if name.rpartition(".")[2] == "mean"]
    return next(iter((*means, *measures)), "")
