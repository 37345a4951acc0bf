"""Group commit: what waits is one transaction, a fault stays with its command, a full disk loses nothing."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from peewee import IntegrityError

from gateway.buffer.store import NewEvent, Store
from gateway.buffer.writer import Command, Do, Recurring, Writer, is_storage_fault
from gateway.core.errors import StoreError
from gateway.core.events import Status
from tests.support.buffers import event, events, opened, reading, sql
from tests.support.disks import fill, mounted

PATIENCE_S = 60.0


class Append(Command):
    """Appends events, and notes what it is told and what stands on the disk at that moment."""

    def __init__(self, *batch: NewEvent) -> None:
        self.batch = batch
        self.weight = len(batch)
        self.size_bytes = sum(len(one.payload) for one in batch)
        self.applied = 0
        self.rows_when_committed: list[int] = []
        self.errors: list[Exception] = []
        self.path = Path()
        self.done = threading.Event()

    def apply(self, store: Store) -> None:
        self.applied += 1
        self.path = store.path
        store.append(self.batch)

    def committed(self) -> None:
        with reading(self.path) as reader:  # another connection: it sees what is committed
            self.rows_when_committed.append(sum(reader.count_by_status().values()))
        self.done.set()

    def failed(self, error: Exception) -> None:
        self.errors.append(error)
        self.done.set()

    def wait(self) -> None:
        assert self.done.wait(PATIENCE_S)


class Broken(Append):
    """Appends, and then has a defect."""

    def __init__(self, error: Exception) -> None:
        super().__init__(*events(3, "t/broken"))
        self.error = error

    def apply(self, store: Store) -> None:
        super().apply(store)
        raise self.error


@contextmanager
def written(path: Path, *queued: Command, tick: Recurring | None = None, **options: Any) -> Iterator[Writer]:
    """A running writer whose first group is `queued`."""
    with opened(path) as store:
        writer = Writer(store, **options)
        for command in queued:
            writer.submit(command)
        writer.start(tick)
        try:
            yield writer
        finally:
            assert writer.stop()


def wait_until(true: Callable[..., object]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def topics(path: Path) -> list[object]:
    names = sql(
        path, "SELECT name FROM buffer_events JOIN streams ON stream = streams.id ORDER BY buffer_events.id"
    )
    return [name for (name,) in names]


# --- groups ---


def test_the_commands_that_wait_are_one_transaction(tmp_path: Path) -> None:
    commands = [Append(*events(2, f"t/{number}")) for number in range(10)]
    with written(tmp_path / "events.db", *commands) as writer:
        for command in commands:
            command.wait()
        assert (writer.metrics.groups, writer.metrics.grouped_events) == (1, 20)
        assert writer.pending_events == 20
    assert [command.rows_when_committed for command in commands] == [[20]] * 10, "all saw the same commit"
    assert topics(tmp_path / "events.db") == [f"t/{number}" for number in range(10) for _ in range(2)]


def test_a_group_ends_where_it_is_full(tmp_path: Path) -> None:
    commands = [Append(*events(weight)) for weight in (3, 3, 3, 20, 1)]
    with written(tmp_path / "events.db", *commands, group_limit=7) as writer:
        commands[-1].wait()
        assert writer.metrics.groups == 4
    assert [command.rows_when_committed for command in commands] == [[6], [6], [9], [29], [30]]


def test_a_group_may_be_larger_while_commits_are_slow(tmp_path: Path) -> None:
    first, *rest = (Append(*events(10)) for _ in range(7))
    with opened(tmp_path / "events.db") as store:
        writer = Writer(store, group_limit=20)
        writer.metrics.stretch = 3.0
        for command in (first, *rest):
            writer.submit(command)
        writer.start()
        assert writer.stop()
    assert first.rows_when_committed == [60]
    assert writer.metrics.stretch < 3.0, "they are not slow any more"


def test_a_group_ends_where_its_time_is_up(tmp_path: Path) -> None:
    commands = [Append(*events(1)) for _ in range(3)]
    with written(tmp_path / "events.db", *commands, group_time_s=-1.0) as writer:
        commands[-1].wait()
        assert writer.metrics.groups == 3
    assert [command.rows_when_committed for command in commands] == [[1], [2], [3]]


def test_the_sources_are_told_when_too_much_waits(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        writer = Writer(store, backlog_limit=5, backlog_limit_bytes=1000)
        assert writer.has_room
        writer.submit(Append(*events(4)))
        assert (writer.has_room, writer.backlog) == (True, 4)
        writer.submit(Append(*events(1)))
        assert (writer.has_room, writer.backlog) == (False, 5)
        writer.start()
        writer.call(Store.last_id)
        assert (writer.has_room, writer.backlog) == (True, 0)
        assert writer.stop()
        writer.submit(Append(event(payload=b"x" * 1000)))
        assert not writer.has_room, "few events, but too many bytes"


# --- faults of commands ---


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a defect"), IntegrityError("NOT NULL"), apsw.ConstraintError("UNIQUE")]
)
def test_a_command_with_a_defect_fails_alone(tmp_path: Path, error: Exception) -> None:
    before, broken, behind = Append(*events(2)), Broken(error), Append(*events(2))
    restored: list[int] = []
    with written(
        tmp_path / "events.db", before, broken, behind, on_rollback=lambda: restored.append(1)
    ) as writer:
        behind.wait()
        assert writer.metrics.storage_error == ""
    assert broken.errors == [error]
    assert broken.rows_when_committed == []
    assert (before.errors, behind.errors) == ([], [])
    assert (before.rows_when_committed, behind.rows_when_committed) == ([2], [4])
    assert topics(tmp_path / "events.db") == ["t/a"] * 4
    numbers = sql(tmp_path / "events.db", "SELECT sequence_num FROM buffer_events ORDER BY id")
    assert numbers == [(1,), (2,), (3,), (4,)], "nothing of the rolled back groups is left in memory"
    assert restored, "windows were told"


def test_windows_are_restored_before_anything_else_is_applied(tmp_path: Path) -> None:
    order: list[str] = []

    def note(word: str) -> Do:
        return Do(lambda store: order.append(f"{word} {store.counts['status', 'PENDING']}"))

    with written(
        tmp_path / "events.db",
        Append(*events(2)),
        Broken(ZeroDivisionError()),
        note("next"),
        on_rollback=lambda: order.append("restored"),
    ) as writer:
        writer.call(Store.last_id)
    assert order == ["restored", "restored", "next 2"]


def test_a_callback_that_raises_does_not_keep_the_others_from_their_commit(tmp_path: Path) -> None:
    class Careless(Append):
        def committed(self) -> None:
            raise ZeroDivisionError

        def failed(self, error: Exception) -> None:
            raise ZeroDivisionError

    class CarelessAndBroken(Careless, Broken):
        pass

    behind, last = Append(*events(1)), Append(*events(1))
    with written(
        tmp_path / "events.db", Careless(*events(1)), behind, CarelessAndBroken(ValueError()), last
    ) as writer:
        last.wait()
        assert writer.alive
        assert writer.call(Store.last_id) == 3
    assert behind.rows_when_committed == [2]


def test_no_command_is_at_fault_when_the_windows_cannot_be_restored(tmp_path: Path) -> None:
    """Or else every message would be rejected, and acknowledged, while none is stored."""
    tries: list[int] = []

    def restore() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("the windows cannot be read")

    broken, behind = Broken(ZeroDivisionError()), Append(*events(2))
    with written(tmp_path / "events.db", broken, behind, on_rollback=restore):
        behind.wait()
    assert len(broken.errors) == 1
    assert isinstance(broken.errors[0], ZeroDivisionError)
    assert (behind.errors, behind.rows_when_committed) == ([], [2])


# --- calls ---


def test_a_call_gives_what_the_function_returns_or_raises(tmp_path: Path) -> None:
    with written(tmp_path / "events.db", Append(*events(2))) as writer:
        assert writer.call(Store.last_id) == 2
        with pytest.raises(ZeroDivisionError):
            writer.call(lambda store: store.last_id() / 0)


def test_a_call_gives_up_when_the_buffer_does_not_answer(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        writer = Writer(store)  # not started
        with pytest.raises(StoreError, match="did not answer"):
            writer.call(Store.last_id, timeout_s=0.01)


# --- ticks and the end ---


class Ticking(Recurring):
    def __init__(self) -> None:
        self.ticks = threading.Semaphore(0)
        self.ids: list[int] = []

    def apply(self, store: Store) -> None:
        self.ids.append(store.last_id())

    def committed(self) -> None:
        self.ticks.release()


def test_the_tick_comes_without_commands_and_a_last_time_at_the_end(tmp_path: Path) -> None:
    tick = Ticking()
    with written(tmp_path / "events.db", tick=tick) as writer:
        for _ in range(2):
            assert tick.ticks.acquire(timeout=PATIENCE_S)
        writer.submit(Append(*events(3)))
    assert tick.ids[0] == 0
    assert tick.ids[-1] == 3


def test_stop_commits_what_is_queued(tmp_path: Path) -> None:
    commands = [Append(*events(100)) for _ in range(30)]
    with opened(tmp_path / "events.db") as store:
        writer = Writer(store, group_limit=500)
        writer.start()
        for command in commands:
            writer.submit(command)
        assert writer.stop()
        assert not writer.alive
        assert store.last_id() == 3000
    assert all(len(command.rows_when_committed) == 1 for command in commands)


# --- the disk ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    with mounted(tmp_path / "disk", "3m") as folder:
        yield folder


def large(number: int) -> Append:
    return Append(event(f"t/{number}", os.urandom(300_000)))


def test_on_a_full_disk_a_command_waits_and_commits_once_there_is_space(small_disk: Path) -> None:
    commands = [large(number) for number in range(2)]
    restored: list[int] = []
    with written(small_disk / "events.db", on_rollback=lambda: restored.append(1)) as writer:
        writer.call(lambda store: store.append(events(1)))
        filler = fill(small_disk)
        for command in commands:
            writer.submit(command)
        wait_until(lambda: writer.metrics.failures >= 2)
        assert "full" in writer.metrics.storage_error
        assert [(c.rows_when_committed, c.errors) for c in commands] == [([], [])] * 2
        with reading(small_disk / "events.db") as reader:
            assert reader.count_by_status() == {int(Status.PENDING): 1}, "what is stored can still be read"
        filler.unlink()
        for command in commands:
            command.wait()
        assert writer.metrics.storage_error == ""
        assert restored
        assert writer.call(Store.last_id) == 3
    assert [c.rows_when_committed for c in commands] == [[2], [3]], "once, and after its commit"
    assert all(command.applied >= 2 for command in commands)
    assert sql(small_disk / "events.db", "SELECT sequence_num FROM buffer_events") == [(1,), (1,), (1,)]


def test_a_writer_that_stops_on_a_full_disk_says_that_nothing_was_stored(small_disk: Path) -> None:
    with opened(small_disk / "events.db") as store:
        writer = Writer(store)
        writer.start()
        filler = fill(small_disk)
        command = large(0)
        writer.submit(command)
        wait_until(lambda: writer.metrics.failures)
        assert writer.stop()
        assert command.rows_when_committed == []
        assert len(command.errors) == 1
        assert is_storage_fault(command.errors[0])
        filler.unlink()
    assert sql(small_disk / "events.db", "SELECT * FROM buffer_events") == []


def test_filling_and_draining_a_disk_again_and_again_loses_nothing(small_disk: Path) -> None:
    path = small_disk / "events.db"
    with written(path) as writer:
        for number in range(5):
            filler = fill(small_disk)
            command = large(number)
            failures = writer.metrics.failures
            writer.submit(command)
            wait_until(lambda seen=failures: writer.metrics.failures > seen)
            filler.unlink()
            command.wait()
            assert len(command.rows_when_committed) == 1
            writer.call(lambda store: store._database.execute_sql("DELETE FROM buffer_events"))
            writer.call(lambda store: store._database.execute_sql("PRAGMA incremental_vacuum").fetchall())
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


def test_before_the_first_commit_its_age_counts_from_the_start(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        writer = Writer(store)
        began_s = time.monotonic()
        writer.start()
        since_s = writer.metrics.last_commit_at_s
        assert writer.stop()
    assert since_s >= began_s, "else /readyz counts from the boot of the machine"
