"""Percentiles within a relative error, in little memory and mergeable: the sketch DDSketch.

A reading falls into the bucket of its logarithm, so that every value is known to `accuracy` (0.01: within one
percent of itself), and a merger only adds counts (Masson, Rim, Lee: DDSketch, VLDB 2019). Options:
`percentiles` (a list, default 50, 90, 95, 99) and `accuracy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, exp, floor, log
from typing import Any

from gateway.windows.plugin import Reading
from gateway.windows.toolbox import read_options

SMALLEST = 1e-12
LARGEST = 1e12
"""Beyond these a value counts as 0 or as the limit. They bound a sketch to some thousand buckets."""


class Plugin:
    """Its accumulator: count, min, max, zeros, and the counts of negative and positive buckets."""

    def __init__(self) -> None:
        self._percentiles: list[float] = [50, 90, 95, 99]
        self._set_accuracy(0.01)

    def _set_accuracy(self, accuracy: float) -> None:
        self._gamma = (1 + accuracy) / (1 - accuracy)
        self._log_gamma = log(self._gamma)

    def setup(self, options: Mapping[str, Any]) -> None:
        read = read_options(options, percentiles=None, accuracy=0.01)
        if not 0.0001 <= read["accuracy"] <= 0.2:
            raise ValueError("accuracy is between 0.0001 and 0.2")
        self._set_accuracy(read["accuracy"])
        wanted = read["percentiles"] or self._percentiles
        if not isinstance(wanted, list) or not all(_is_percentile(one) for one in wanted):
            raise ValueError("percentiles is a list of numbers from 0 to 100")
        self._percentiles = wanted

    def create_accumulator(self) -> dict[str, Any]:
        return {"count": 0, "min": None, "max": None, "zeros": 0, "below": {}, "above": {}}

    def add_input(self, acc: dict[str, Any], reading: Reading) -> dict[str, Any]:
        value = reading.value
        size = min(abs(value), LARGEST)
        if size < SMALLEST:
            acc["zeros"] += 1
        else:
            buckets = acc["above"] if value > 0 else acc["below"]
            bucket = str(ceil(log(size) / self._log_gamma))
            buckets[bucket] = buckets.get(bucket, 0) + 1
        acc["count"] += 1
        acc["min"] = value if acc["min"] is None else min(acc["min"], value)
        acc["max"] = value if acc["max"] is None else max(acc["max"], value)
        return acc

    def merge_accumulators(self, accumulators: Sequence[dict[str, Any]]) -> dict[str, Any]:
        merged = self.create_accumulator()
        for acc in accumulators:
            merged["count"] += acc["count"]
            merged["zeros"] += acc["zeros"]
            merged["min"] = min((one for one in (merged["min"], acc["min"]) if one is not None), default=None)
            merged["max"] = max((one for one in (merged["max"], acc["max"]) if one is not None), default=None)
            for side in ("below", "above"):
                for bucket, count in acc[side].items():
                    merged[side][bucket] = merged[side].get(bucket, 0) + count
        return merged

    def extract_output(self, acc: dict[str, Any]) -> dict[str, Any] | None:
        if not acc["count"]:
            return None
        steps = self._steps(acc)
        result: dict[str, Any] = {}  # the percentiles first: what shows one number shows the first
        for percentile in self._percentiles:
            value = _at_rank(steps, floor(percentile / 100 * (acc["count"] - 1)))
            result[f"p{percentile:g}"] = min(max(value, acc["min"]), acc["max"])
        return result | {"min": acc["min"], "max": acc["max"], "count": acc["count"]}

    def _steps(self, acc: dict[str, Any]) -> list[tuple[float, int]]:
        """(value, count) of every bucket, ascending by value."""
        below = sorted(((int(bucket), count) for bucket, count in acc["below"].items()), reverse=True)
        above = sorted((int(bucket), count) for bucket, count in acc["above"].items())
        zeros = [(0.0, acc["zeros"])]
        negative = [(-self._value(bucket), count) for bucket, count in below]
        return negative + zeros + [(self._value(bucket), count) for bucket, count in above]

    def _value(self, bucket: int) -> float:
        """The value that is within the accuracy of all values of a bucket."""
        return 2 * exp(bucket * self._log_gamma) / (self._gamma + 1)


def _is_percentile(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100


def _at_rank(steps: list[tuple[float, int]], rank: int) -> float:
    seen = 0
    for value, count in steps:
        seen += count
        if seen > rank:
            return value
    return steps[-1][0]
