"""The store against a plain list, and what a rollback, a restart and a foreign hand do to it."""

from __future__ import annotations

import contextlib
import copy
import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.buffer.compression import train
from gateway.buffer.event_filter import EventFilter
from gateway.buffer.operator_actions import OperatorActions
from gateway.buffer.proof.balance import audit
from gateway.buffer.reader import Reader
from gateway.buffer.repair.recovery import WHOLE, recover
from gateway.buffer.store import CHECKPOINT_ID, NewEvent, Store
from gateway.buffer.stored_events import BATCH_BYTES
from gateway.core.errors import DeliveryError, StoreError
from gateway.core.events import Kind, Priority, Status
from gateway.core.topics import filter_matches
from gateway.delivery.states import TRANSITIONS, Backoff, DeliveryEvent
from tests.support.buffers import EPOCH_MS, all_payloads, append, event, events, opened, reading, sql

SAMPLE = b'{"device": "d%d", "temperature": %d.5, "humidity": 40, "unit": "C"}'
DICTIONARY = train([SAMPLE % (n % 20, n % 40) for n in range(1000)])

BACKOFF = Backoff(min_ms=1000, max_ms=2000, max_attempts=2)
MOVES = [
    (s, h) for (s, h), after in TRANSITIONS.items() if after is not None and h is not DeliveryEvent.CLAIM
]


