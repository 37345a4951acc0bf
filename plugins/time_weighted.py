"""The mean and the integral of a value that holds until the next reading: power, flow, temperature.

A value that is sent when it changes has a mean that is not that of its readings: what held for an hour counts
an hour. `integral_per_h` is the value times hours: watts become watt-hours. Options: `hold`, how long a
reading holds where no other follows: a duration such as `10m`, or `true` for as long as the window lasts.
Without it the last reading of a window ends what is known.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from gateway.windows.plugin import Reading
from gateway.windows.toolbox import Point, by_time, duration_ms, read_options

MAX_POINTS = 128
KEPT_POINTS = 64
"""The newest readings are kept, so that disorder among them loses nothing; of older ones their sum is."""

MS_PER_HOUR = 3_600_000

# [sum of value × ms, ms, first time, first, min, max, left out, points]; empty for no readings.
Accumulator = list[Any]


class Plugin:
    """Its accumulator has the newest readings in order, and what the older ones come to."""

    def __init__(self) -> None:
        self._hold_ms: float | None = None
        self._holds_on = False

    def setup(self, options: Mapping[str, Any]) -> None:
        hold = read_options(options, hold=False)["hold"]
        self._holds_on = hold is not False
        self._hold_ms = None if isinstance(hold, bool) else duration_ms("hold", hold)

    def create_accumulator(self) -> Accumulator:
        return []

    def add_input(self, acc: Accumulator, reading: Reading) -> Accumulator:
        point = [reading.time_ms, reading.value]
        if not acc:
            return [0.0, 0, *point, reading.value, reading.value, 0, [point]]
        acc[4], acc[5] = min(acc[4], reading.value), max(acc[5], reading.value)
        points = acc[7]
        if point[0] < points[0][0]:
            if acc[1] or points[0][0] > acc[2]:  # older than what has been summed up
                acc[6] += 1
                return acc
            acc[2:4] = point
        points.insert(bisect_right(points, point[0], key=by_time), point)
        if len(points) > MAX_POINTS:
            self._sum_up(acc, len(points) - KEPT_POINTS)
        return acc

    def merge_accumulators(self, accumulators: Sequence[Accumulator]) -> Accumulator:
        merged: Accumulator = []
        for acc in accumulators:
            if acc and merged:
                merged = self._merge(merged, acc)
            elif acc:
                merged = [*acc[:7], list(acc[7])]
        return merged

    def _merge(self, left: Accumulator, right: Accumulator) -> Accumulator:
        extremes = [min(left[4], right[4]), max(left[5], right[5]), left[6] + right[6]]
        if not right[1] and right[7][0][0] == right[2]:  # nothing of it is summed up yet
            merged = [*left[:4], *extremes, sorted([*left[7], *right[7]], key=by_time)]
            merged[2:4] = merged[2:4] if left[2] <= right[2] else right[2:4]
            self._sum_up(merged, len(merged[7]) - KEPT_POINTS)
            return merged
        sum_ms, known_ms = self._sum([*left[7], right[2:4]])
        return [left[0] + sum_ms + right[0], left[1] + known_ms + right[1], *left[2:4], *extremes, right[7]]

    def _sum_up(self, acc: Accumulator, count: int) -> None:
        """Replace the oldest points by what they come to, up to the next one."""
        if count > 0:
            sum_ms, known_ms = self._sum(acc[7][: count + 1])
            acc[0] += sum_ms
            acc[1] += known_ms
            acc[7] = acc[7][count:]

    def _sum(self, points: Sequence[Point]) -> tuple[float, int]:
        """The integral in value × ms from the first to the last point, and how many ms had a value."""
        spans = [(value, self._held_ms(until - at)) for (at, value), (until, _) in pairwise(points)]
        return sum(value * held for value, held in spans), sum(held for _, held in spans)

    def _held_ms(self, span_ms: int) -> int:
        return span_ms if self._hold_ms is None else min(span_ms, int(self._hold_ms))

    def extract_output(self, acc: Accumulator) -> dict[str, Any] | None:
        return self._result(acc, 0)

    def extract_between(self, acc: Accumulator, start_ms: int, end_ms: int) -> dict[str, Any] | None:
        """The result of a window that is over: with `hold` its last value goes on to its end."""
        after_ms = max(0, end_ms - acc[7][-1][0]) if acc and self._holds_on else 0
        return self._result(acc, self._held_ms(after_ms))

    def _result(self, acc: Accumulator, after_ms: int) -> dict[str, Any] | None:
        if not acc:
            return None
        sum_ms, known_ms = self._sum(acc[7])
        last = acc[7][-1][1]
        sum_ms += acc[0] + last * after_ms
        known_ms += acc[1] + after_ms
        return {
            "mean": sum_ms / known_ms if known_ms else last,
            "integral_per_h": sum_ms / MS_PER_HOUR,
            "seconds": known_ms / 1000,
            "min": acc[4],
            "max": acc[5],
            "first": acc[3],
            "last": last,
            "out_of_order": acc[6],
        }
