"""The garbage collector: what is kept is left out, and what has become garbage is found all the same."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from weakref import ref

import pytest

from gateway.host.garbage import Collections

DAY_S = 24 * 60 * 60.0


class Node:
    """A part of a cycle."""

    def __init__(self) -> None:
        self.itself = self


class Days:
    """A clock that is put on by hand."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now_s(self) -> float:
        return self.time_s


@pytest.fixture
def days() -> Days:
    return Days()


@pytest.fixture
def collections(days: Days) -> Iterator[Collections]:
    threshold = gc.get_threshold()
    found = Collections(days.now_s)
    yield found
    found.end()
    gc.set_threshold(*threshold)


def test_what_was_alive_in_a_full_collection_is_left_out_of_the_next(collections: Collections) -> None:
    collections.begin()
    kept = [Node() for _ in range(1000)]
    before = gc.get_freeze_count()
    gc.collect()
    assert gc.get_freeze_count() >= before + len(kept)


def test_garbage_that_was_never_left_out_is_found(collections: Collections) -> None:
    collections.begin()
    node = ref(Node())
    gc.collect()
    assert node() is None


def test_what_has_become_garbage_since_is_found_once_a_day(collections: Collections, days: Days) -> None:
    collections.begin()
    node = Node()
    gc.collect()
    found = ref(node)
    del node
    gc.collect()
    assert found() is not None
    days.time_s = DAY_S
    gc.collect()
    assert found() is None


def test_a_new_start_finds_what_the_one_before_has_left(collections: Collections) -> None:
    collections.begin()
    node = Node()
    gc.collect()
    found = ref(node)
    del node
    collections.begin()
    assert found() is None
