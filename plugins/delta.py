"""Change of a value from the first to the last reading of a window, by event time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.windows.plugin import Reading

# [first time, first, last time, last]; empty for no readings.
Accumulator = list[float]


class Plugin:
    """Of readings with one time, the first and the last are those that arrived first and last."""

    exact_integers = True

    def create_accumulator(self) -> Accumulator:
        return []

    def add_input(self, acc: Accumulator, reading: Reading) -> Accumulator:
        point = [reading.time_ms, reading.value]
        return self._merge(acc, [*point, *point])

    def merge_accumulators(self, accumulators: Sequence[Accumulator]) -> Accumulator:
        merged: Accumulator = []
        for acc in accumulators:
            merged = self._merge(merged, acc)
        return merged

    def extract_output(self, acc: Accumulator) -> dict[str, Any] | None:
        if not acc:
            return None
        first_ms, first, last_ms, last = acc
        return {"delta": last - first, "first": first, "last": last, "span_s": (last_ms - first_ms) / 1000}

    @staticmethod
    def _merge(left: Accumulator, right: Accumulator) -> Accumulator:
        if not left or not right:
            return list(left or right)
        first = left[:2] if left[0] <= right[0] else right[:2]
        last = right[2:] if right[2] >= left[2] else left[2:]
        return [*first, *last]
