"""What an operator changes by hand: retry, drop, compact, restore; and that nothing goes away unannounced."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gateway.buffer.alerts import append_alert
from gateway.buffer.event_filter import EventFilter
from gateway.buffer.operator_actions import OperatorActions
from gateway.buffer.proof.balance import audit
from gateway.buffer.repair.backup import back_up
from gateway.buffer.repair.recovery import recover
from gateway.buffer.repair.restore import restore
from gateway.buffer.store import Store
from gateway.core.errors import DeliveryError, StoreError
from gateway.core.events import Kind, Status
from gateway.delivery.states import Backoff, DeliveryEvent
from tests.support.buffers import EPOCH_MS, append, event, events, opened, reading, sql

T = TypeVar("T")
ALERTS = "gateway/g1/alerts"


def by_hand(store: Store) -> OperatorActions:
    def run(change: Callable[[Store], T], /) -> T:
        with store.transaction():
            return change(store)

    def alert(store: Store, name: str, message: str, details: Mapping[str, Any], /) -> None:
        append_alert(store, ALERTS, EPOCH_MS, name, message, details)

    return OperatorActions(run, lambda change: change(store), alert)


def silent(done: int, total: int) -> None:
    """A progress that nobody watches."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """30 events of three streams: ids 1–9 are FAILED, 10 is CORRUPT, 11–20 SYNCED; checkpointed."""
    with opened(tmp_path / "events.db") as store:
        append(store, [event(f"site/{'abc'[n % 3]}", b"%d" % n, at=n) for n in range(30)])
        with store.transaction():
            store.move(store.claim(9), Status.SYNCING, DeliveryEvent.EXHAUSTED)
            store.move([10], Status.PENDING, DeliveryEvent.MISMATCH)
            store.move(store.claim(10), Status.SYNCING, DeliveryEvent.PUBACK)
            store.checkpoint([])
        yield store


def ids(store: Store, status: Status) -> list[object]:
    found = sql(store.path, "SELECT id FROM buffer_events WHERE status = ? AND kind = 0 ORDER BY id", status)
    return [row[0] for row in found]


def alerts(store: Store) -> list[dict[str, Any]]:
    with reading(store.path) as reader:
        found = reader.derived_after(0, 1000)
        return [json.loads(payload) for payload in reader.payloads(found)]


def balances(store: Store) -> None:
    with reading(store.path) as reader:
        assert audit(reader).problems == ()


def event_id(store: Store, id_: int) -> uuid.UUID:
    ((found,),) = sql(store.path, "SELECT event_id FROM buffer_events WHERE id = ?", id_)
    assert isinstance(found, bytes)
    return uuid.UUID(bytes=found)


@pytest.mark.parametrize(
    "choice, expected",
    [
        (EventFilter(), [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (EventFilter(stream="site/a"), [1, 4, 7]),
        (EventFilter(stream="site/+"), [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (EventFilter(stream="other/#"), []),
        (EventFilter(from_ms=EPOCH_MS + 2, before_ms=EPOCH_MS + 5), [3, 4, 5]),
        (EventFilter(kind=Kind.AGGREGATE), []),
        (EventFilter(stream="#", before_ms=EPOCH_MS + 2), [1, 2]),
    ],
    ids=str,
)
def test_what_is_chosen_and_failed_is_pending_again(
    store: Store, choice: EventFilter, expected: list[int]
) -> None:
    assert by_hand(store).retry(choice, silent)["retried"] == len(expected)
    assert ids(store, Status.PENDING) == [*expected, *range(21, 31)]
    balances(store)


def test_many_events_can_be_chosen_by_their_ids(store: Store) -> None:
    chosen = EventFilter(event_ids=(event_id(store, 2), event_id(store, 7), event_id(store, 25)))
    assert by_hand(store).retry(chosen, silent)["retried"] == 2
    assert {2, 7} <= {*ids(store, Status.PENDING)}


def test_a_retry_starts_the_attempts_anew_and_lets_no_stream_wait(store: Store) -> None:
    sql(store.path, "UPDATE buffer_events SET retry_count = 19 WHERE status = 3")
    with store.transaction():
        store.refuse(store.claim(2), "no reason", Backoff(), 0, 0.5)
        assert store.claim(1, now_ms=1) == [23]  # of the third stream
    done = by_hand(store).retry(EventFilter(), silent)
    assert done == {"retried": 9, "released": 2}
    assert sql(store.path, "SELECT DISTINCT retry_count FROM buffer_events WHERE id < 10") == [(0,)]
    with store.transaction():
        assert store.claim(3, now_ms=1) == [1, 2, 3]


def test_a_drop_takes_what_was_given_up_and_nothing_else(store: Store) -> None:
    assert by_hand(store).drop(EventFilter(), silent) == {"dropped": 10}
    assert ids(store, Status.FAILED) == ids(store, Status.CORRUPT) == []
    assert len(ids(store, Status.SYNCED)) == len(ids(store, Status.PENDING)) == 10
    assert store.counts["evicted", "dropped"] == 10
    balances(store)


def test_what_waits_is_dropped_only_when_that_is_said(store: Store) -> None:
    assert by_hand(store).drop(EventFilter(status=Status.PENDING, stream="site/b"), silent) == {"dropped": 3}
    assert ids(store, Status.PENDING) == [21, 22, 24, 25, 27, 28, 30]
    assert len(ids(store, Status.FAILED)) == 9
    balances(store)


@pytest.mark.parametrize("status", [Status.SYNCING, Status.SYNCED])
def test_what_is_on_its_way_or_has_arrived_cannot_be_dropped(store: Store, status: Status) -> None:
    with pytest.raises(DeliveryError, match="cannot drop"):
        by_hand(store).drop(EventFilter(status=status), silent)


def test_a_drop_is_announced_with_streams_and_ranges_in_its_own_transaction(store: Store) -> None:
    by_hand(store).drop(EventFilter(status=Status.FAILED), silent)
    (alert,) = alerts(store)
    assert (alert["alert"], alert["reason"], alert["events"]) == ("dropped", "dropped", 9)
    assert {tuple(stream.values()) for stream in alert["streams"]} == {
        (f"site/{name}", 3, 1, 3) for name in "abc"
    }
    losses = sql(store.path, "SELECT reason, events, first_sequence, last_sequence FROM losses")
    assert losses == [("dropped", 3, 1, 3)] * 3


def test_an_alert_names_a_bounded_number_of_streams(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, [event(f"t/{n}") for n in range(100)])
        with store.transaction():
            store.move(store.claim(100), Status.SYNCING, DeliveryEvent.EXHAUSTED)
            store.checkpoint([])
        by_hand(store).drop(EventFilter(), silent)
        (alert,) = alerts(store)
        assert (alert["events"], len(alert["streams"]), alert["more_streams"]) == (100, 20, 80)


def test_nothing_behind_the_checkpoint_is_dropped(store: Store) -> None:
    append(store, events(2, "site/a"))
    with store.transaction():
        store.move([31, 32], Status.PENDING, DeliveryEvent.MISMATCH)
    assert by_hand(store).drop(EventFilter(status=Status.CORRUPT), silent) == {"dropped": 1}
    assert ids(store, Status.CORRUPT) == [31, 32]


def test_a_large_buffer_is_changed_in_steps_and_what_is_done_stays_done(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, events(25_000))
        with store.transaction():
            store.move(store.claim(25_000), Status.SYNCING, DeliveryEvent.EXHAUSTED)
            store.checkpoint([])
        seen: list[tuple[int, int]] = []

        def give_up(done: int, total: int) -> None:
            seen.append((done, total))
            if len(seen) == 2:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            by_hand(store).drop(EventFilter(), give_up)
        assert seen == [(10_000, 25_000), (20_000, 25_000)]
        assert store.counts["status", "FAILED"] == 5_000
        assert sum(alert["events"] for alert in alerts(store)) == 20_000
        balances(store)
        assert by_hand(store).drop(EventFilter(), silent) == {"dropped": 5_000}


def test_compacting_gives_everything_back_that_is_free(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, [event(payload=random.Random(n).randbytes(1000)) for n in range(8_000)])
        with store.transaction():
            store.move(store.claim(8_000), Status.SYNCING, DeliveryEvent.PUBACK)
            store.checkpoint([])
            store.removals.evict_synced(0, 8_000, EPOCH_MS + 10**6)
        seen: list[tuple[int, int]] = []
        done = by_hand(store).compact(lambda *at: seen.append(at))
        assert done["after_bytes"] < done["before_bytes"] / 5
        assert store.path.stat().st_size == done["after_bytes"]
        assert store.path.with_name("events.db-wal").stat().st_size == 0
        assert len(seen) >= 2
        assert seen[-1][0] == seen[-1][1]


def test_compacting_beside_a_reader_does_what_it_can_and_says_so(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, events(1000))
        with reading(store.path) as reader, reader.snapshot():
            reader.counters()
            append(store, events(10))
            assert by_hand(store).compact(silent)["log_emptied"] == 0
        assert by_hand(store).compact(silent)["log_emptied"] == 1


# --- choices as they travel ---


def test_a_choice_comes_back_from_json_as_it_was() -> None:
    chosen = EventFilter(Status.FAILED, "a/#", Kind.RAW, 1, 2, (uuid.uuid4(), uuid.uuid4()))
    assert EventFilter.from_json(json.loads(json.dumps(chosen.as_json()))) == chosen
    assert EventFilter.from_json({}) == EventFilter()


@pytest.mark.parametrize(
    "found",
    [
        {"status": "LOST"},
        {"status": 3},
        {"kind": "x"},
        {"streams": "t"},
        {"stream": 5},
        {"from_ms": "1"},
        {"event_ids": ["x"]},
        {"event_ids": 5},
    ],
    ids=str,
)
def test_a_choice_that_cannot_be_read_is_refused(found: dict[str, Any]) -> None:
    """What is not understood must never become a wider choice."""
    with pytest.raises(StoreError, match="cannot be read"):
        EventFilter.from_json(found)


# --- restore ---


def test_a_restore_puts_the_backup_in_place_and_numbers_go_on(store: Store, tmp_path: Path) -> None:
    backup = back_up(store.path)
    append(store, [*events(5, "site/a"), *events(2, "site/new")])
    store.close()
    done = restore(
        store.path, backup, EPOCH_MS, lambda new, text: append_alert(new, ALERTS, EPOCH_MS, "restored", text)
    )
    assert (done.events, done.pending, done.numbers_known) == (30, 10, True)
    assert done.kept_aside is not None
    assert sql(done.kept_aside / "events.db", "SELECT count(*) FROM buffer_events") == [(37,)]
    with opened(store.path) as new:
        append(new, [event("site/a"), event("site/new")])
        newest = "SELECT name, id, sequence_num FROM (SELECT name, b.id, sequence_num FROM buffer_events AS b"
        found = sql(
            new.path,
            newest + " JOIN streams ON stream = streams.id ORDER BY b.id DESC LIMIT 3) ORDER BY id",
        )
        assert found == [(ALERTS, 38, 1), ("site/a", 39, 16), ("site/new", 40, 3)]
        balances(new)
        assert "restored" in alerts(new)[0]["message"]
        runs = "SELECT name, first_sequence, loss_runs.last_sequence, reason FROM loss_runs"
        assert sql(new.path, f"{runs} JOIN streams ON stream = id") == [
            ("site/a", 11, 15, "restored"),
            ("site/new", 1, 2, "restored"),
        ]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["events.db", "events.db.backup"]


def test_a_backup_that_is_damaged_is_refused_and_nothing_is_changed(store: Store) -> None:
    backup = back_up(store.path)
    content = bytearray(backup.read_bytes())
    content[4096:8192] = bytes(4096)
    backup.write_bytes(content)
    store.close()
    before = store.path.read_bytes()
    with pytest.raises(StoreError, match=r"is not whole|cannot be used"):
        restore(store.path, backup, EPOCH_MS)
    assert store.path.read_bytes() == before
    assert [p for p in store.path.parent.iterdir() if p.is_dir() or "restoring" in p.name] == []


def test_a_restore_in_the_place_of_a_damaged_buffer_keeps_its_files_aside(store: Store) -> None:
    backup = back_up(store.path)
    store.close()
    store.path.write_bytes(b"no database at all" * 1000)
    store.path.with_name("events.db-wal").write_bytes(b"nor a log")
    done = restore(store.path, backup, EPOCH_MS)
    assert not done.numbers_known
    assert done.kept_aside is not None
    assert {p.name for p in done.kept_aside.iterdir()} >= {"events.db", "events.db-wal"}
    with opened(store.path) as new:
        assert new.counts["status", "PENDING"] == 10
        balances(new)


@pytest.mark.parametrize("which", ["nothing", "the buffer itself", "no buffer"])
def test_what_is_no_backup_is_refused(store: Store, tmp_path: Path, which: str) -> None:
    (tmp_path / "no.db").write_bytes(b"x" * 10_000)
    backup = {"nothing": tmp_path / "x", "the buffer itself": store.path, "no buffer": tmp_path / "no.db"}[
        which
    ]
    with pytest.raises(StoreError):
        restore(store.path, backup, EPOCH_MS)
    balances(store)


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from gateway.buffer.repair.restore import restore

countdown = int(sys.argv[3])
CHANGES = {"os.rename", "os.remove", "os.link", "os.mkdir", "shutil.copyfile"}

def look(name, arguments):
    global countdown
    if name in CHANGES:
        countdown -= 1
        if countdown == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(look)
restore(Path(sys.argv[1]), Path(sys.argv[2]), 0)
"""


def test_a_restore_that_is_killed_leaves_the_old_buffer_or_the_new_one(store: Store, tmp_path: Path) -> None:
    """Before each change of the folder in turn, with commits that are only in the old one's log."""
    backup = back_up(store.path, tmp_path / "kept")
    append(store, events(5, "site/a"))
    folder, outcomes = tmp_path / "data", []
    for change in range(1, 50):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{store.path}{suffix}", f"{folder / 'events.db'}{suffix}")
        command = [sys.executable, "-c", KILLED_AT, str(folder / "events.db"), str(backup), str(change)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert recover(folder / "events.db", 0).kind == "whole"
        with opened(folder / "events.db") as found:
            outcomes.append(sum(found.counts["status", status.name] for status in Status))
            balances(found)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert outcomes == [35] * (len(outcomes) - 1) + [30]
    assert len(outcomes) > 4, "it was not killed anywhere"
