"""The backup that a running gateway keeps: whole, replaced only by a whole one, never at the disk's cost."""

from __future__ import annotations

import os
import random
import shutil
from functools import partial
from pathlib import Path

import apsw
import pytest

from gateway.buffer.connection import PAGE_BYTES
from gateway.buffer.repair.backup import back_up
from gateway.buffer.repair.recovery import backup_path, check
from gateway.buffer.repair.upkeep import BACKUP_AGAIN_S, FIRST_BACKUP_S, BackupPlan, Upkeep
from gateway.buffer.store import Store
from gateway.buffer.writer import Writer
from gateway.core.errors import StoreError
from gateway.testing import ManualClock
from tests.support.buffers import EPOCH_MS, append, event, events, opened, sql
from tests.support.gateways import HOST, GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port

HOUR_MS = 3_600_000


def rows(path: Path) -> int:
    ((count,),) = sql(path, "SELECT count(*) FROM buffer_events")
    assert isinstance(count, int)
    return count


def fill(path: Path, count: int) -> None:
    with opened(path) as store:
        append(store, events(count))


def overwrite_a_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    page = len(content) // PAGE_BYTES // 2
    content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = random.Random(1).randbytes(PAGE_BYTES)
    path.write_bytes(content)


def test_a_damaged_buffer_does_not_replace_a_good_backup(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    fill(path, 3000)
    back_up(path)
    overwrite_a_page(path)
    with pytest.raises((StoreError, apsw.CorruptError)):
        back_up(path)
    assert check(backup_path(path), thorough=True) == ""
    assert rows(backup_path(path)) == 3000
    assert [file.name for file in tmp_path.glob("*.new")] == []


def test_no_backup_is_made_where_the_disk_would_be_left_with_too_little(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    fill(path, 100)
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(StoreError, match="no space for a backup"):
        back_up(path, keep_free_bytes=free)
    assert not backup_path(path).exists()
    back_up(path, keep_free_bytes=free // 2)
    assert rows(backup_path(path)) == 100


def test_a_backup_is_given_up_when_the_log_grows_too_much_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    fill(path, 50_000)
    with opened(path) as store:
        with pytest.raises(StoreError, match="write-ahead log grew"):
            back_up(
                path,
                progress=lambda *_: append(store, [event(payload=os.urandom(500_000))]),
                log_limit_bytes=256 * 1024,
            )
        emptied = store.file.empty_wal()
        assert emptied  # the snapshot is let go


def test_two_backups_at_a_time_are_one_and_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    fill(path, 100)
    refused = []

    def another(*_: int) -> None:
        with pytest.raises(StoreError, match="another backup") as refusal:
            back_up(path)
        refused.append(refusal.value)

    back_up(path, progress=another)
    assert refused
    assert rows(backup_path(path)) == 100


class Schedule:
    """An upkeep whose turns the test takes, at times that it sets."""

    def __init__(self, store: Store, max_size_bytes: int = 10_000_000) -> None:
        self.clock = ManualClock(EPOCH_MS)
        self.alerts: list[str] = []
        plan = BackupPlan(HOUR_MS, max_size_bytes)
        self.upkeep = Upkeep(store.path, Writer(store), self._alert, self.clock, plan)

    def _alert(self, name: str, _message: str) -> None:
        self.alerts.append(name)

    def until_first_s(self) -> float:
        return self.upkeep._until_backup_s()

    def turn(self) -> None:
        self.upkeep._work(self.clock.monotonic_s())


@pytest.mark.parametrize(
    ("age_s", "due_s"),
    [(None, FIRST_BACKUP_S), (0, 3600), (1800, 1800), (3500, FIRST_BACKUP_S), (90_000, FIRST_BACKUP_S)],
)
def test_a_backup_is_due_when_the_last_one_is_old_but_not_right_at_a_start(
    tmp_path: Path, age_s: int | None, due_s: float
) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        if age_s is not None:
            back_up(path)
            os.utime(backup_path(path), (0, EPOCH_MS / 1000 - age_s))
        assert Schedule(store).until_first_s() == due_s


def test_a_backup_that_fails_is_said_once_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        schedule = Schedule(store, max_size_bytes=shutil.disk_usage(tmp_path).total)
        for failures in (1, 2):
            schedule.turn()
            assert schedule.upkeep.metrics.failed_backups == failures
            schedule.clock.advance(int(BACKUP_AGAIN_S) * 1000)
        assert schedule.alerts == ["backup_failed"]
        assert not backup_path(path).exists()
        enough = Schedule(store)
        enough.turn()
        assert enough.upkeep.metrics.failed_backups == 0
        assert backup_path(path).exists()


@pytest.mark.parametrize("backup", ["off", {"every": "500ms"}])
def test_a_running_gateway_backs_itself_up_unless_that_is_off(tmp_path: Path, backup: object) -> None:
    config = gateway_config(tmp_path, f"mqtt://{HOST}:{free_port()}", buffer={"backup": backup})
    with GatewayProcess(config) as gateway:
        made = partial(gateway.metric, "gateway_buffer_backup_time_seconds")
        wait_until(lambda: gateway.metric("gateway_buffer_verified_share") == 1, gateway.log())
        if backup == "off":
            assert made() == 0
            return
        wait_until(made, gateway.log())
        first = made()
        wait_until(lambda: made() > first, gateway.log())
        assert gateway.stop() == 0
        assert check(backup_path(gateway.buffer_path), thorough=True) == ""
