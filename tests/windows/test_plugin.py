"""A plugin over several fields: a reading is in all of them, or in none."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gateway.core.events import Reading
from gateway.windows.plugin import PerField


class Sums:
    """Changes its accumulator in place, and takes no number below zero."""

    def create_accumulator(self) -> list[float]:
        return [0, 0.0]

    def add_input(self, acc: list[float], reading: Reading) -> list[float]:
        if reading.value < 0:
            raise ValueError("below zero")
        acc[0] += 1
        acc[1] += reading.value
        return acc

    def merge_accumulators(self, accumulators: Sequence[list[float]]) -> list[float]:
        return [sum(column) for column in zip(*accumulators, strict=True)]

    def extract_output(self, acc: list[float]) -> dict[str, float]:
        return {"count": acc[0], "sum": acc[1]}


def reading(**fields: float) -> Reading:
    return Reading(float("nan"), 0, fields, "t")


@pytest.mark.parametrize("before", [{}, {"a": 1.0}, {"a": 1.0, "b": 2.0}, {"a": float("inf"), "c": 3.0}])
def test_a_field_that_raises_leaves_the_reading_in_no_other_field(before: dict[str, float]) -> None:
    plugin = PerField(Sums(), ["a", "b", "c"])
    accumulator = plugin.add_input(plugin.create_accumulator(), reading(**before))
    found = plugin.extract_output(accumulator)
    with pytest.raises(ValueError, match="below zero"):
        plugin.add_input(accumulator, reading(a=5.0, b=6.0, c=-1.0))
    assert plugin.extract_output(accumulator) == found
