"""A mean in which a reading counts the less the older it is: half as much for every `half_life`.

Ages are those to the newest reading by event time, so disorder changes nothing. Over a window of type
`global` it is the running exponential mean. Options: `half_life`, a duration (default 10m).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.windows.plugin import Reading
from gateway.windows.toolbox import duration_ms, read_options

# [newest time, its value, sum of weights, weighted sum, count]; weights are as of the newest time.
Accumulator = list[float]


class Plugin:
    """Its accumulator: the newest reading, and the sums of weights and of weighted values."""

    def __init__(self) -> None:
        self._half_life_ms = 600_000.0

    def setup(self, options: Mapping[str, Any]) -> None:
        self._half_life_ms = duration_ms("half_life", read_options(options, half_life="10m")["half_life"])

    def create_accumulator(self) -> Accumulator:
        return []

    def add_input(self, acc: Accumulator, reading: Reading) -> Accumulator:
        return self._merge(acc, [reading.time_ms, reading.value, 1.0, reading.value, 1])

    def merge_accumulators(self, accumulators: Sequence[Accumulator]) -> Accumulator:
        merged: Accumulator = []
        for acc in accumulators:
            merged = self._merge(merged, acc)
        return merged

    def _merge(self, left: Accumulator, right: Accumulator) -> Accumulator:
        if not left or not right:
            return list(left or right)
        older, newer = (left, right) if left[0] <= right[0] else (right, left)
        fade = 0.5 ** ((newer[0] - older[0]) / self._half_life_ms)
        weight, total = older[2] * fade + newer[2], older[3] * fade + newer[3]
        return [newer[0], newer[1], weight, total, left[4] + right[4]]

    def extract_output(self, acc: Accumulator) -> dict[str, float] | None:
        if not acc:
            return None
        return {"mean": acc[3] / acc[2], "last": acc[1], "weight": acc[2], "count": int(acc[4])}
