"""The mean of directions in degrees, such as wind: 350° and 10° make 0°, not 180°.

`concentration` says how much the directions agree: 1 all the same, 0 none prevails (then the mean is null).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import atan2, cos, degrees, hypot, radians, sin

from gateway.windows.plugin import Reading

NO_DIRECTION = 1e-9
"""Opposite directions cancel out to within rounding; what remains points nowhere."""


class Plugin:
    """Its accumulator: count, and the sums of the cosines and of the sines."""

    def create_accumulator(self) -> list[float]:
        return [0, 0.0, 0.0]

    def add_input(self, acc: list[float], reading: Reading) -> list[float]:
        angle = radians(reading.value)
        return [acc[0] + 1, acc[1] + cos(angle), acc[2] + sin(angle)]

    def merge_accumulators(self, accumulators: Sequence[list[float]]) -> list[float]:
        return [sum(column) for column in zip(*accumulators, strict=True)] or [0, 0.0, 0.0]

    def extract_output(self, acc: list[float]) -> dict[str, float | None] | None:
        count, east, north = acc
        if not count:
            return None
        concentration = hypot(east, north) / count
        mean = degrees(atan2(north, east)) % 360 if concentration > NO_DIRECTION else None
        return {"mean": mean, "concentration": concentration, "count": int(count)}
