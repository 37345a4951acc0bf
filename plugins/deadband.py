"""Data reduction: a window's last value, but only once it has moved by more than a band since the last one.

Options: `band` (in the reading's unit), `percent` (of the value sent last) or both, whichever is wider, and
`every_s`: send it at least so often. On a count window of 1 each reading is looked at, on a tumbling window
one in each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.windows.plugin import Reading
from gateway.windows.toolbox import read_options


class Plugin:
    """Its accumulator: [time, value] of the last reading; `report` compares it with what was sent."""

    def __init__(self) -> None:
        self._band = self._percent = self._every_s = 0.0

    def setup(self, options: Mapping[str, Any]) -> None:
        read = read_options(options, band=0.0, percent=0.0, every_s=0.0)
        if min(read.values()) < 0 or not (read["band"] or read["percent"]):
            raise ValueError("give a band or a percent above zero")
        self._band, self._percent, self._every_s = read["band"], read["percent"], read["every_s"]

    def create_accumulator(self) -> list[float]:
        return []

    def add_input(self, acc: list[float], reading: Reading) -> list[float]:
        return [reading.time_ms, reading.value] if not acc or reading.time_ms >= acc[0] else acc

    def merge_accumulators(self, accumulators: Sequence[list[float]]) -> list[float]:
        latest: list[float] = []
        for acc in accumulators:
            if acc and (not latest or acc[0] >= latest[0]):
                latest = list(acc)
        return latest

    def extract_output(self, acc: list[float]) -> list[float] | None:
        return list(acc) or None

    def report(
        self, sent: list[float] | None, last: list[float] | None
    ) -> tuple[list[float] | None, dict[str, float] | None]:
        """Send the value when it has left the band around what was sent, or when that is too long ago."""
        if last is None or (sent is not None and not self._is_due(sent, last)):
            return sent, None
        change = 0.0 if sent is None else last[1] - sent[1]
        return last, {"value": last[1], "time_ms": last[0], "change": change}

    def _is_due(self, sent: list[float], last: list[float]) -> bool:
        band = max(self._band, abs(sent[1]) * self._percent / 100)
        is_old = bool(self._every_s) and last[0] - sent[0] >= self._every_s * 1000
        return abs(last[1] - sent[1]) > band or is_old