class Model:
    """What the buffer should hold: a list of rows and some numbers."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.last_id = 0
        self.last_sequence: Counter[str] = Counter()
        self.appended: Counter[str] = Counter()
        self.evicted: Counter[str] = Counter()
        self.checkpoint_id = 0
        self.windows: dict[tuple[str, bytes], bytes] = {}
        self.now_ms = EPOCH_MS
        self.held: dict[tuple[str, int], tuple[int, int, int]] = {}  # first id, refusals, until

    def append(self, batch: list[NewEvent]) -> None:
        for one in batch:
            self.last_id += 1
            self.last_sequence[one.topic] += 1
            self.appended[Kind(one.kind).name.lower()] += 1
            self.rows.append(
                {
                    "id": self.last_id,
                    "topic": one.topic,
                    "sequence": self.last_sequence[one.topic],
                    "status": Status.PENDING,
                    "priority": one.priority,
                    "retries": 0,
                    "payload": one.payload,
                    "kind": one.kind,
                }
            )

    def claim(self, limit: int) -> list[object]:
        waiting = [
            row
            for row in self.rows
            if row["status"] is Status.PENDING
            and self.now_ms >= self.held.get((row["topic"], row["priority"]), (0, 0, 0))[2]
        ]
        taken = sorted(waiting, key=lambda row: (row["priority"], row["id"]))[:limit]
        for row in taken:
            row["status"] = Status.SYNCING
        return [row["id"] for row in taken]

    def refuse(self, ids: list[int], backoff: Backoff) -> int:
        refused = [row for row in self.rows if row["id"] in ids and row["status"] is Status.SYNCING]
        for lane in {(row["topic"], row["priority"]) for row in refused}:
            first = min(row["id"] for row in refused if (row["topic"], row["priority"]) == lane)
            known, before, _ = self.held.get(lane, (0, 0, 0))
            refusals = before + 1 if known == first else 1
            self.held[lane] = first, refusals, self.now_ms + backoff.pause_ms(refusals, 0.5)
        failed = [
            row["id"]
            for row in refused
            if row["retries"] + 1 >= backoff.max_attempts
            and self.held[row["topic"], row["priority"]][1] >= backoff.max_attempts
        ]
        self.move(failed, Status.SYNCING, DeliveryEvent.EXHAUSTED)
        self.move(ids, Status.SYNCING, DeliveryEvent.FAILURE)
        return len(failed)

    def move(self, ids: list[int], status: Status, happening: DeliveryEvent) -> int:
        moved = [row for row in self.rows if row["id"] in ids and row["status"] is status]
        for row in moved:
            row["status"] = TRANSITIONS[status, happening]
            row["retries"] += happening is DeliveryEvent.FAILURE
            row["retries"] *= happening is not DeliveryEvent.RETRY
        return len(moved)

    def chosen(self, stream: str | None, statuses: Sequence[Status]) -> list[int]:
        rows = [row for row in self.rows if row["status"] in statuses]
        return [row["id"] for row in rows if stream is None or filter_matches(stream, row["topic"])]

    def remove(self, reason: str, status: Status, goes: Callable[[dict[str, Any]], bool]) -> int:
        gone = [row for row in self.rows if row["status"] is status and goes(row)]
        self.rows = [row for row in self.rows if row not in gone]
        self.evicted[reason] += len(gone)
        return len(gone)


topics = st.sampled_from(["t/a", "t/b", "t/c/d"])
payloads = st.one_of(
    st.binary(max_size=8), st.builds(lambda n: SAMPLE % (n, n), st.integers(0, 99)), st.just(b"x" * 2000)
)
new_events = st.builds(
    event,
    topics,
    payloads,
    family=st.sampled_from(["f", "g"]),
    priority=st.sampled_from(list(Priority)),
    kind=st.sampled_from([Kind.RAW, Kind.RAW, Kind.AGGREGATE]),
)
ids = st.lists(st.integers(1, 40), max_size=15)
steps = st.one_of(
    st.tuples(st.just("append"), st.lists(new_events, max_size=6)),
    st.tuples(st.just("claim"), st.integers(0, 5)),
    st.tuples(st.just("move"), ids, st.sampled_from(MOVES)),
    st.tuples(st.just("refuse")),
    st.tuples(st.just("wait"), st.sampled_from([0, 1, 700, 1500])),
    st.tuples(st.just("release")),
    st.tuples(st.just("evict"), st.integers(0, 20), st.integers(0, 20)),
    st.tuples(st.just("thin"), st.integers(0, 20), st.sampled_from([2, 4]), st.sampled_from(list(Priority))),
    st.tuples(st.just("drop"), st.sampled_from(list(Priority)), st.integers(1, 3)),
    st.tuples(st.just("give_up"), st.sampled_from([Status.FAILED, Status.CORRUPT]), st.integers(1, 3)),
    st.tuples(st.just("checkpoint"), st.sampled_from([b"a", b"b"]), st.sampled_from([b"1", b"2", None])),
    st.tuples(st.just("dictionary"), st.sampled_from(["f", "g"])),
)


class StoreMachine(RuleBasedStateMachine):
    """Groups of changes that commit or roll back, and restarts, against the model."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "events.db"
        self.model = Model()
        self.store = Store(self.path, "normal")  # what is synced does not matter here, and it is faster
        self.store.open()
        self.reader = Reader(self.path)

    def teardown(self) -> None:
        self.reader.close()
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(group=st.lists(steps, min_size=1, max_size=5), commits=st.sampled_from([True, True, True, False]))
    def change(self, group: list[tuple[Any, ...]], commits: bool) -> None:
        model = copy.deepcopy(self.model)
        try:
            with self.store.transaction():
                for name, *arguments in group:
                    getattr(self, name)(model, *arguments)
                if not commits:
                    raise InterruptedError
        except InterruptedError:
            with self.store.transaction():
                self.store.reload()
        else:
            self.model = model

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store(self.path, "normal")
        self.store.open()

    @rule(group=st.lists(steps, max_size=5))
    def crash(self, group: list[tuple[Any, ...]]) -> None:
        """In the middle of a group: what goes on is a copy of the files as they are at that moment."""
        unfinished = copy.deepcopy(self.model)
        left = Path(tempfile.mkdtemp(dir=self.folder)) / "events.db"
        with contextlib.suppress(InterruptedError), self.store.transaction():
            for name, *arguments in group:
                getattr(self, name)(unfinished, *arguments)
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{self.path}{suffix}", f"{left}{suffix}")
            raise InterruptedError
        self.reader.close()
        self.store.close()
        self.path = left
        assert recover(self.path, 0, "normal") == WHOLE
        self.store = Store(self.path, "normal")
        self.store.open()
        self.reader = Reader(self.path)

    @rule(stream=st.sampled_from(["t/a", "t/+", None]))
    def retry_by_hand(self, stream: str | None) -> None:
        chosen = self.model.chosen(stream, (Status.FAILED,))
        expected = self.model.move(chosen, Status.FAILED, DeliveryEvent.RETRY)
        done = self.by_hand([]).retry(EventFilter(stream=stream), lambda _done, _all: None)
        assert done["retried"] == expected
        self.model.held.clear()

    @rule(
        stream=st.sampled_from(["t/b", "t/#", None]),
        status=st.sampled_from([None, Status.PENDING, Status.FAILED, Status.CORRUPT]),
    )
    def drop_by_hand(self, stream: str | None, status: Status | None) -> None:
        statuses = (Status.FAILED, Status.CORRUPT) if status is None else (status,)
        gone = [i for i in self.model.chosen(stream, statuses) if i <= self.model.checkpoint_id]
        expected = sum(self.model.remove("dropped", one, lambda row: row["id"] in gone) for one in statuses)
        announced: list[int] = []
        done = self.by_hand(announced).drop(
            EventFilter(status=status, stream=stream), lambda _done, _all: None
        )
        assert done["dropped"] == expected == sum(announced)

    def by_hand(self, announced: list[int]) -> OperatorActions:
        def run(change: Callable[[Store], Any], /) -> Any:
            with self.store.transaction():
                return change(self.store)

        def alert(store: Store, name: str, message: str, details: Mapping[str, Any], /) -> None:
            announced.append(details["events"])

        return OperatorActions(run, run, alert)

    # --- the changes, each in both worlds ---

    def append(self, model: Model, batch: list[NewEvent]) -> None:
        self.store.append(batch)
        for one in batch:
            self.store.count("appended", Kind(one.kind).name.lower())
            self.store.count("outcome", "buffered", by=one.kind == Kind.RAW)
        model.append(batch)
        assert self.store.last_id() == model.last_id

    def claim(self, model: Model, limit: int) -> None:
        assert self.store.claim(limit, now_ms=model.now_ms) == model.claim(limit)

    def refuse(self, model: Model) -> None:
        syncing = [row["id"] for row in model.rows if row["status"] is Status.SYNCING]
        failed = self.store.refuse(syncing, "no reason", BACKOFF, model.now_ms, 0.5)
        assert failed == model.refuse(syncing, BACKOFF)

    def wait(self, model: Model, ms: int) -> None:
        model.now_ms += ms

    def move(self, model: Model, moved: list[int], pair: tuple[Status, DeliveryEvent]) -> None:
        assert self.store.move(moved, *pair) == model.move(moved, *pair)

    def release(self, model: Model) -> None:
        everything = [row["id"] for row in model.rows]
        expected = model.move(everything, Status.SYNCING, DeliveryEvent.FAILURE)
        assert self.store.release_all() == expected

    def evict(self, model: Model, from_id: int, to_id: int) -> None:
        to_id = min(to_id, model.checkpoint_id)  # as retention does
        expected = model.remove("synced", Status.SYNCED, lambda row: from_id <= row["id"] <= to_id)
        assert self.store.removals.evict_synced(from_id, to_id, EPOCH_MS + 1) == expected

    def thin(self, model: Model, from_id: int, keep_one_in: int, priority: Priority) -> None:
        to_id = model.checkpoint_id

        def goes(row: dict[str, Any]) -> bool:
            is_meant = row["kind"] == Kind.RAW and row["priority"] >= priority
            return bool(from_id <= row["id"] <= to_id and is_meant and row["sequence"] % keep_one_in != 0)

        expected = model.remove("thinned", Status.PENDING, goes)
        assert self.store.removals.thin(from_id, to_id, keep_one_in, priority).events == expected

    def drop(self, model: Model, priority: Priority, limit: int) -> None:
        waiting = [row for row in model.rows if row["status"] is Status.PENDING]
        oldest = [r["id"] for r in waiting if r["priority"] == priority and r["id"] <= model.checkpoint_id]
        found = self.store.search.oldest_pending(priority, model.checkpoint_id, limit)
        assert found == oldest[:limit]
        expected = model.remove("oldest", Status.PENDING, lambda row: row["id"] in found)
        assert self.store.removals.drop_pending(found).events == expected

    def give_up(self, model: Model, status: Status, limit: int) -> None:
        ids = [r["id"] for r in model.rows if r["status"] is status and r["id"] <= model.checkpoint_id]
        found = self.store.search.oldest_undelivered(status, model.checkpoint_id, limit)
        assert found == ids[:limit]
        expected = model.remove(status.name.lower(), status, lambda row: row["id"] in found)
        assert self.store.removals.give_up(status, found).events == expected

    def checkpoint(self, model: Model, key: bytes, state: bytes | None) -> None:
        assert self.store.checkpoint([("w", key, state)]) == model.last_id
        model.checkpoint_id = model.last_id
        if state is None:
            model.windows.pop(("w", key), None)
        else:
            model.windows["w", key] = state

    def dictionary(self, model: Model, family: str) -> None:
        assert DICTIONARY is not None
        self.store.dictionaries.install(family, DICTIONARY, 0)

    # --- what must hold after every step ---

    @invariant()
    def the_rows_are_those_of_the_list(self) -> None:
        found = self.reader.by_ids(range(self.model.last_id + 1))
        good, corrupt = self.reader.without_corrupt(found)
        assert corrupt == []
        states = {
            row[0]: row[1:]
            for row in self.reader._connection.execute("SELECT id, status, retry_count FROM buffer_events")
        }
        assert [
            {
                "id": id_,
                "topic": topic,
                "sequence": number,
                "status": Status(states[id_][0]),
                "priority": priority,
                "retries": states[id_][1],
                "payload": payload,
                "kind": kind,
            }
            for id_, topic, number, priority, payload, kind in zip(
                good.ids,
                self.reader.names(good.stream_ids),
                good.sequence_nums,
                good.priorities,
                self.reader.payloads(good),
                good.kinds,
                strict=True,
            )
        ] == self.model.rows

    @invariant()
    def the_counters_are_those_of_the_list(self) -> None:
        expected = Counter({("status", row["status"].name): 0 for row in self.model.rows})
        expected.update(("status", row["status"].name) for row in self.model.rows)
        expected.update({("appended", kind): n for kind, n in self.model.appended.items()})
        expected.update({("evicted", reason): n for reason, n in self.model.evicted.items()})
        expected["outcome", "buffered"] = self.model.appended["raw"]
        assert +self.store.counts == +expected
        assert +Counter(self.reader.counters()) == +expected

    @invariant()
    def it_balances(self) -> None:
        assert audit(self.reader).problems == ()

    @invariant()
    def the_window_states_are_those_of_the_last_checkpoint(self) -> None:
        assert {(w, k): s for w, k, s in self.store.windows.all()} == self.model.windows
        assert self.store.meta_int(CHECKPOINT_ID) == self.model.checkpoint_id


