"""Runs and stretches against plain sets of numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.sequence_sets import Run, Stretches, runs_of, size_of, without

numbers = st.lists(st.integers(1, 60), unique=True).map(sorted)
runs = st.builds(
    lambda first, count, step: Run(first, first + count * step, step),
    st.integers(1, 40),
    st.integers(0, 8),
    st.integers(1, 9),
)


def members(run: Run) -> set[int]:
    return set(range(run.first, run.last + 1, run.step))


def spread(stretches: object) -> set[int]:
    return {number for first, last in stretches for number in range(first, last + 1)}  # type: ignore[attr-defined]


def stretches_of(found: list[int]) -> Stretches:
    return Stretches((number, number) for number in found)


@given(numbers)
def test_runs_name_exactly_the_numbers_that_they_were_made_of(found: list[int]) -> None:
    made = list(runs_of(found))
    assert sorted(number for run in made for number in members(run)) == found
    assert sum(run.size for run in made) == len(found)


def test_what_is_thinned_evenly_is_one_run() -> None:
    assert list(runs_of(range(1, 1000, 2))) == [Run(1, 999, 2)]
    assert list(runs_of(range(5, 100))) == [Run(5, 99)]


@given(runs, st.integers(-5, 70), st.integers(0, 40))
def test_a_part_of_a_run_holds_what_lies_within(run: Run, first: int, length: int) -> None:
    part = run.within(first, first + length)
    assert (members(part) if part else set()) == members(run) & {*range(first, first + length + 1)}


@given(numbers, numbers, st.lists(runs, max_size=3))
def test_without_is_the_difference_of_sets(wanted: list[int], seen: list[int], known: list[Run]) -> None:
    left = list(without(stretches_of(wanted), stretches_of(seen), *(run.stretches() for run in known)))
    assert spread(left) == {*wanted} - {*seen} - {number for run in known for number in members(run)}
    assert size_of(left) == len(spread(left))


@given(numbers, st.lists(runs, max_size=3))
def test_united_stretches_are_the_union(seen: list[int], more: list[Run]) -> None:
    united = stretches_of(seen).united(*(run.stretches() for run in more))
    assert spread(united) == {*seen} | {number for run in more for number in members(run)}
    assert spread(united.gaps()).isdisjoint(spread(united))
