"""How much a counter that only rises has gone up, and how fast: energy, water, bytes, revolutions.

A fall is a reset: the counter is taken to have started again from zero, or with `wraps_at` (such as
4294967296) to have gone over its end. Readings that come out of order are put in their place first. A window
knows what it saw: the rise between its last reading and the first of the next window is in neither, so a
total over many windows is the difference of their `last`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from gateway.windows.plugin import Reading
from gateway.windows.toolbox import Point, Record, read_options

MAX_RESETS = 500
"""What falls more often than this in one window is no counter. A record of it would grow without bound."""


def _rises(before: float, value: float, after: float) -> bool:
    return before <= value <= after


class Plugin:
    """Its accumulator: readings in order as [time, value], the older ones without the middle of rises."""

    def __init__(self) -> None:
        self._wraps_at: float | None = None
        self._record = Record(tuple, _rises, 2 * MAX_RESETS)

    def setup(self, options: Mapping[str, Any]) -> None:
        wraps_at = read_options(options, wraps_at=0)["wraps_at"]
        if wraps_at < 0:
            raise ValueError("wraps_at is above zero")
        self._wraps_at = wraps_at or None

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
        steps = [self._rise(before, after) for (_, before), (_, after) in pairwise(acc)]
        resets = sum(after < before for (_, before), (_, after) in pairwise(acc))
        span_s = (acc[-1][0] - acc[0][0]) / 1000
        increase = sum(steps)
        return {
            "increase": increase,
            "rate_per_s": increase / span_s if span_s else None,
            "resets": resets,
            "first": acc[0][1],
            "last": acc[-1][1],
            "span_s": span_s,
        }

    def _rise(self, before: float, after: float) -> float:
        if after >= before:
            return after - before
        return after if self._wraps_at is None else self._wraps_at - before + after