_ANY_PACE: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}
TestStoreAgainstAList = StoreMachine.TestCase
TestStoreAgainstAList.settings = settings(max_examples=40, stateful_step_count=20, **_ANY_PACE)


@pytest.mark.slow
class TestStoreAgainstAListForLong(StoreMachine.TestCase):  # type: ignore[valid-type, misc]
    settings = settings(max_examples=1500, stateful_step_count=40, **_ANY_PACE)


# --- sequence numbers ---


@pytest.mark.parametrize("checkpointed", [True, False])
def test_sequence_numbers_go_on_after_a_restart(tmp_path: Path, checkpointed: bool) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        append(store, [*events(3), *events(2, "t/b")])
        if checkpointed:
            with store.transaction():
                store.checkpoint([])
    with opened(path) as store:
        append(store, [*events(1), *events(1, "t/b"), *events(1, "t/new")])
    rows = sql(path, "SELECT name, sequence_num FROM buffer_events JOIN streams ON stream = streams.id")
    expected = {"t/a": [1, 2, 3, 4], "t/b": [1, 2, 3], "t/new": [1]}
    assert sorted(rows) == [(topic, number) for topic, numbers in expected.items() for number in numbers]


def test_a_rolled_back_group_leaves_no_hole_in_the_sequence(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, events(2))
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.append([*events(5), *events(1, "t/new")])
            raise ZeroDivisionError
        with store.transaction():
            store.reload()
        append(store, [*events(1), *events(1, "t/new")])
    assert numbers(tmp_path / "events.db") == [1, 2, 3, 1]


