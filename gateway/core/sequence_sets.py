"""Sets of sequence numbers that stay small: runs of neighbours, and runs with a step.

What arrives of a stream is a few stretches. What retention thins out is every second, fourth, … number: a
run with a step names each of them exactly, however many they are.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

Stretch = tuple[int, int]
"""First and last of a run of neighbours."""


class Run(NamedTuple):
    """The numbers first, first + step, …, last."""

    first: int
    last: int
    step: int = 1

    @property
    def size(self) -> int:
        return (self.last - self.first) // self.step + 1

    @property
    def pieces(self) -> int:
        """Number of its `stretches`."""
        return 1 if self.step == 1 else self.size

    def within(self, first: int, last: int) -> Run | None:
        """The part of the run from `first` to `last`, if there is one."""
        start = max(self.first, self.first + -(-(first - self.first) // self.step) * self.step)
        end = min(self.last, self.first + (last - self.first) // self.step * self.step)
        return Run(start, end, self.step) if start <= end else None

    def stretches(self) -> Iterator[Stretch]:
        """The run as runs of neighbours, in order; `pieces` of them, so look first at those of others."""
        if self.step == 1:
            yield self.first, self.last
        else:
            yield from ((number, number) for number in range(self.first, self.last + 1, self.step))


def runs_of(numbers: Sequence[int]) -> Iterator[Run]:
    """Rising numbers as few runs: each goes on for as long as its first step is kept."""
    if numbers and numbers[-1] - numbers[0] == len(numbers) - 1:  # the usual case: neighbours
        yield Run(numbers[0], numbers[-1])
        return
    at = 0
    while at < len(numbers):
        first = at
        step = numbers[at + 1] - numbers[at] if at + 1 < len(numbers) else 1
        while at + 1 < len(numbers) and numbers[at + 1] - numbers[at] == step:
            at += 1
        yield Run(numbers[first], numbers[at], step if at > first else 1)
        at += 1


def without(wanted: Iterable[Stretch], *known: Iterable[Stretch]) -> Iterator[Stretch]:
    """Yield the parts of `wanted` that are not in `known`. Each comes in order; those of `known` may
    overlap."""
    merged = heapq.merge(*known)
    current = next(merged, None)
    for first, last in wanted:
        at = first
        while current is not None and current[0] <= last:
            if current[0] > at:
                yield at, current[0] - 1
            at = max(at, current[1] + 1)
            if current[1] > last:
                break  # it may cover some of the next one too
            current = next(merged, None)
        if at <= last:
            yield at, last


def size_of(stretches: Iterable[Stretch]) -> int:
    """Return the total of numbers in stretches that do not overlap."""
    return sum(last - first + 1 for first, last in stretches)


class Stretches:
    """A set of integers that knows only the first and last of every run of neighbours."""

    def __init__(self, stretches: Iterable[Stretch] = ()) -> None:
        """`stretches` come in order; they may overlap or touch."""
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in stretches:
            if self._lasts and first <= self._lasts[-1] + 1:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(first)
                self._lasts.append(last)

    def __iter__(self) -> Iterator[Stretch]:
        return zip(self._firsts, self._lasts, strict=True)

    @property
    def first(self) -> int | None:
        return self._firsts[0] if self._firsts else None

    @property
    def last(self) -> int | None:
        return self._lasts[-1] if self._lasts else None

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number)
        return at > 0 and number <= self._lasts[at - 1]

    def add(self, number: int) -> bool:
        """Add `number`; return False if it was there already."""
        firsts, lasts = self._firsts, self._lasts
        if lasts and number == lasts[-1] + 1:
            lasts[-1] = number
            return True
        after = bisect_right(firsts, number)
        if after and number <= lasts[after - 1]:
            return False
        firsts.insert(after, number)
        lasts.insert(after, number)
        self._join(after)
        self._join(after - 1)
        return True

    def united(self, *others: Iterable[Stretch]) -> Stretches:
        """Return the union of this set and the numbers of `others`, each of which comes in order."""
        return Stretches(heapq.merge(self, *others))

    def forget_from(self, number: int) -> None:
        """Remove `number` and everything above it."""
        keep = bisect_right(self._firsts, number - 1)
        del self._firsts[keep:], self._lasts[keep:]
        if self._lasts:
            self._lasts[-1] = min(self._lasts[-1], number - 1)

    def keep_newest(self, runs: int) -> None:
        """Remove the lower half of the runs when there are more than `runs`."""
        if len(self._firsts) > runs:
            del self._firsts[: -runs // 2], self._lasts[: -runs // 2]

    def gaps(self) -> Iterator[Stretch]:
        """First and last of every run that is missing between two stretches."""
        for last, first in zip(self._lasts, self._firsts[1:], strict=False):
            yield last + 1, first - 1

    def _join(self, at: int) -> None:
        """Make one of the stretches `at` and `at + 1` if they touch."""
        if 0 <= at < len(self._firsts) - 1 and self._lasts[at] + 1 == self._firsts[at + 1]:
            del self._lasts[at], self._firsts[at + 1]
