"""Sampling: even within a stream, fair between streams, the same again for the same input."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.events import Priority
from gateway.flow.admission import Admission
from gateway.flow.capacity import Action, Signal
from gateway.flow.sampling import MAX_SKIPPED, FairSampler, fair_limit

COUNTS = st.lists(st.integers(1, 10_000), min_size=1, max_size=50)


@given(COUNTS, st.floats(0.01, 0.99))
def test_the_limit_keeps_just_the_share(counts: list[int], share: float) -> None:
    limit = fair_limit(counts, share)
    assert sum(min(count, limit) for count in counts) == pytest.approx(share * sum(counts))


def test_only_streams_above_the_limit_are_thinned() -> None:
    assert fair_limit([10, 10, 10, 970], 0.5) == pytest.approx(470)
    assert fair_limit([100] * 4, 0.25) == pytest.approx(25)


def test_a_full_share_has_no_limit() -> None:
    assert fair_limit([5, 5], 1.0) == float("inf")
    assert fair_limit([], 0.5) == float("inf")


def thinned(share: float, streams: dict[str, int], turns: int) -> tuple[Counter[str], FairSampler]:
    """What is kept of so many messages per stream and turn, after a first turn that only counts."""
    sampler, kept = FairSampler(), Counter[str]()
    sampler.turn(share)
    for turn in range(turns):
        kept.clear()
        for topic, count in streams.items():
            kept[topic] = sum(sampler.admit(topic) is not None for _ in range(count))
        if turn < turns - 1:
            sampler.turn(share)
    return kept, sampler


def test_a_device_that_floods_loses_its_own_messages_and_not_those_of_others() -> None:
    streams = {f"calm/{i}": 10 for i in range(20)} | {"flood": 10_000}
    kept, _ = thinned(0.1, streams, 3)
    assert all(kept[topic] == 10 for topic in streams if topic != "flood")
    assert kept.total() == pytest.approx(0.1 * sum(streams.values()), rel=0.01)


@given(st.floats(0.1, 0.95), st.integers(2, 500))
def test_what_is_kept_of_a_stream_is_evenly_spread(share: float, count: int) -> None:
    sampler = FairSampler()
    sampler.turn(share)
    admitted = [i for i in range(count) if sampler.admit("a") is not None]
    gaps = [b - a for a, b in pairwise(admitted)]
    assert all(int(1 / share) <= gap <= int(1 / share) + 1 for gap in gaps)


@given(st.floats(0.05, 0.9), st.lists(st.sampled_from("abc"), max_size=300))
def test_kept_events_and_those_they_stand_for_add_up_to_all(share: float, topics: list[str]) -> None:
    sampler = FairSampler()
    sampler.turn(share)
    told = Counter[str]()
    since = Counter[str]()
    for topic in topics:
        skipped = sampler.admit(topic)
        if skipped is None:
            since[topic] += 1
        else:
            told[topic] += skipped + 1
            since[topic] = 0
    assert told + since == Counter(topics)


def test_the_same_messages_are_kept_when_the_same_comes_again() -> None:
    def keep() -> list[int | None]:
        sampler = FairSampler()
        sampler.turn(0.3)
        return [sampler.admit(f"s/{i % 7}") for i in range(500)]

    assert keep() == keep()


def test_a_flood_of_ever_new_topics_is_thinned_as_well() -> None:
    sampler, kept = FairSampler(), 0
    for turn in range(4):
        sampler.turn(0.1)
        kept = sum(sampler.admit(f"flood/{turn}/{i}") is not None for i in range(2000))
    assert kept == pytest.approx(200, rel=0.25)


def test_never_are_more_left_out_in_a_row_than_an_event_can_say() -> None:
    streams = {"a": 100_000} | {f"calm/{i}": 1 for i in range(100)}
    sampler = FairSampler()
    sampler.turn(0.001)
    for topic, count in streams.items():
        for _ in range(count):
            skipped = sampler.admit(topic)
            assert skipped is None or skipped <= MAX_SKIPPED


def test_routes_that_do_not_allow_sampling_keep_everything() -> None:
    admission = Admission()
    admission.follow(Signal(Action.SLOW_DOWN, 2.0, 1000, 0.1))
    assert {admission.judge("s", Priority.NORMAL, False) for _ in range(100)} == {0}


def test_above_the_threshold_priorities_pass() -> None:
    admission = Admission()
    admission.follow(Signal(Action.REJECT_LOW_PRIORITY, 0.0, 0, 1.0, Priority.LOW))
    assert admission.shedding
    assert admission.judge("s", Priority.LOW, True) == "overload"
    assert {admission.judge("s", p, True) for p in Priority if p < Priority.LOW} == {0}
