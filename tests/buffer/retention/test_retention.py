"""The buffer stays within its size: SYNCED first, then even thinning, then the lowest priority."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.buffer.proof.balance import audit
from gateway.buffer.proof.losses import Removal
from gateway.buffer.reader import Reader
from gateway.buffer.retention.policy import IDS_PER_RUN, STEPS_PER_RUN, EvictedRange, Retention, usable_bytes
from gateway.buffer.store import NewEvent, Store
from gateway.core.events import Kind, Priority, Status
from gateway.delivery.states import DeliveryEvent
from tests.support.buffers import sql

MIB = 1024 * 1024
MAX_BYTES = 4 * MIB
HOUR_MS = 3_600_000
STREAMS = 10


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "events.db")
    store.open()
    yield store
    store.close()


def append(store: Store, numbers: range, priority: Priority = Priority.NORMAL, kind: Kind = Kind.RAW) -> None:
    chance = random.Random(numbers.start)
    with store.transaction():
        store.append(
            [
                NewEvent(f"s/{n % STREAMS}", "", n, n, None, priority, kind, 0, chance.randbytes(400))
                for n in numbers
            ]
        )
        store.count("appended", kind.name.lower(), len(numbers))
        store.count("outcome", "buffered", len(numbers) if kind is Kind.RAW else 0)
        store.checkpoint([])


def settle(store: Store, count: int) -> None:
    with store.transaction():
        store.move(store.claim(count), Status.SYNCING, DeliveryEvent.PUBACK)


def retain(store: Store, retention: Retention, now_ms: int, runs: int = 20) -> list[EvictedRange]:
    losses = []
    for _ in range(runs):
        with store.transaction():
            losses += retention.run(store, now_ms, store.last_id())
    return losses


def pending(store: Store) -> list[tuple[int, int, int]]:
    """(stream, sequence number, priority) of what waits."""
    rows = store._connection.execute(
        "SELECT stream, sequence_num, priority FROM buffer_events WHERE status = 0 ORDER BY id"
    )
    return list(rows)


def check_balance(store: Store) -> None:
    reader = Reader(store.path)
    try:
        assert audit(reader).problems == ()
    finally:
        reader.close()


def test_synced_events_stay_for_their_time_and_then_go(store: Store) -> None:
    append(store, range(1000))
    settle(store, 500)
    retention = Retention(100 * MIB, HOUR_MS)
    assert retain(store, retention, now_ms=HOUR_MS) == []
    assert store.counts["status", "SYNCED"] == 500  # arrived at 0 to 999 ms: an hour has not passed
    assert retain(store, retention, now_ms=HOUR_MS + 250) == []
    assert store.counts["status", "SYNCED"] == 250
    assert store.counts["status", "PENDING"] == 500
    check_balance(store)


def test_what_the_history_has_not_copied_stays_unless_its_room_is_needed(store: Store) -> None:
    append(store, range(1000))
    settle(store, 1000)
    copied_to = 400
    roomy = Retention(100 * 1024**2, keep_synced_ms=10_000, copied_to=lambda: copied_to)
    retain(store, roomy, now_ms=20_000)
    assert store.counts["status", "SYNCED"] == 600
    copied_to = 1000
    retain(store, roomy, now_ms=20_000)
    assert store.counts["status", "SYNCED"] == 0
    append(store, range(1000, 2000))
    settle(store, 1000)
    retain(store, Retention(300_000, keep_synced_ms=10_000, copied_to=lambda: 0), now_ms=2000)
    assert store.counts["status", "SYNCED"] < 1000
    check_balance(store)


def test_for_want_of_room_synced_events_go_before_their_time_and_nothing_else_does(store: Store) -> None:
    append(store, range(7000))
    settle(store, 3000)
    assert store.file.used_bytes() > MAX_BYTES * 7 / 8 * 0.8
    assert retain(store, Retention(MAX_BYTES, HOUR_MS), now_ms=7000) == []
    assert store.counts["status", "SYNCED"] == 0
    assert store.counts["status", "PENDING"] == 4000
    check_balance(store)


def test_a_backlog_is_thinned_evenly_per_stream_and_its_newer_half_stays_dense(store: Store) -> None:
    append(store, range(9000))
    before = pending(store)
    losses = retain(store, Retention(MAX_BYTES, HOUR_MS), now_ms=9000)
    assert {loss.reason for loss in losses} == {"thinned"}
    after = pending(store)
    assert sum(loss.events for loss in losses) == len(before) - len(after) > 0
    left = {s: [n for stream, n, _ in after if stream == s] for s in {stream for stream, _, _ in after}}
    assert len(left) == STREAMS
    for numbers in left.values():
        dense_from = 9000 // STREAMS // 2 + 2
        assert [n for n in numbers if n >= dense_from] == list(range(dense_from, 9000 // STREAMS + 1))
        steps = Counter(b - a for a, b in pairwise(numbers) if b < dense_from)
        (_, at_the_edge), *_ = [*steps.most_common()[1:], (0, 0)]
        assert at_the_edge <= 1, "the gaps are even"
    assert store.file.used_bytes() <= MAX_BYTES
    check_balance(store)


@pytest.mark.parametrize("synced", [0, 1000])
def test_a_backlog_gives_way_at_once_however_long_it_is(store: Store, synced: int) -> None:
    events = 2 * STEPS_PER_RUN * IDS_PER_RUN  # twice what a run could look through for SYNCED ones
    with store.transaction():
        store.append([NewEvent(f"s/{n % STREAMS}", "", n, n, None, 2, 0, 0, b"1") for n in range(events)])
        store.checkpoint([])
    settle(store, synced)
    (first, *_) = retain(store, Retention(MAX_BYTES, HOUR_MS), now_ms=events, runs=1)
    assert first.reason == "thinned"
    assert store.counts["status", "SYNCED"] == 0


def test_urgent_events_and_aggregates_are_not_thinned(store: Store) -> None:
    append(store, range(1000), Priority.CRITICAL)
    append(store, range(1000, 2000), Priority.NORMAL, Kind.AGGREGATE)
    append(store, range(2000, 8600))  # a few more, and thinning would not be enough
    losses = retain(store, Retention(MAX_BYTES, HOUR_MS), now_ms=9000)
    assert {loss.reason for loss in losses} == {"thinned"}
    assert [p for _, _, p in pending(store)].count(Priority.CRITICAL) == 1000
    kinds = store._connection.execute("SELECT count(*) FROM buffer_events WHERE kind = 1").fetchone()
    assert kinds == (1000,)


def test_when_thinning_is_not_enough_the_lowest_priority_goes_oldest_first(store: Store) -> None:
    append(store, range(4000), Priority.HIGH)
    append(store, range(4000, 5000), Priority.LOW, Kind.AGGREGATE)
    append(store, range(5000, 9000), Priority.HIGH)
    losses = retain(store, Retention(MAX_BYTES, HOUR_MS), now_ms=9000)
    assert {loss.reason for loss in losses} == {"oldest"}
    after = pending(store)
    assert all(priority == Priority.HIGH for _, _, priority in after)  # every low one went first
    oldest = min(n for _, n, _ in after)
    newest_high = [n for _, n, _ in after]
    assert oldest > 1  # then the oldest of the next priority
    assert max(newest_high) == 9000 // STREAMS
    assert store.file.used_bytes() <= MAX_BYTES
    check_balance(store)


def test_what_could_not_be_delivered_goes_before_what_still_can(store: Store) -> None:
    append(store, range(9000))
    with store.transaction():
        store.reject(store.claim(300), "not allowed")
        store.move(range(301, 401), Status.PENDING, DeliveryEvent.MISMATCH)
        store.move(store.claim(100), Status.SYNCING, DeliveryEvent.PUBACK)
    losses = retain(store, Retention(MAX_BYTES, HOUR_MS), now_ms=500)
    assert [loss.reason for loss in losses[:3]] == ["corrupt", "failed", "thinned"], "SYNCED go before all"
    assert store.counts["evicted", "synced"] == 100
    assert store.counts["evicted", "failed"] == 300
    assert store.counts["evicted", "corrupt"] == 100
    assert store._connection.execute("SELECT count(*) FROM refusals").fetchone() == (0,)
    check_balance(store)


def test_a_buffer_full_of_failed_events_gives_up_the_oldest_of_them_and_nothing_else(store: Store) -> None:
    append(store, range(9000))
    with store.transaction():
        store.reject(store.claim(8900), "not allowed")
    losses = retain(store, Retention(MAX_BYTES, HOUR_MS), now_ms=9000)
    assert {loss.reason for loss in losses} == {"failed"}
    assert store.counts["status", "PENDING"] == 100
    left = store._connection.execute(
        "SELECT min(id), count(*) FROM buffer_events WHERE status = 3"
    ).fetchone()
    gone = sum(loss.events for loss in losses)
    assert left == (gone + 1, 8900 - gone), "the newest of them stay for a retry"
    assert gone < 8900
    assert store.file.used_bytes() <= 0.75 * usable_bytes(MAX_BYTES), (
        "the gateway rejects no message for them"
    )
    check_balance(store)


def test_a_cloud_that_refuses_everything_never_makes_the_buffer_grow_past_its_size(store: Store) -> None:
    retention = Retention(MAX_BYTES, HOUR_MS)
    for start in range(0, 30_000, 500):
        append(store, range(start, start + 500))
        with store.transaction():
            store.reject(store.claim(500), "not allowed")
        retain(store, retention, now_ms=start, runs=2)
        assert store.file.used_bytes() <= MAX_BYTES
    assert store.counts["evicted", "thinned"] == 0
    assert store.counts["evicted", "failed"] > 20_000
    check_balance(store)


def test_what_matters_more_waits_for_the_checkpoint_before_it_goes_for_something_newer(store: Store) -> None:
    append(store, range(10), Priority.CRITICAL, Kind.ALERT)
    behind_id = store.last_id()
    append(store, range(10, 9010))
    retention = Retention(MAX_BYTES, HOUR_MS)
    with store.transaction():
        assert retention.run(store, 9000, behind_id) == []
    assert retention.starved, "so the caller makes a checkpoint"
    losses = retain(store, retention, now_ms=9000)
    assert losses
    assert Counter(priority for *_, priority in pending(store))[Priority.CRITICAL] == 10
    check_balance(store)


def test_what_was_retried_in_the_meantime_is_not_given_up(store: Store) -> None:
    append(store, range(9000))
    with store.transaction():
        store.reject(store.claim(9000), "not allowed")
    retention = Retention(MAX_BYTES, HOUR_MS)
    with store.transaction():
        (first, *_) = retention.run(store, 9000, store.last_id(), steps=1, step_ids=10)
        assert store.move(range(1, 21), Status.FAILED, DeliveryEvent.RETRY) == 10
        (second, *_) = retention.run(store, 9000, store.last_id(), steps=1, step_ids=20)
    assert (first.events, second.events) == (10, 10)
    assert [n for _, n, _ in pending(store)] == [2] * 10
    check_balance(store)


def test_a_loss_says_when_the_events_happened_and_what_each_stream_lost(store: Store) -> None:
    append(store, range(9000))
    losses = retain(store, Retention(MAX_BYTES, HOUR_MS), now_ms=9000)
    lost = Removal.together(loss.removal for loss in losses)
    assert lost.events == sum(loss.events for loss in losses) == sum(each.events for each in lost.streams)
    assert {each.stream for each in lost.streams} == {f"s/{n}" for n in range(STREAMS)}
    assert all(each.first_sequence == 1 for each in lost.streams)
    assert lost.from_ms == 0
    assert lost.to_ms is not None
    assert lost.to_ms < 4600, "the older half"
    assert lost.details("thinned")["more_streams"] == 0


@pytest.mark.parametrize("failed", [0, 9000])
def test_nothing_behind_the_checkpoint_is_touched(store: Store, failed: int) -> None:
    append(store, range(9000))
    with store.transaction():
        store.reject(store.claim(failed), "not allowed")
    retention = Retention(MAX_BYTES, HOUR_MS)
    for _ in range(5):
        with store.transaction():
            retention.run(store, 9000, 0)
    assert len(pending(store)) + store.counts["status", "FAILED"] == 9000


def test_what_is_lost_is_noted_per_stream_and_reason(store: Store) -> None:
    append(store, range(9000))
    losses = retain(store, Retention(MAX_BYTES, HOUR_MS), now_ms=9000)
    rows = sql(store.path, "SELECT stream, reason, first_sequence FROM losses")
    assert {(reason, first) for _, reason, first in rows} == {("thinned", 1)}
    assert len(rows) == STREAMS
    ((noted,),) = sql(store.path, "SELECT sum(events) FROM losses")
    assert noted == sum(loss.events for loss in losses)
    assert store.counts["evicted", "thinned"] == sum(loss.events for loss in losses)


def test_the_file_shrinks_after_a_drain(store: Store) -> None:
    append(store, range(20_000))
    for _ in range(20):
        settle(store, 1000)
    store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    full_bytes = store.path.stat().st_size
    retain(store, Retention(100 * MIB, 0), now_ms=HOUR_MS, runs=20_000 // IDS_PER_RUN + 2)
    while True:
        with store.transaction():
            if not store.file.give_back(256):
                break
    store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert store.path.stat().st_size < full_bytes / 10


def test_an_endless_outage_never_makes_the_file_grow_past_its_size(store: Store) -> None:
    retention, largest = Retention(MAX_BYTES, HOUR_MS), 0
    for start in range(0, 40_000, 500):
        append(store, range(start, start + 500))
        retain(store, retention, now_ms=start, runs=4)
        files = store.path.parent.glob("events.db*")
        largest = max(largest, sum(f.stat().st_size for f in files if not f.name.endswith("-shm")))
    wal_bytes = 5 * MIB  # the WAL's own bound does not shrink with a buffer as small as this
    assert largest <= MAX_BYTES + wal_bytes
    assert store.file.used_bytes() <= MAX_BYTES
    assert len({stream for stream, _, _ in pending(store)}) == STREAMS
    check_balance(store)
