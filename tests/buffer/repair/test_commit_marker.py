"""A write-ahead log that is gone, or ends early, is missed; and nothing else is taken for that."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.buffer.alerts import append_alert
from gateway.buffer.proof.balance import audit
from gateway.buffer.repair.backup import back_up
from gateway.buffer.repair.commit_marker import CommitMarker
from gateway.buffer.repair.recovery import recover
from gateway.buffer.repair.restore import restore
from gateway.buffer.startup_command import StartupCommand
from gateway.buffer.store import NewEvent, Store
from gateway.buffer.writer import Do, Writer
from tests.support.buffers import EPOCH_MS, event, events, opened, reading, sql

FOREVER_PAGES = 1_000_000
FRAME_BYTES = 24 + 4096


def alert(store: Store, name: str, message: str) -> None:
    append_alert(store, "alerts", EPOCH_MS, name, message)


def take_in(batch: list[NewEvent]) -> Do:
    def change(store: Store) -> None:
        store.append(batch)
        store.count("appended", "raw", len(batch))
        store.count("outcome", "buffered", len(batch))

    return Do(change)


def work(path: Path, *batches: list[NewEvent], then: Callable[[], None] = lambda: None) -> str:
    """Start on the buffer, commit each batch, do something while it runs, and stop; what it says is lost."""
    recovery = recover(path, EPOCH_MS)
    store = Store(path, wal_pages=FOREVER_PAGES)
    store.open()
    mark = CommitMarker(path)
    opening = StartupCommand(recovery, alert, mark.read())
    writer = Writer(store, mark=mark)
    writer.submit(opening)
    writer.start()
    for batch in batches:
        writer.submit(take_in(batch))
        writer.call(lambda _: None)
    then()
    assert writer.stop()
    store.close()
    return opening.lost


def killed(path: Path, *batches: list[NewEvent]) -> Path:
    """A copy of the buffer as a `kill -9` leaves it, after these commits; its log holds all of them."""
    left = path.parent / "left"

    def copy() -> None:
        shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(path.parent, left, ignore=shutil.ignore_patterns("left", "*-shm"))

    work(path, *batches, then=copy)
    return left / path.name


def numbers(path: Path, topic: str) -> list[object]:
    found = sql(
        path,
        "SELECT sequence_num FROM buffer_events JOIN streams ON streams.id = stream"
        " WHERE name = ? ORDER BY 1",
        topic,
    )
    return [number for (number,) in found]


def assert_balanced(path: Path) -> None:
    with reading(path) as reader:
        assert audit(reader).problems == ()


def test_a_deleted_log_is_announced_and_no_number_is_given_twice(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    assert work(path, events(10, "t/a")) == ""
    left = killed(path, events(5, "t/a"), events(7, "t/new"))
    left.with_name("events.db-wal").unlink()
    lost = work(left, events(1, "t/a"), events(1, "t/new"))
    assert "from 11 to 22" in lost
    assert numbers(left, "t/a") == [*range(1, 11), 10 + 12 + 1]
    assert numbers(left, "t/new") == [12 + 1]
    assert sql(left, "SELECT min(id) FROM buffer_events WHERE id > 10") == [(23,)]
    assert_balanced(left)
    assert work(left, events(1, "t/a")) == "", "it is said once"
    assert_balanced(left)


def test_a_log_that_was_cut_between_two_commits_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    work(path, events(10))
    left = killed(path, *([event(at=number)] for number in range(20)))
    wal = left.with_name("events.db-wal")
    content = wal.read_bytes()
    wal.write_bytes(content[: 32 + (len(content) // FRAME_BYTES // 2) * FRAME_BYTES])
    assert "had been committed" in work(left)
    assert_balanced(left)


def test_numbers_that_were_given_after_the_backup_are_not_given_again(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    work(path, events(10))
    back_up(path)
    work(path, events(10), events(10, "t/new"))
    path.write_bytes(b"no database at all" * 1000)
    assert "from 11 to 30" in work(path, events(1), events(1, "t/new"))
    assert numbers(path, "t/a") == [*range(1, 11), 31]
    assert numbers(path, "t/new") == [21]
    assert_balanced(path)


def test_a_buffer_that_somebody_removed_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    work(path, events(10))
    path.unlink()
    assert "from 1 to 10" in work(path, events(1))
    assert numbers(path, "t/a") == [11]
    assert_balanced(path)


def test_a_buffer_that_was_cut_to_nothing_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    work(path, events(10))
    path.write_bytes(b"")
    assert "from 1 to 10" in work(path, events(1))
    assert_balanced(path)


# --- what is no loss ---


def test_neither_a_stop_nor_a_kill_nor_a_copy_is_a_loss(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    assert work(path) == ""
    assert work(path, events(10)) == ""
    left = killed(path, events(5), events(7))
    assert work(left, events(1)) == ""
    copied = (
        shutil.copytree(path.parent, tmp_path / "copied", ignore=shutil.ignore_patterns("left")) / path.name
    )
    assert work(copied, events(1)) == ""


@pytest.mark.parametrize("content", [b"", b"mrk1", bytes(16), b"mrk1" + bytes(7) + b"\xff" + bytes(4)])
def test_a_torn_mark_says_nothing_and_is_written_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "events.db"
    work(path, events(10))
    path.with_name("events.db.mark").write_bytes(content)
    assert CommitMarker(path).read() == 0
    assert work(path, events(1)) == ""
    assert CommitMarker(path).read() == 11


def test_a_backup_that_was_put_back_is_no_loss(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    work(path, events(10))
    backup = back_up(path)
    work(path, events(10))
    assert restore(path, backup, EPOCH_MS).numbers_known
    assert work(path, events(1)) == ""
    assert numbers(path, "t/a") == [*range(1, 11), 21]


def test_a_mark_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    path.with_name("events.db.mark").mkdir()
    assert work(path, events(10)) == ""
    with opened(path) as store:
        assert store.last_id() == 10
