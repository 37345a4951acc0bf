"""Measures how late the readings of a window come, and finds the settings that fit them.

A reading is late for a window that ends at `end` when the watermark has reached `end`. The watermark is the
highest event time minus `out_of_orderness`, so a reading is in time with any `out_of_orderness` above its
excess: that highest event time minus `end`. From the excess of every reading follows what each setting costs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from gateway.core.events import Reading
from gateway.windows.engine import WindowEngine
from gateway.windows.operators.grid import GridOperator
from gateway.windows.operators.operator import Operator
from gateway.windows.watermark import NEVER

IN_TIME = 0.99
"""Share of readings that the recommended `out_of_orderness` lets in before their window's first result."""
PAUSES = 0.999
"""Share of the pauses of a source that the recommended `idle_timeout` waits for."""
_STEPS_MS = (0, 100, 200, 500, *(1000 * s for s in (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800)))
_HOUR_MS = 3_600_000
_POINTS = 24  # of a curve


class Lateness:
    """Excess of the readings of one window, and pauses of its sources, in counts of three digits each."""

    def __init__(self, allowed_lateness_ms: int) -> None:
        self.readings = 0
        self._allowed_ms = allowed_lateness_ms
        self._excess: Counter[int] = Counter()  # of readings whose excess is above 0
        self._pauses: Counter[int] = Counter()
        self._heard: dict[str, int] = {}

    def observe(self, excess_ms: int, source: str, arrival_ms: int) -> None:
        """Note one reading."""
        self.readings += 1
        if excess_ms >= 0:
            self._excess[excess_ms if excess_ms < 1000 else _coarse(excess_ms)] += 1
        heard_ms = self._heard.get(source)
        self._heard[source] = arrival_ms
        if heard_ms is not None:
            self._pauses[_coarse(max(0, arrival_ms - heard_ms))] += 1

    def late(self, out_of_orderness_ms: int) -> int:
        """Return the number of readings that come behind the watermark, with this setting."""
        return sum(count for excess_ms, count in self._excess.items() if excess_ms >= out_of_orderness_ms)

    @property
    def out_of_orderness_ms(self) -> int:
        """Smallest round setting with which IN_TIME of the readings are in time."""
        wanted = self.readings * (1 - IN_TIME)
        needed_ms = next((each for each in _STEPS_MS if self.late(each) <= wanted), None)
        return self._round_up(max(self._excess, default=0) + 1) if needed_ms is None else needed_ms

    @property
    def allowed_lateness_ms(self) -> int:
        """Smallest round setting with which, together with the other, no reading is dropped."""
        latest_ms = max(self._excess, default=-1) + 1
        return self._round_up(max(0, latest_ms - self.out_of_orderness_ms))

    @property
    def idle_timeout_ms(self) -> int | None:
        """Smallest round setting that waits for PAUSES of the pauses; None without any pause."""
        if not self._pauses:
            return None
        total = self._pauses.total()
        lengths = sorted(self._pauses.items())
        sums = accumulate(count for _, count in lengths)
        longest_ms = next(ms for (ms, _), known in zip(lengths, sums, strict=True) if known >= PAUSES * total)
        return self._round_up(longest_ms + 1)

    def curve(self) -> list[dict[str, int]]:
        """Return what each `out_of_orderness` costs: delay in ms, late readings, and those of them that are
        dropped with the configured `allowed_lateness`."""
        found = sorted(self._excess)
        chosen = {0, self.out_of_orderness_ms}
        chosen |= (
            {found[at * (len(found) - 1) // _POINTS] + 1 for at in range(_POINTS + 1)} if found else set()
        )
        return [
            {"out_of_orderness_ms": ms, "late": self.late(ms), "dropped": self.late(ms + self._allowed_ms)}
            for ms in sorted(chosen)
        ]

    def fields(self) -> dict[str, object]:
        """Return the recommendation as plain values, for JSON."""
        idle_ms = self.idle_timeout_ms
        return {
            "out_of_orderness": _setting(self.out_of_orderness_ms),
            "allowed_lateness": _setting(self.allowed_lateness_ms),
            "idle_timeout": None if idle_ms is None else _setting(idle_ms),
            "readings": self.readings,
            "curve": self.curve(),
        }

    def _round_up(self, time_ms: int) -> int:
        step_ms = next((each for each in _STEPS_MS if each >= time_ms), None)
        return math.ceil(time_ms / _HOUR_MS) * _HOUR_MS if step_ms is None else step_ms


def watch(engine: WindowEngine) -> dict[str, Lateness]:
    """Observe the readings of all windows of an engine that end by event time; by window."""
    found = {}
    for name, operator in engine.operators.items():
        end_of = _first_end(operator)
        if end_of is not None:
            found[name] = Lateness(operator.spec.allowed_lateness_ms)
            operator.observe(_observer(found[name], end_of, operator))
    return found


def _observer(
    lateness: Lateness, end_of: Callable[[int], int | None], operator: Operator[Any]
) -> Callable[[str, int, Reading, int], None]:
    lag_ms, by_key = operator.spec.out_of_orderness_ms, operator.shared is None

    def observe(key: str, watermark_ms: int, reading: Reading, arrival_ms: int) -> None:
        end_ms = end_of(reading.time_ms)
        if end_ms is not None:
            excess_ms = watermark_ms + lag_ms - end_ms if watermark_ms > NEVER else -1
            lateness.observe(excess_ms, key if by_key else reading.topic, arrival_ms)

    return observe


def _first_end(operator: Operator[Any]) -> Callable[[int], int | None] | None:
    """Return a function for the end of the first window that holds a time; None where none ends by it."""
    if isinstance(operator, GridOperator):
        grid = operator.grid

        def of_grid(time_ms: int) -> int | None:
            starts = grid.windows_of(grid.slice_of(time_ms))
            return grid.end_of(starts[0]) if starts else None

        return of_grid
    gap_ms = operator.spec.gap_ms
    return None if gap_ms is None else lambda time_ms: time_ms + gap_ms


def _setting(time_ms: int) -> str:
    """Write a duration as the configuration does."""
    units = (("h", _HOUR_MS), ("m", 60_000), ("s", 1000))
    return next(
        (f"{time_ms // ms}{unit}" for unit, ms in units if time_ms and not time_ms % ms), f"{time_ms}ms"
    )


def _coarse(time_ms: int) -> int:
    """Round up to three digits, so that there are few different ones."""
    if time_ms < 1000:
        return time_ms
    unit = int(10 ** (len(str(time_ms)) - 3))
    return -(-time_ms // unit) * unit
