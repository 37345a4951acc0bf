"""An alert when a window's value crosses a limit, and another when it is well again: not one per window.

Options: `above` or `below` (the limit), `clear` (where the alert ends; the limit itself by default: the
distance between the two is the hysteresis), `of` (mean, min, max or last; default mean), `for` (how long
the value must have been beyond the limit, such as `5m`), `repeat` (say it again so often while it lasts,
such as `1h`).

"The mean above 30 °C over 5 minutes" is a hopping window of 5m with `above: 30, clear: 29` and the window's
`priority: critical`. Other windows of the key say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.windows.plugin import Reading
from gateway.windows.toolbox import A_NUMBER, duration_ms, read_options

VALUES = ("mean", "min", "max", "last")

# [count, sum, min, max, last time, last]; empty for no readings.
Accumulator = list[float]


class Plugin:
    """`report` holds the state of a key: whether it is raised, since when, and when it was last told."""

    def __init__(self) -> None:
        self._of = "mean"
        self._sign = 1
        self._limit = self._clear = 0.0
        self._for_ms = 0.0
        self._repeat_ms: float | None = None

    def setup(self, options: Mapping[str, Any]) -> None:
        numbers = dict.fromkeys(("above", "below", "clear"), A_NUMBER)
        read = read_options(options, **numbers, of="mean", **{"for": None, "repeat": None})
        self._for_ms = 0.0 if read["for"] is None else duration_ms("for", read["for"])
        self._repeat_ms = None if read["repeat"] is None else duration_ms("repeat", read["repeat"])
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

    def extract_output(self, acc: Accumulator) -> dict[str, float] | None:
        return self.extract_between(acc, 0, int(acc[4])) if acc else None

    def extract_between(self, acc: Accumulator, start_ms: int, end_ms: int) -> dict[str, float] | None:
        """The value that is judged, as of the window's end."""
        if not acc:
            return None
        count, total, low, high, _, last = acc
        value = {"mean": total / count, "min": low, "max": high, "last": last}[self._of]
        return {"value": value, "time_ms": end_ms}

    def report(
        self, carry: list[Any] | None, output: dict[str, float] | None
    ) -> tuple[list[Any] | None, dict[str, Any] | None]:
        """Say when the alert is raised, again every `repeat`, and when it is cleared."""
        if output is None:
            return carry, None
        value, now_ms = output["value"], output["time_ms"]
        raised, since_ms, told_ms = carry or [False, None, None]
        bound = self._clear if raised else self._limit
        if self._sign * (value - bound) <= 0:
            return [False, None, None], self._told("cleared", value, since_ms) if raised else None
        since_ms = now_ms if since_ms is None else since_ms
        if not raised and now_ms - since_ms < self._for_ms:
            return [False, since_ms, None], None
        if raised and (self._repeat_ms is None or now_ms - told_ms < self._repeat_ms):
            return [True, since_ms, told_ms], None
        told = self._told("raised", value, since_ms)
        return [True, since_ms, now_ms], told | {"repeated": True} if raised else told

    def _told(self, alert: str, value: float, since_ms: float) -> dict[str, Any]:
        told = {"alert": alert, self._of: value, "limit": self._limit}
        return told | {"since_ms": since_ms} if self._for_ms or self._repeat_ms else told
