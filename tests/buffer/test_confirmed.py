"""Events that stay in the buffer until a receiver has them: what is noted, evicted, given up, sent again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from gateway.buffer.proof.positions import lost
from gateway.buffer.retention.policy import EvictedRange, Retention
from gateway.buffer.store import Store
from gateway.core.events import Status
from gateway.delivery.states import DeliveryEvent
from tests.buffer.retention.test_retention import retain
from tests.support.buffers import EPOCH_MS, append, event, events, opened, reading

MIB = 1024 * 1024
LATER_MS = EPOCH_MS + 10_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "events.db") as store:
        yield store


def sync(store: Store, count: int) -> list[int]:
    with store.transaction():
        ids = store.claim(count)
        store.move(ids, Status.SYNCING, DeliveryEvent.PUBACK)
        store.checkpoint(())
    return ids


def confirm(store: Store, topic: str, *have: tuple[int, int]) -> bool:
    with store.transaction():
        return store.confirm(topic, have)


def counts(store: Store) -> dict[str, int]:
    return {status.name: n for status in Status if (n := store.counts["status", status.name])}


def runs(store: Store) -> list[tuple[int, int, int]]:
    found = store._connection.execute(
        "SELECT stream, first_sequence, last_sequence FROM confirmed_runs ORDER BY 1, 2"
    )
    return [(int(stream), int(first), int(last)) for stream, first, last in found]


def evict(store: Store) -> list[EvictedRange]:
    return retain(store, Retention(64 * MIB, 1000, until_confirmed=True), now_ms=LATER_MS)


def test_only_what_is_confirmed_leaves(store: Store) -> None:
    append(store, events(10))
    append(store, events(5, "t/b"))
    sync(store, 15)
    assert evict(store) == []
    assert counts(store) == {"SYNCED": 15}
    assert confirm(store, "t/a", (1, 3), (6, 8))
    evict(store)
    assert counts(store) == {"SYNCED": 9}
    assert store.counts["evicted", "synced"] == 6
    assert confirm(store, "t/a", (1, 10))
    assert confirm(store, "t/b", (1, 5))
    evict(store)
    assert counts(store) == {}


def test_without_it_the_acknowledgement_of_the_broker_is_enough(store: Store) -> None:
    append(store, events(10))
    sync(store, 10)
    retain(store, Retention(64 * MIB, 1000), now_ms=LATER_MS)
    assert counts(store) == {}


def test_the_same_statement_again_in_any_order_says_the_same(store: Store) -> None:
    append(store, events(20))
    for have in [((4, 6),), ((1, 2), (9, 9)), ((4, 6),), ((3, 3),), ((1, 6),), ((7, 8),), ((2, 5),)]:
        assert confirm(store, "t/a", *have)
    assert runs(store) == [(1, 1, 9)]


def test_numbers_that_were_never_given_out_change_nothing(store: Store) -> None:
    append(store, events(10))
    assert not confirm(store, "t/a", (1, 11))
    assert not confirm(store, "t/unknown", (1, 1))
    assert runs(store) == []


def test_what_goes_again_has_to_be_confirmed_again(store: Store) -> None:
    append(store, events(10))
    ids = sync(store, 10)
    confirm(store, "t/a", (1, 10))
    with store.transaction():
        assert store.resend(ids[3:5]) == 2
    assert counts(store) == {"PENDING": 2, "SYNCED": 8}
    assert store.counts["resent", ""] == 2
    assert runs(store) == [(1, 1, 3), (1, 6, 10)]
    with store.transaction():
        assert store.resend(ids[3:5]) == 0  # it is on its way already
    sync(store, 10)
    evict(store)
    assert counts(store) == {"SYNCED": 2}


def test_above_the_hard_mark_the_unconfirmed_go_first_counted_and_declared(store: Store) -> None:
    chance = random.Random(1)
    append(store, [event("t/a", chance.randbytes(1000), at=n) for n in range(2_000)])
    sync(store, 1_000)
    confirm(store, "t/a", (1, 10))
    retention = Retention(2 * MIB, 1000, until_confirmed=True)
    losses = retain(store, retention, now_ms=EPOCH_MS)
    assert losses[0].reason == "unconfirmed"
    assert counts(store)["PENDING"] == 1_000 or counts(store).get("SYNCED", 0) == 0
    assert store.counts["evicted", "unconfirmed"] == sum(
        each.events for each in losses if each.reason == "unconfirmed"
    )
    with reading(store.path) as reader:
        declared = lost(reader, [(1, 1)])[1]
    assert declared[0].reason == "unconfirmed"
    assert declared[0].run.first == 11


def test_runs_of_which_nothing_is_left_are_forgotten(store: Store) -> None:
    append(store, events(10))
    append(store, events(10, "t/b"))
    confirm(store, "t/a", (1, 3), (5, 8))
    confirm(store, "t/b", (1, 10))
    with store.transaction():
        store.confirmed.forget({1: 5})
    assert runs(store) == [(1, 5, 8)]


def test_what_belongs_to_the_identity_before_is_not_waited_for(store: Store) -> None:
    append(store, events(5))
    sync(store, 5)
    with store.transaction():
        store.identity.renew()
    append(store, events(5))
    sync(store, 5)
    evict(store)
    assert counts(store) == {"SYNCED": 5}


def test_what_waits_is_counted_also_in_a_buffer_of_a_version_that_knew_no_confirmations(
    store: Store, tmp_path: Path
) -> None:
    append(store, events(5))
    sync(store, 5)
    assert confirm(store, "t/a", (1, 2))
    with reading(tmp_path / "events.db") as reader:
        assert reader.count_unconfirmed() == 3
    with closing(apsw.Connection(str(tmp_path / "events.db"))) as earlier:
        earlier.execute("DROP TABLE confirmed_runs")
    with reading(tmp_path / "events.db") as reader:
        assert reader.count_unconfirmed() == 5
