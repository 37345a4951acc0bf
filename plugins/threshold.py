"""An alert when a window's value crosses a limit, and another when it is well again: not one per window.

Options: `above` or `below` (the limit), `clear` (where the alert ends; the limit itself by default: the
distance between the two is the hysteresis), `of` (mean, min, max or last; default mean).

"The mean above 30 °C over 5 minutes" is a hopping window of 5m with `above: 30, clear: 29` and the window's
`priority: critical`. Other windows of the key say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.windows.plugin import Reading
from gateway.windows.toolbox import A_NUMBER, read_options

VALUES = ("mean", "min", "max", "last")

# [count, sum, min, max, last time, last]; empty for no readings.
Accumulator = list[float]


class Plugin:
    """`report` holds the state: whether the alert is raised for the key."""

    def __init__(self) -> None:
        self._of = "mean"
        self._sign = 1
        self._limit = self._clear = 0.0

    def setup(self, options: Mapping[str, Any]) -> None:
        read = read_options(options, above=A_NUMBER, below=A_NUMBER, clear=A_NUMBER, of="mean")
        above, below, clear = read["above"], read["below"], read["clear"]
        if (above is None) == (below is None):
            raise ValueError("give one of above and below")
        if read["of"] not in VALUES:
            raise ValueError(f"of is one of {', '.join(VALUES)}")
        self._of = read["of"]
        self._sign, self._limit = (1, above) if below is None else (-1, below)
        self._clear = self._limit if clear is None else clear
        if self._sign * (self._limit - self._clear) < 0:
            raise ValueError("clear lies beyond the limit, so the alert would end before it begins")

    def create_accumulator(self) -> Accumulator:
        return []

    def add_input(self, acc: Accumulator, reading: Reading) -> Accumulator:
        value = reading.value
        return self._merge(acc, [1, value, value, value, reading.time_ms, value])

    def merge_accumulators(self, accumulators: Sequence[Accumulator]) -> Accumulator:
        merged: Accumulator = []
        for acc in accumulators:
            merged = self._merge(merged, acc)
        return merged

    @staticmethod
    def _merge(left: Accumulator, right: Accumulator) -> Accumulator:
        if not left or not right:
            return list(left or right)
        last = right[4:] if right[4] >= left[4] else left[4:]
        return [left[0] + right[0], left[1] + right[1], min(left[2], right[2]), max(left[3], right[3]), *last]

    def extract_output(self, acc: Accumulator) -> float | None:
        if not acc:
            return None
        count, total, low, high, _, last = acc
        return {"mean": total / count, "min": low, "max": high, "last": last}[self._of]

    def report(self, raised: bool | None, value: float) -> tuple[bool, dict[str, Any] | None]:
        """Say when the alert is raised and when it is cleared, and nothing otherwise."""
        above = self._sign * (value - self._limit) > 0
        well = self._sign * (value - self._clear) <= 0
        now = above if not raised else not well
        if now == bool(raised):
            return now, None
        return now, {"alert": "raised" if now else "cleared", self._of: value, "limit": self._limit}
