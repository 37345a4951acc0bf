"""Events are found in raw pages: all of them, none that has gone, and no error whatever stands there."""

from __future__ import annotations

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.buffer.connection import PAGE_BYTES
from gateway.buffer.repair.page_scan import Pages, Row
from gateway.core.events import Status
from gateway.delivery.states import DeliveryEvent
from tests.support.buffers import EPOCH_MS, append, event, opened, sql

SIZES = [0, 1, 100, 3_900, 4_000, 4_061, 4_100, 20_000, 300_000]


def carved(content: bytes) -> list[Row]:
    return sorted(row for leaf in Pages(io.BytesIO(content)).leaves() for row in leaf.rows())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[tuple[object, ...]]]:
    """A file with events of all sizes of which some have gone, and its rows."""
    path, chance = tmp_path_factory.mktemp("buffer") / "events.db", random.Random(1)
    with opened(path) as store:
        for start in range(0, 1000, 100):
            numbers = range(start, start + 100)
            append(
                store, [event(f"t/{n % 5}", chance.randbytes(chance.choice(SIZES)), at=n) for n in numbers]
            )
        with store.transaction():
            store.move(store.claim(500), Status.SYNCING, DeliveryEvent.PUBACK)
            store.checkpoint([])
        with store.transaction():
            store.removals.evict_synced(1, 300, EPOCH_MS + 1000)
            store.reject(store.claim(10), "too large")
        while store.file.free_pages() > 100:
            with store.transaction():
                store.file.give_back(50)
        assert store.file.free_pages()
    return path.read_bytes(), sql(path, "SELECT * FROM buffer_events ORDER BY id")


def test_what_is_found_in_the_pages_is_what_the_table_holds(
    whole: tuple[bytes, list[tuple[object, ...]]],
) -> None:
    content, rows = whole
    assert 300 < len(rows) < 1000
    assert carved(content) == rows


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), damages=st.integers(1, 200))
def test_whatever_stands_in_the_pages_raises_nothing(
    whole: tuple[bytes, list[tuple[object, ...]]], seed: int, damages: int
) -> None:
    chance, content = random.Random(seed), bytearray(whole[0][: 60 * PAGE_BYTES])
    for _ in range(damages):
        at = chance.randrange(len(content))
        content[at : at + 4] = chance.randbytes(4)
    del content[chance.randrange(len(content)) :]
    for leaf in Pages(io.BytesIO(content)).leaves():
        assert all(len(row) == 15 for row in leaf.rows())
