"""Rise of a counter that only goes up, and its rate: energy, water, bytes, revolutions.

A fall is a reset: the counter is taken to have started again from zero, or with `wraps_at` (such as
4294967296) to have gone over its end. What is no reset:

- a fall by less than `tolerance` (`10%`) of the value before: the meter corrected itself, and what follows
  counts once it is above what has been counted already;
- zeros that come back (above 10, or with one of the two options): a device that starts says 0 until its meter
  is read, and goes on from where it was;
- with `max_rate` (units per second), a rise that no meter makes: such a reading is left out.

Readings that come out of order are put in their place first. Whole numbers stay exact, beyond 2^53 too. A
window knows what it saw: the rise between its last reading and the first of the next window is in neither,
so a total over many windows is the difference of their `last`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.windows.plugin import Reading
from gateway.windows.toolbox import A_NUMBER, Point, Record, read_options, share

MAX_RESETS = 500
"""Limit of resets: what falls more often in one window is no counter, and a record of it would grow without
bound."""

SMALL = 10
"""Up to here a counter may truly have begun anew and got back within one step, unless options say more."""


def _rises(before: float, value: float, after: float) -> bool:
    return before <= value <= after


class Plugin:
    """Its accumulator: readings in order as [time, value], the older ones without the middle of rises."""

    exact_integers = True

    def __init__(self) -> None:
        self._wraps_at: float | None = None
        self._tolerance = 0.0
        self._max_rate: float | None = None
        self._record = Record(tuple, _rises, 2 * MAX_RESETS)

    def setup(self, options: Mapping[str, Any]) -> None:
        read = read_options(options, wraps_at=0, tolerance=None, max_rate=A_NUMBER)
        wraps_at, max_rate = read["wraps_at"], read["max_rate"]
        if wraps_at < 0:
            raise ValueError("wraps_at is above zero")
        if max_rate is not None and max_rate <= 0:
            raise ValueError("max_rate is above zero, in units per second")
        self._wraps_at = int(wraps_at) if wraps_at == int(wraps_at) else wraps_at
        self._tolerance = 0.0 if read["tolerance"] is None else share("tolerance", read["tolerance"])
        self._max_rate = max_rate

    def create_accumulator(self) -> list[Point]:
        return []

    def add_input(self, acc: list[Point], reading: Reading) -> list[Point]:
        self._record.insert(acc, [reading.time_ms, reading.value])
        return acc

    def merge_accumulators(self, accumulators: Sequence[list[Point]]) -> list[Point]:
        return self._record.merge(accumulators)

    def extract_output(self, acc: list[Point]) -> dict[str, Any] | None:
        if not acc:
            return None
        trusts_small = not self._tolerance and self._max_rate is None
        points = _without_zeros_that_come_back(acc, self._tolerance, SMALL if trusts_small else 0)
        last, high = points[0], points[0][1]  # the last plausible reading; what has been counted up to
        increase: float = 0
        resets = implausible = 0
        for point in points[1:]:
            value = point[1]
            if self._is_implausible(last, point):
                implausible += 1
                continue
            if value < high and value >= high - abs(high) * self._tolerance and value != 0:
                last = point
                continue
            resets += value < high
            increase += self._rise(high, value)
            last, high = point, value
        span_s = (points[-1][0] - points[0][0]) / 1000
        return {
            "increase": increase,
            "rate_per_s": increase / span_s if span_s else None,
            "resets": resets,
            "left_out": implausible + len(acc) - len(points),
            "first": points[0][1],
            "last": last[1],
            "span_s": span_s,
        }

    def _is_implausible(self, last: Point, point: Point) -> bool:
        rise = point[1] - last[1]
        return self._max_rate is not None and rise > self._max_rate * (point[0] - last[0]) / 1000

    def _rise(self, before: float, after: float) -> float:
        if after >= before:
            return after - before
        return after if not self._wraps_at else self._wraps_at - before + after


def _without_zeros_that_come_back(points: list[Point], tolerance: float, small: float) -> list[Point]:
    """Leave out zeros after which the counter is where it was before, or higher."""
    kept: list[Point] = []
    zeros: list[Point] = []
    for point in points:
        if point[1] == 0 and kept and kept[-1][1] > small:
            zeros.append(point)
            continue
        if zeros and point[1] < kept[-1][1] * (1 - tolerance):
            kept += zeros
        zeros = []
        kept.append(point)
    return kept + zeros
