"""What the audit finds in a buffer that somebody has changed behind its back."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.buffer.proof.balance import Audit, audit
from gateway.core.events import Kind, Status
from gateway.delivery.states import DeliveryEvent
from tests.support.buffers import EPOCH_MS, append, event, events, opened, reading, sql


def audited(path: Path) -> Audit:
    with reading(path) as reader:
        return audit(reader)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A buffer with a bit of everything: 20 raw events and 2 aggregates; 4 evicted, 3 synced, 1 syncing."""
    path = tmp_path / "events.db"
    with opened(path) as store:
        append(store, [*events(10), *events(10, "t/b"), event("agg", kind=Kind.AGGREGATE)])
        with store.transaction():
            store.move(store.claim(7), Status.SYNCING, DeliveryEvent.PUBACK)
            store.claim(1)
            store.checkpoint([])
            store.removals.evict_synced(1, 4, EPOCH_MS + 100)
        append(store, [event("agg", kind=Kind.AGGREGATE)])  # after the checkpoint
    return path


def test_a_sound_buffer_balances(path: Path) -> None:
    found = audited(path)
    assert found.problems == ()
    assert found.messages == {"buffered": 20}
    assert found.appended == {"raw": 20, "aggregate": 2}
    assert found.statuses == {"pending": 14, "syncing": 1, "synced": 3, "failed": 0, "corrupt": 0, "kept": 0}
    assert found.evicted == {"synced": 4}
    assert found.streams == 3


def test_an_empty_buffer_balances(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db"):
        pass
    assert audited(tmp_path / "events.db").problems == ()


@pytest.mark.parametrize("which", ["= 5", "= 10", "= 15", "= 22"])
def test_a_row_that_was_deleted_is_missed(path: Path, which: str) -> None:
    sql(path, f"DELETE FROM buffer_events WHERE id {which}")  # noqa: S608 - from here
    problems = " ".join(audited(path).problems)
    assert "22 events were appended, but 17 are here and 4 evicted" in problems
    assert "the counter says" in problems


@pytest.mark.parametrize(
    "label, id_", [("SYNCED", 5), ("PENDING", 10), ("PENDING", 20), ("PENDING", 15)], ids=str
)
def test_a_row_is_missed_even_if_its_counters_were_forged(path: Path, label: str, id_: int) -> None:
    """The first, the last and any other number of a stream."""
    sql(path, "DELETE FROM buffer_events WHERE id = ?", id_)
    sql(path, "UPDATE counters SET value = value - 1 WHERE label IN (?, 'raw', 'buffered')", label)
    problems = audited(path).problems
    assert "22 sequence numbers were given to 21 events" in problems
    assert "5 sequence numbers are missing, but 4 events were evicted" in problems


@pytest.mark.parametrize(
    "name, label", [("outcome", "buffered"), ("appended", "raw"), ("status", "SYNCED"), ("evicted", "synced")]
)
def test_a_wrong_counter_is_found(path: Path, name: str, label: str) -> None:
    sql(path, "UPDATE counters SET value = value + 1 WHERE name = ? AND label = ?", name, label)
    assert audited(path).problems


def test_a_status_that_was_changed_is_found(path: Path) -> None:
    sql(path, "UPDATE buffer_events SET status = 2 WHERE id = 15")
    assert audited(path).problems == (
        "13 rows are pending, the counter says 14",
        "4 rows are synced, the counter says 3",
    )


def test_a_status_that_does_not_exist_is_found(path: Path) -> None:
    sql(path, "UPDATE buffer_events SET status = 77 WHERE id = 15")
    assert "1 rows have the status 77, which does not exist" in audited(path).problems


def test_a_sequence_number_that_was_changed_is_found(path: Path) -> None:
    sql(path, "UPDATE buffer_events SET sequence_num = 9 WHERE id = 10")  # the newest of its stream
    problems = audited(path).problems
    assert "5 sequence numbers are missing, but 4 events were evicted" in problems
    assert "1 events have a sequence number that another one has" in problems


def test_a_running_writer_does_not_disturb_the_sums(path: Path) -> None:
    with opened(path) as store, store.transaction():
        store.append(events(5))
        store.count("appended", "raw", 5)
        assert audited(path).problems == ()


def test_release_after_a_restart_balances(path: Path) -> None:
    with opened(path) as store, store.transaction():
        assert store.release_all() == 1
    found = audited(path)
    assert found.problems == ()
    assert found.statuses["syncing"] == 0


def test_a_corrupt_event_leaves_room_for_its_number_and_no_more(path: Path) -> None:
    with opened(path) as store, store.transaction():
        store.move([15], Status.PENDING, DeliveryEvent.MISMATCH)
    sql(path, "UPDATE buffer_events SET sequence_num = 1 << 40 WHERE id = 15")  # damaged, and known to be
    assert audited(path).problems == ()
    sql(path, "DELETE FROM buffer_events WHERE id IN (16, 17)")
    sql(path, "UPDATE counters SET value = value - 2 WHERE label IN ('PENDING', 'raw', 'buffered')")
    assert audited(path).problems
