"""Events leave the buffer through one module, which asks the state table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import gateway
from gateway.buffer.store import Store
from gateway.core.errors import DeliveryError
from gateway.core.events import Status
from gateway.delivery.states import DeliveryEvent, sources
from tests.support.buffers import append, events, opened

DELETES_EVENTS = re.compile(r"DELETE\s+FROM\s+buffer_events", re.IGNORECASE)


def test_every_delete_of_events_stands_in_one_module() -> None:
    root = Path(gateway.__file__).parent
    found = [f for f in root.rglob("*.py") if DELETES_EVENTS.search(f.read_text())]
    assert [str(one.relative_to(root)) for one in found] == ["buffer/removals.py"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "events.db") as store:
        append(store, events(3))
        yield store


@pytest.mark.parametrize("status", sorted({*Status} - {*sources(DeliveryEvent.EVICT)}))
def test_what_the_table_does_not_let_be_evicted_stays(store: Store, status: Status) -> None:
    before = store.counts.copy()
    with pytest.raises(DeliveryError), store.transaction():
        store.removals.give_up(status, [1, 2, 3])
    assert store.counts == before


def test_what_is_on_its_way_cannot_be_dropped(store: Store) -> None:
    with store.transaction():
        ids = store.claim(3)
    with pytest.raises(DeliveryError), store.transaction():
        store.removals.drop(ids, [Status.SYNCING])
    assert store.counts["status", "SYNCING"] == 3
