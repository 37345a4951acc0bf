"""A buffer that the version before wrote: it is migrated whole or not at all, and can be read before that.

`files/events-v1.db.gz` is what schema version 1 wrote: 375 events of nine streams in all states, with a
dictionary, receipts, window states and losses. `files/events-v3.db.gz` is what version 3 wrote: 353 events,
the same, and refusals, a stream that waits, messages that were sampled and rejected.
"""

from __future__ import annotations

import gzip
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.buffer.migration import SCHEMA_VERSION, STEPS, copy_path
from gateway.buffer.proof.balance import audit
from gateway.buffer.repair.recovery import recover
from gateway.buffer.store import CHECKPOINT_ID
from gateway.core.errors import StoreError
from gateway.core.events import Status
from gateway.delivery.states import DeliveryEvent
from tests.support.buffers import EPOCH_MS, append, events, opened, reading, sql
from tests.support.places import TESTS

FILES = TESTS / "files"
STATUSES = {"PENDING": 258, "SYNCING": 10, "SYNCED": 75, "FAILED": 5, "CORRUPT": 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "events.db"
    return written(path, 1)


@pytest.fixture
def path_3(tmp_path: Path) -> Path:
    return written(tmp_path / "events.db", 3)


def written(path: Path, version: int) -> Path:
    """The file that a gateway of that schema version wrote."""
    path.write_bytes(gzip.decompress((FILES / f"events-v{version}.db.gz").read_bytes()))
    return path


def content(path: Path) -> Iterator[object]:
    """What version 1 knew; but for the last numbers of streams, which an open brings up to date."""
    yield sql(path, "SELECT id, name FROM streams")
    for table in ("buffer_events", "dictionaries", "receipts", "losses", "window_state", "counters"):
        yield table, sql(path, f"SELECT * FROM {table}")  # noqa: S608 - from here


def version(path: Path) -> int:
    ((value,),) = sql(path, "SELECT value FROM meta WHERE name = 'schema_version'")
    return int(str(value))


def test_every_version_leads_to_the_next() -> None:
    assert [*STEPS] == [*range(1, SCHEMA_VERSION)]


def test_a_file_of_version_1_is_migrated_with_all_that_it_holds(path: Path) -> None:
    before = [*content(path)]
    with opened(path) as store:
        assert {name: store.counts["status", name] for name in STATUSES} == STATUSES
        assert len(list(store.windows.all())) == 5
        assert store.meta_int(CHECKPOINT_ID) == 400
        assert store.receipts.seen(5, True, "sensors/d0", b"other") is False
    assert version(path) == SCHEMA_VERSION
    assert [*content(path)] == before
    with reading(path) as reader:
        assert audit(reader).problems == ()
        for chunk in reader.raw_after(0):
            assert reader.without_corrupt(chunk)[1] == []


def test_a_file_of_version_3_is_migrated_with_all_that_it_holds(path_3: Path) -> None:
    tables = ("buffer_events", "dictionaries", "receipts", "losses", "loss_runs", "window_state", "counters")
    others = ("held", "refusals", "undated")
    before = [sql(path_3, f"SELECT * FROM {table}") for table in (*tables, *others)]  # noqa: S608
    assert all(before[: len(tables)])
    with opened(path_3) as store:
        assert store.counts["status", "FAILED"] == 5
        assert store.receipts.seen(5, True, "sensors/d4", b"x4")
    assert version(path_3) == SCHEMA_VERSION
    assert [sql(path_3, f"SELECT * FROM {table}") for table in (*tables, *others)] == before  # noqa: S608
    assert version(copy_path(path_3, 3)) == 3
    with reading(path_3) as reader:
        found = audit(reader)
        assert found.problems == ()
        assert {(one.reason, one.stream, one.first_ms, one.last_ms, one.messages) for one in found.shed} == {
            ("sampled", "", 0, 0, 7),
            ("no_route", "", 0, 0, 3),
            ("priority", "", 0, 0, 2),
        }, "of these only the counts were known"


def test_what_version_3_could_do_goes_on_in_this_one(path_3: Path) -> None:
    with opened(path_3) as store:
        append(store, events(10, "sensors/d1"))
        with store.transaction():
            store.dropped.note("sampled", "sensors/d1", EPOCH_MS)
            store.count("outcome", "sampled")
        with store.transaction():
            store.release_all()
            store.move(store.claim(1000, now_ms=EPOCH_MS * 2), Status.SYNCING, DeliveryEvent.PUBACK)
            store.checkpoint([])
        with store.transaction():
            assert store.removals.evict_synced(1, store.last_id(), EPOCH_MS * 2) > 300
    with reading(path_3) as reader:
        assert audit(reader).problems == ()


def test_the_file_as_it_was_is_kept_and_can_be_opened_as_it_was(path: Path) -> None:
    before = [*content(path)]
    with opened(path) as store:
        append(store, events(10))
    kept = copy_path(path, 1)
    assert version(kept) == 1
    assert [*content(kept)] == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["events.db", "events.db.v1"]


def test_a_migrated_file_has_the_tables_of_a_new_one(path: Path, tmp_path: Path) -> None:
    with opened(path), opened(tmp_path / "new.db"):
        pass
    columns = (
        "SELECT m.name, c.cid, c.name, c.pk FROM sqlite_schema AS m, pragma_table_info(m.name) AS c"
        " WHERE m.type = 'table'"
    )
    assert {*sql(path, columns)} == {*sql(tmp_path / "new.db", columns)}


def test_without_room_for_a_copy_it_is_migrated_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.buffer.migration.shutil.disk_usage", lambda _: type("", (), {"free": 1000}))
    with opened(path):
        pass
    assert version(path) == SCHEMA_VERSION
    assert not copy_path(path, 1).exists()
    assert "no space for a copy" in caplog.text


def test_a_reader_reads_a_file_of_version_1_and_leaves_it_as_it_is(path: Path) -> None:
    with reading(path) as reader:
        assert audit(reader).problems == ()
        assert sum(reader.count_by_status().values()) == sum(STATUSES.values())
    assert version(path) == 1
    assert not copy_path(path, 1).exists()


def test_a_reader_refuses_a_file_of_a_newer_gateway(path: Path) -> None:
    sql(path, "UPDATE meta SET value = '999' WHERE name = 'schema_version'")
    with pytest.raises(StoreError, match="999") as refusal, reading(path):
        pass
    assert "newer" in refusal.value.hint


def test_a_damaged_file_of_version_1_is_salvaged_into_one_of_this_version(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 * 12 : 4096 * 13] = bytes(4096)
    path.write_bytes(content)
    assert recover(path, 0).kind == "salvaged"
    assert version(path) == SCHEMA_VERSION
    with opened(path) as store:
        assert store.counts["status", "PENDING"] > 100
    assert not copy_path(path, 1).exists()


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from gateway.buffer import migration
from gateway.buffer.store import Store

countdown = int(sys.argv[2])
original = migration.migrate

def traced(database, path):
    def look(cursor, sql, bindings):
        global countdown
        countdown -= 1
        if countdown == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return True
    database.connection().exec_trace = look
    original(database, path)
    database.connection().exec_trace = None

from gateway.buffer import schema
schema.migrate = traced
store = Store(Path(sys.argv[1]))
store.open()
store.close()
print(countdown)
"""


@pytest.mark.parametrize("old", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_kill_in_the_middle_leaves_the_old_or_the_new_file(path: Path, old: int) -> None:
    """At each statement of the migration in turn."""
    before, original = [*content(written(path, old))], path.read_bytes()
    for statement in range(1, 100):
        for file in path.parent.iterdir():
            file.unlink()
        path.write_bytes(original)
        child = subprocess.run(
            [sys.executable, "-c", KILLED_AT, path, str(statement)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, child.stderr
        assert recover(path, 0).kind == "whole"
        assert version(path) in (old, SCHEMA_VERSION)
        with opened(path):
            pass
        assert version(path) == SCHEMA_VERSION
        assert [*content(path)] == before
        assert [*content(copy_path(path, old))] == before
    assert statement > 3, "it was not killed anywhere"
