"""A damaged buffer: what is readable is saved, the files are kept aside, and the gateway starts."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from gateway.buffer.proof.balance import audit
from gateway.buffer.reader import Reader
from gateway.buffer.repair import recovery
from gateway.buffer.repair.recovery import Recovery, backup_path, check, recover
from gateway.buffer.repair.salvage import salvage
from gateway.buffer.repair.wal import mended, scan
from gateway.buffer.store import NewEvent, Store
from tests.support.buffers import sql

NOW_MS = 1_750_000_000_000
EVENTS = 3000
PAGE_BYTES = 4096


def event(number: int) -> NewEvent:
    payload = b'{"n": %d, "padding": "%s"}' % (number, b"x" * (number % 50))
    return NewEvent(f"s/{number % 7}", "f", number, NOW_MS, None, 2, 0, 0, payload)


def fill(path: Path, events: int = EVENTS, group: int = 100) -> None:
    store = Store(path)
    store.open()
    for start in range(0, events, group):
        with store.transaction():
            store.append([event(n) for n in range(start, start + group)])
            store.count("appended", "raw", group)
            store.count("outcome", "buffered", group)
            store.checkpoint([])
    store.close()


def copy_while_open(path: Path, to: Path, events: int, group: int) -> None:
    """The files as a kill -9 would leave them: commits in the WAL that no checkpoint has moved."""
    store = Store(path)
    store.open()
    store._connection.execute("PRAGMA wal_autocheckpoint = 0")
    for start in range(0, events, group):
        with store.transaction():
            store.append([event(n) for n in range(start, start + group)])
            store.count("appended", "raw", group)
            store.count("outcome", "buffered", group)
    for suffix in ("", "-wal"):
        shutil.copyfile(path.with_name(path.name + suffix), to.with_name(to.name + suffix))
    store.close()


def recovered(path: Path) -> tuple[Recovery, set[int]]:
    """Recover and open; the result, and the numbers of the good events that are there."""
    done = recover(path, NOW_MS)
    store = Store(path)
    store.open()
    with store.transaction():
        store.append([event(EVENTS + 1)])  # it can be written
        store.count("appended", "raw")
        store.count("outcome", "buffered")
    store.close()
    reader = Reader(path)
    try:
        numbers = set()
        for events in reader.raw_after(0):
            good, _ = reader.without_corrupt(events)
            numbers |= set(good.event_times_ms)
        if done.kind in ("whole", "salvaged"):
            assert audit(reader).problems == ()
    finally:
        reader.close()
    return done, numbers


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)


def test_a_whole_buffer_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    fill(path)
    before = path.read_bytes()
    assert recover(path, NOW_MS) == Recovery("whole", "", None)
    assert path.read_bytes() == before


def test_a_new_buffer_needs_no_recovery(tmp_path: Path) -> None:
    assert recover(tmp_path / "events.db", NOW_MS) == Recovery("whole", "", None)


def test_a_flipped_bit_in_the_middle_of_the_wal_loses_no_commit(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    copy_while_open(tmp_path / "live.db", path, 1000, 10)
    wal = path.with_name("events.db-wal")
    found = scan(wal.read_bytes())
    assert found.first_bad is None
    flip(wal, 32 + (24 + PAGE_BYTES) * (found.frames // 3) + 24 + 50)
    assert scan(wal.read_bytes()).lost_commits > 50  # what SQLite alone would drop
    done, numbers = recovered(path)
    assert done.kind in ("mended", "salvaged")
    assert done.kept_aside is not None
    assert (done.kept_aside / "events.db-wal").exists()
    assert len(numbers & set(range(1000))) >= 950  # all, but for the page that the bit is in


def test_a_torn_tail_is_dropped_without_an_alarm(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    copy_while_open(tmp_path / "live.db", path, 1000, 10)
    wal = path.with_name("events.db-wal")
    content = wal.read_bytes()
    wal.write_bytes(content[:-3000] + bytes(3000))
    done, numbers = recovered(path)
    assert done == Recovery("whole", "", None)
    assert numbers >= set(range(990))  # the last transaction was torn: it was never acknowledged


def test_a_mended_wal_without_damage_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    copy_while_open(tmp_path / "live.db", path, 100, 10)
    content = path.with_name("events.db-wal").read_bytes()
    assert mended(content) == content
    assert scan(b"") == (0, None, 0)
    assert scan(b"no wal at all, but longer than a header would be") == (0, None, 0)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    chance = random.Random(7)
    for page in chance.sample(range(5, len(content) // PAGE_BYTES), 3):
        content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = chance.randbytes(PAGE_BYTES)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, overwrite_pages])
def test_what_is_readable_of_a_damaged_file_is_saved_and_the_rest_is_counted(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "events.db"
    fill(path)
    damage(path)
    original = path.read_bytes()
    done, numbers = recovered(path)
    assert done.kind == "salvaged"
    assert "events could be read" in done.alert
    assert done.kept_aside is not None
    assert (done.kept_aside / "events.db").read_bytes() == original
    assert len(numbers) > EVENTS / 4


@pytest.mark.parametrize("content", [b"", b"not a database at all, " * 500, bytes(8192)])
def test_a_file_that_is_no_database_makes_room_for_the_backup(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "events.db"
    fill(path, 500)
    shutil.copyfile(path, backup_path(path))
    path.write_bytes(content)
    done, numbers = recovered(path)
    assert done.kind == "backup"
    assert "took its place" in done.alert
    assert numbers >= set(range(500))


def test_with_a_damaged_backup_too_it_starts_empty_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    fill(path, 500)
    path.write_bytes(b"?" * 100_000)
    backup_path(path).write_bytes(b"?" * 100_000)
    done, numbers = recovered(path)
    assert done.kind == "empty"
    assert "started anew, empty" in done.alert
    assert numbers == {EVENTS + 1}
    assert done.kept_aside is not None
    assert (done.kept_aside / "events.db").stat().st_size == 100_000


def test_a_wal_whose_database_is_gone_is_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    copy_while_open(tmp_path / "live.db", path, 100, 10)
    path.unlink()
    done, _ = recovered(path)
    assert done.kind == "empty"
    assert done.kept_aside is not None
    assert (done.kept_aside / "events.db-wal").exists()


def test_numbers_of_lost_events_are_not_given_again(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    fill(path)
    truncate(path)
    assert recover(path, NOW_MS).kind == "salvaged"
    store = Store(path)
    store.open()
    with store.transaction():
        for stream in range(7):
            store.append([event(stream)])
            position = store._streams.position(f"s/{stream}")
            assert position.last_sequence > EVENTS // 7
    store.close()


@pytest.mark.parametrize("rounds", [pytest.param(40, id="short"), pytest.param(300, marks=pytest.mark.slow)])
def test_no_damaged_page_stops_the_start_or_passes_for_good(tmp_path: Path, rounds: int) -> None:
    master = tmp_path / "master.db"
    fill(master)
    content, chance = master.read_bytes(), random.Random(rounds)
    saved = []
    for number in range(rounds):
        path = tmp_path / f"{number}.db"
        damaged = bytearray(content)
        page = chance.randrange(len(content) // PAGE_BYTES)
        start = page * PAGE_BYTES + chance.randrange(PAGE_BYTES - 200)
        damaged[start : start + 200] = chance.randbytes(200)
        path.write_bytes(damaged)
        done, numbers = recovered(path)
        assert numbers <= set(range(EVENTS)) | {EVENTS + 1}  # nothing invented
        saved.append(len(numbers & set(range(EVENTS))))
        if done.kind == "whole":
            assert not check(path)
    assert sum(saved) / rounds > 0.9 * EVENTS, "a page holds about 3 % of the events"


def test_a_value_that_became_text_and_is_no_text_costs_its_row_only(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    fill(path, 500)
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE buffer_events SET payload = CAST(x'c0c1' AS TEXT) WHERE id = 17")
    connection.close()
    saved = salvage(path, tmp_path / "fresh.db")
    assert (saved.events, saved.lost, saved.tables_lost) == (499, 1, ())


class Killed(BaseException):
    """Stands for a `kill -9`: nothing in the code may catch it."""


@pytest.mark.parametrize("replaced", range(3), ids="rename number {}".format)
@pytest.mark.parametrize("with_backup", [True, False])
def test_a_rebuild_that_is_killed_is_done_again_and_loses_nothing(
    tmp_path: Path, replaced: int, with_backup: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.db"
    fill(path)
    if with_backup:
        fill(backup_path(path), 100)
    overwrite_pages(path)
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    shutil.copyfile(path, undisturbed / path.name)
    _, expected = recovered(undisturbed / path.name)

    renames = iter(range(100))
    rename = Path.replace

    def killed_at_one(self: Path, target: Path) -> Path:
        if next(renames) == replaced:
            raise Killed
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "replace", killed_at_one)
        recover(path, NOW_MS)
    done, numbers = recovered(path)
    assert done.kind == "salvaged"
    assert done.alert
    assert numbers == expected


def test_a_disk_without_room_for_the_rebuild_leaves_the_damaged_file_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.db"
    fill(path)
    overwrite_pages(path)
    damaged = path.read_bytes()

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(shutil, "copyfile", no_room)
        recover(path, NOW_MS)
    assert path.read_bytes() == damaged
    assert recovered(path)[0].kind == "salvaged"


@pytest.mark.parametrize("table", ["streams", "stream_name", "last_payloads"])
def test_a_large_file_with_a_damaged_small_table_is_mended_at_the_start(
    tmp_path: Path, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "CHECK_AT_START_BYTES", 0)  # every file counts as large
    master = tmp_path / "master.db"
    store = Store(master)
    store.open()
    names = [f"plant/{number:04}" for number in range(700)]
    with store.transaction():
        store.append([event(0)._replace(topic=name) for name in names])
        for name in names:
            store._streams.note_mark(name, 1)
        store.checkpoint([])
    store.close()
    pages: list[int] = [page for (page,) in sql(master, "SELECT pageno FROM dbstat WHERE name = ?", table)]
    assert len(pages) > 2
    for page in (pages[0], pages[len(pages) // 2], pages[-1]):
        path = tmp_path / f"{page}.db"
        damaged = bytearray(master.read_bytes())
        damaged[(page - 1) * PAGE_BYTES : page * PAGE_BYTES] = b"\xff" * PAGE_BYTES
        path.write_bytes(damaged)
        assert recover(path, NOW_MS + page).kind == "salvaged"
        store = Store(path)
        store.open()
        with store.transaction():
            for name in names:
                store._streams.position(name)
        store.close()
