"""Time in each state: on and off, open and closed, running and idle; text or numbers.

A state holds from its reading until the next one, so a window knows the time between its first and its last
reading. Readings that come out of order are put in their place; of the older ones only the first and the
last of each run are kept, so one that is very late shares the time of the run it falls into.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from gateway.windows.plugin import Reading
from gateway.windows.toolbox import Point, Record, by_time
from gateway.windows.values import word

MAX_CHANGES = 5_000
"""A state that changes more often than this in one window is a measurement: use another plugin."""


def _same(before: str, state: str, after: str) -> bool:
    return before == state == after


class Plugin:
    """Its accumulator: readings in order as [time, state], the older ones without the middle of runs."""

    accepts_text = True

    def __init__(self) -> None:
        self._field = "value"
        self._record = Record(by_time, _same, 2 * MAX_CHANGES)

    def setup(self, options: Mapping[str, Any]) -> None:
        if set(options) - {"fields"}:
            raise ValueError("it takes no options")
        self._field = options["fields"][0]

    def create_accumulator(self) -> list[Point]:
        return []

    def add_input(self, acc: list[Point], reading: Reading) -> list[Point]:
        state = word(reading.fields.get(self._field))
        if state is not None:
            self._record.insert(acc, [reading.time_ms, state])
        return acc

    def merge_accumulators(self, accumulators: Sequence[list[Point]]) -> list[Point]:
        return self._record.merge(accumulators)

    def extract_output(self, acc: list[Point]) -> dict[str, Any] | None:
        if not acc:
            return None
        lasted_ms: dict[str, int] = {}
        changes = 0
        for (start_ms, state), (end_ms, after) in pairwise(acc):
            lasted_ms[state] = lasted_ms.get(state, 0) + end_ms - start_ms
            changes += state != after
        lasted_ms.setdefault(acc[-1][1], 0)
        seconds = {state: ms / 1000 for state, ms in sorted(lasted_ms.items())}
        return {"seconds": seconds, "changes": changes, "first": acc[0][1], "last": acc[-1][1]}

    def examples(self) -> list[Reading]:
        states = ("on", "on", "off", "off", "off", "on", "standby")
        return [
            Reading(float("nan"), 1_000 * at, {self._field: state}, "a/b") for at, state in enumerate(states)
        ]