def test_sequence_numbers_go_on_after_everything_was_evicted(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        append(store, events(3))
        with store.transaction():
            store.move(store.claim(9), Status.SYNCING, DeliveryEvent.PUBACK)
            store.checkpoint([])
        with store.transaction():
            assert store.removals.evict_synced(0, store.meta_int(CHECKPOINT_ID), EPOCH_MS + 10) == 3
    with opened(path) as store:
        append(store, events(1))
        assert store.last_id() == 4  # ids go on too
    assert numbers(path) == [4]


def numbers(path: Path) -> list[object]:
    return [row[0] for row in sql(path, "SELECT sequence_num FROM buffer_events ORDER BY id")]


# --- claims ---


def test_the_most_urgent_events_are_claimed_first_and_then_the_oldest(tmp_path: Path) -> None:
    priorities = [Priority.LOW, Priority.NORMAL, Priority.CRITICAL, Priority.NORMAL, Priority.CRITICAL]
    with opened(tmp_path / "events.db") as store:
        append(store, [event(priority=priority) for priority in priorities])
        with store.transaction():
            claims = [store.claim(2), store.claim(2), store.claim(2), store.claim(2)]
    assert claims == [[3, 5], [2, 4], [1], []]


def test_shards_divide_the_streams_among_them(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, [event(f"t/{number % 7}") for number in range(70)])
        with store.transaction():
            claims = [store.claim(100, shard, 3) for shard in range(3)]
        with reading(store.path) as reader:
            streams = [{*reader.by_ids(claim).stream_ids} for claim in claims]
    assert sorted(itertools.chain(*claims)) == list(range(1, 71))
    assert not any(a & b for a, b in itertools.combinations(streams, 2))


def test_an_event_that_was_rolled_back_cannot_be_claimed(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, events(1))
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.append(events(5))
            assert len(store.claim(10)) == 6
            raise ZeroDivisionError
        with store.transaction():
            store.reload()
        with store.transaction():
            assert store.claim(10) == [1]
            assert store.claim(10) == []


def test_a_claim_of_large_events_ends_where_a_batch_is_full(tmp_path: Path) -> None:
    large = bytes(range(256)) * (BATCH_BYTES // 256 // 2)
    huge = large * 3
    with opened(tmp_path / "events.db") as store:
        append(store, [event(payload=payload) for payload in (large, large, large, huge, b"1")])
        sql(store.path, "UPDATE buffer_events SET payload = randomblob(?) WHERE id = 4", len(huge))
        sql(store.path, "UPDATE buffer_events SET payload = randomblob(?) WHERE id < 4", len(large))
        with store.transaction():
            assert [store.claim(10) for _ in range(4)] == [[1, 2], [3], [4], [5]]


# --- the state table ---


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("happening", list(DeliveryEvent))
def test_what_the_table_does_not_list_changes_no_row(
    tmp_path: Path, status: Status, happening: DeliveryEvent
) -> None:
    if (status, happening) in TRANSITIONS:
        return
    with opened(tmp_path / "events.db") as store:
        append(store, events(1))
        sql(store.path, "UPDATE buffer_events SET status = ?", int(status))
        with store.transaction(), pytest.raises(DeliveryError, match=status.name):
            store.move([1], status, happening)
        assert sql(store.path, "SELECT status, retry_count FROM buffer_events") == [(int(status), 0)]
        assert store.counts["status", "PENDING"] == 1


def test_what_removes_an_entry_is_no_move(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, events(1))
        with store.transaction(), pytest.raises(StoreError, match="evict"):
            store.move([1], Status.SYNCED, DeliveryEvent.EVICT)


def test_an_entry_in_another_status_stays_where_it_is(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, events(3))
        with store.transaction():
            store.claim(1)
            assert store.move([1, 2, 3, 99], Status.SYNCING, DeliveryEvent.PUBACK) == 1
        assert +store.counts == Counter(
            {("status", "SYNCED"): 1, ("status", "PENDING"): 2}
            | {("appended", "raw"): 3, ("outcome", "buffered"): 3}
        )


# --- eviction ---


def test_eviction_spares_what_is_young_unsynced_or_outside_of_the_range(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, events(6))
        with store.transaction():
            store.move(store.claim(5), Status.SYNCING, DeliveryEvent.PUBACK)  # 6 stays pending
            assert store.removals.evict_synced(2, 6, EPOCH_MS + 4) == 3  # 5 arrived at EPOCH_MS + 4
    assert [row[0] for row in sql(tmp_path / "events.db", "SELECT id FROM buffer_events")] == [1, 5, 6]


# --- files ---


def test_a_buffer_of_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path):
        pass
    sql(path, "UPDATE meta SET value = '999' WHERE name = 'schema_version'")
    sql(path, "DROP INDEX buffer_events_derived")
    before = sql(path, "SELECT name, sql FROM sqlite_schema ORDER BY name")
    notes = sql(path, "SELECT name, value FROM meta ORDER BY name")
    with pytest.raises(StoreError, match="999") as refusal, opened(path):
        pass
    assert "newer" in refusal.value.hint
    assert sql(path, "SELECT name, sql FROM sqlite_schema ORDER BY name") == before
    assert sql(path, "SELECT name, value FROM meta ORDER BY name") == notes
    assert not path.with_name("events.db-wal").exists(), "it is still open"


def test_a_new_file_gives_space_back_and_syncs_every_commit(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        names = ("auto_vacuum", "journal_mode", "synchronous")
        assert [store._database.pragma(name) for name in names] == [2, "wal", 2]


def test_two_stores_in_one_process_do_not_write_into_each_other(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as first, opened(tmp_path / "b.db") as second:
        for store, batch in ((first, events(2, "t/first")), (second, events(3, "t/second"))):
            append(store, batch)
            with store.transaction():
                store.checkpoint([("w", b"k", b"1")])
                store.receipts.seen(1, False, "t", b"1")
        append(first, events(1, "t/first"))
        with first.transaction():
            first.forget_receipts()
            first.reload()
        assert second.counts["status", "PENDING"] == 3
    for name, topic, rows, receipts in (("a.db", "t/first", 3, 0), ("b.db", "t/second", 3, 1)):
        path = tmp_path / name
        with reading(path) as reader:
            assert audit(reader).problems == ()
        assert sql(path, "SELECT name FROM streams") == [(topic,)]
        assert sql(path, "SELECT count(*) FROM buffer_events") == [(rows,)]
        assert sql(path, "SELECT count(*) FROM receipts") == [(receipts,)]


def test_ids_are_never_given_twice(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        append(store, events(3))
    sql(path, "DELETE FROM buffer_events")
    with opened(path) as store:
        append(store, events(1))
        assert store.last_id() == 4


# --- dictionaries ---


def test_payloads_read_back_whatever_dictionary_was_there_when_they_came(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    assert DICTIONARY is not None
    other = train([b"<xml><reading id='%d'>%d</reading></xml>" % (n, n * 7) for n in range(1000)])
    assert other is not None
    sent = [SAMPLE % (n, n) for n in range(6)]
    with opened(path) as store:
        append(store, [event(payload=sent[0]), event(payload=sent[1])])
        with store.transaction():
            store.dictionaries.install("f", DICTIONARY, 0)
        append(store, [event(payload=sent[2])])
    with opened(path) as store:
        append(store, [event(payload=sent[3])])
        with store.transaction():
            store.dictionaries.install("f", other, 0)
            store.append([event(payload=sent[4])])
    with opened(path) as store:
        append(store, [event(payload=sent[5], family="another")])
    assert all_payloads(path) == sent
    codecs = [row[0] for row in sql(path, "SELECT codec FROM buffer_events")]
    assert codecs[2] == codecs[3] != codecs[4]
    assert codecs[0] == codecs[5] == 0


def test_a_dictionary_that_was_rolled_back_is_never_used(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    assert DICTIONARY is not None
    with opened(path) as store:
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.dictionaries.install("f", DICTIONARY, 0)
            raise ZeroDivisionError
        with store.transaction():
            store.reload()
        append(store, [event(payload=SAMPLE % (1, 1))])
        other = train([b"<xml><reading id='%d'>%d</reading></xml>" % (n, n * 7) for n in range(1000)])
        assert other is not None
        with store.transaction():
            store.dictionaries.install("g", other, 0)  # may well get the number of the one that never was
        append(store, [event(payload=SAMPLE % (2, 2)), event(payload=b"<xml>" * 9, family="g")])
    assert all_payloads(path) == [SAMPLE % (1, 1), SAMPLE % (2, 2), b"<xml>" * 9]
    assert sql(path, "SELECT codec FROM buffer_events WHERE id < 3") == [(0,), (0,)]


def test_a_damaged_dictionary_is_not_used_again(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    assert DICTIONARY is not None
    with opened(path) as store:
        with store.transaction():
            store.dictionaries.install("f", DICTIONARY, 0)
        append(store, [event(payload=SAMPLE % (1, 1))])
    sql(path, "UPDATE dictionaries SET content = CAST(? AS BLOB)", DICTIONARY[:-1] + b"!")
    with opened(path) as store:
        append(store, [event(payload=SAMPLE % (2, 2))])
    with reading(path) as reader:
        good, corrupt = reader.without_corrupt(reader.by_ids([1, 2]))
        assert corrupt == [1], "what it had compressed is lost, and said to be"
        assert reader.payloads(good) == [SAMPLE % (2, 2)]
