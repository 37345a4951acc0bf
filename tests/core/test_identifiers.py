"""Event ids: order, form and sameness."""

from __future__ import annotations

import uuid
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.identifiers import AggregateIds, EventIds

NOW_MS = 1_700_000_000_000


def test_an_id_is_a_uuid_of_version_7_that_begins_with_the_time() -> None:
    made = uuid.UUID(bytes=EventIds().next(NOW_MS))
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == NOW_MS


def test_ids_of_one_millisecond_count_up() -> None:
    ids = EventIds()
    made = [ids.next(NOW_MS) for _ in range(10_000)]  # more than 12 bits can count
    assert made == sorted(made)
    assert len({*made}) == len(made)
    assert {uuid.UUID(bytes=one).version for one in made} == {7}


@given(st.lists(st.integers(0, 2**41), min_size=2, max_size=50))
def test_ids_never_go_back_whatever_the_clock_does(times_ms: list[int]) -> None:
    ids = EventIds()
    made = [ids.next(time_ms) for time_ms in times_ms]
    assert all(before < after for before, after in pairwise(made))
    assert all(len(one) == 16 for one in made)


def test_two_gateways_make_different_ids_in_one_millisecond() -> None:
    assert EventIds().next(NOW_MS)[:8] == EventIds().next(NOW_MS)[:8]
    assert EventIds().next(NOW_MS) != EventIds().next(NOW_MS)


def test_the_same_aggregate_has_the_same_id_in_every_process() -> None:
    assert (
        AggregateIds("g1").of("w\x1fk\x1f0/60000\x1ffinal\x1f0").hex() == "5dc1773d8fdd511ab73125aa5e1e9817"
    )


@pytest.mark.parametrize("gateway_id, identity", [("g2", "w"), ("g1", "v"), ("g1", "w ")])
def test_another_aggregate_has_another_id(gateway_id: str, identity: str) -> None:
    assert AggregateIds(gateway_id).of(identity) != AggregateIds("g1").of("w")
    assert uuid.UUID(bytes=AggregateIds(gateway_id).of(identity)).version == 5
