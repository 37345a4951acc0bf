"""Count, sum, mean, min, max, population standard deviation, first and last of a window's readings.

Mean and variance follow Welford, merged as Chan et al. do, so that readings far from zero keep their digits.
First and last go by event time; of readings with one time the first is the one that arrived first, the last
the one that arrived last.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from gateway.windows.plugin import Reading

# [count, mean, sum of squared distances from the mean, sum, min, max, first time, first, last time, last];
# empty for no readings, because plain JSON has no infinity to start a minimum with.
Accumulator = list[float]


class Plugin:
    """Its accumulator is a short list of numbers, changed in place."""

    def create_accumulator(self) -> Accumulator:
        return []

    def add_input(self, acc: Accumulator, reading: Reading) -> Accumulator:
        return self.add_value(acc, reading.value, reading.time_ms)

    def add_value(self, acc: Accumulator, value: float, time_ms: int) -> Accumulator:
        if not acc:
            return [1, value, 0.0, value, value, value, time_ms, value, time_ms, value]
        count = acc[0] = acc[0] + 1
        mean = acc[1]
        delta = value - mean
        acc[1] = mean = mean + delta / count
        acc[2] += delta * (value - mean)
        acc[3] += value
        if value < acc[4]:
            acc[4] = value
        elif value > acc[5]:
            acc[5] = value
        if time_ms >= acc[8]:
            acc[8] = time_ms
            acc[9] = value
        elif time_ms < acc[6]:
            acc[6] = time_ms
            acc[7] = value
        return acc

    def merge_accumulators(self, accumulators: Sequence[Accumulator]) -> Accumulator:
        merged: Accumulator = []
        for acc in accumulators:
            if acc:
                merged = self._merge(merged, acc) if merged else list(acc)
        return merged

    def extract_output(self, acc: Accumulator) -> dict[str, float | None]:
        if not acc:
            return {"count": 0} | dict.fromkeys(("sum", "mean", "min", "max", "stddev", "first", "last"))
        count, mean, m2, total, low, high, _, first, _, last = acc
        return {
            "count": int(count),
            "sum": total,
            "mean": mean,
            "min": low,
            "max": high,
            "stddev": sqrt(max(0.0, m2) / count),
            "first": first,
            "last": last,
        }

    @staticmethod
    def _merge(left: Accumulator, right: Accumulator) -> Accumulator:
        count = left[0] + right[0]
        delta = right[1] - left[1]
        first = left[6:8] if left[6] <= right[6] else right[6:8]
        last = right[8:10] if right[8] >= left[8] else left[8:10]
        return [
            count,
            left[1] + delta * right[0] / count,
            left[2] + right[2] + delta * delta * left[0] * right[0] / count,
            left[3] + right[3],
            min(left[4], right[4]),
            max(left[5], right[5]),
            *first,
            *last,
        ]
