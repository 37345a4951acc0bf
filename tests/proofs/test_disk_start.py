"""A start on a disk that is full, or cannot be written or read: nothing sound is taken for damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from typer.testing import CliRunner

from gateway.buffer.repair.recovery import WHOLE, check, recover
from gateway.cli import app
from gateway.core.errors import StoreError
from tests.conftest import MosquittoFactory
from tests.support.buffers import EPOCH_MS, append, events, opened
from tests.support.disks import fill, mounted, read_only
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish

NOW_MS = EPOCH_MS


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    with mounted(tmp_path / "disk", "8m") as folder:
        yield folder


def left_by_kill(path: Path) -> None:
    """A buffer of 200 events that are still in its write-ahead log, and no index of the log."""
    with opened(path) as store:
        append(store, events(200))
        left = {suffix: path.with_name(path.name + suffix).read_bytes() for suffix in ("", "-wal")}
    for suffix, content in left.items():
        path.with_name(path.name + suffix).write_bytes(content)


def files(folder: Path) -> dict[str, bytes]:
    """What is in the folder; the index of the log does not count, it is made anew at any time."""
    passing = ("-shm", "filler", ".lock", ".sock")
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith(passing)}


def test_a_disk_without_room_for_the_index_of_the_log_is_no_damage(disk: Path) -> None:
    path = disk / "events.db"
    left_by_kill(path)
    before = files(disk)
    filler = fill(disk)
    with pytest.raises(apsw.IOError):
        recover(path, NOW_MS)
    assert files(disk) == before
    filler.unlink()
    assert recover(path, NOW_MS) == WHOLE
    with opened(path) as store:
        assert store.last_id() == 200


def test_a_buffer_that_somebody_else_has_locked_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    left_by_kill(path)
    with closing(apsw.Connection(str(path))) as other:
        other.execute("PRAGMA locking_mode = exclusive")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(apsw.BusyError):
            recover(path, NOW_MS)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["events.db"]
    assert recover(path, NOW_MS) == WHOLE


def test_a_header_that_would_make_the_file_read_only_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        append(store, events(200))
    content = bytearray(path.read_bytes())
    content[18] = 66
    path.write_bytes(content)
    assert "header" in check(path)
    assert recover(path, NOW_MS).kind == "salvaged"
    with opened(path) as store:
        assert store.last_id() == 200


# --- the whole gateway ---


def gateway_on(disk: Path, tmp_path: Path, local_url: str) -> GatewayProcess:
    buffer = {"checkpoint_interval": "500ms", "max_size": "64MiB"}
    settings = {"id": "g1", "data_dir": str(disk / "data")}
    return GatewayProcess(gateway_config(tmp_path, local_url, gateway=settings, buffer=buffer))


def readings(count: int) -> list[tuple[str, str]]:
    return [("sensors/a", f'{{"t": {EPOCH_MS + n}, "v": {n}}}') for n in range(count)]


def test_a_gateway_that_starts_on_a_full_disk_goes_on_once_there_is_room(
    mosquitto: MosquittoFactory, tmp_path: Path, disk: Path
) -> None:
    broker = mosquitto()
    with gateway_on(disk, tmp_path, broker.url) as gateway:
        gateway.wait_ready()
        publish(broker.port, readings(50))
        wait_until(lambda: len(gateway.raw_payloads()) == 50, "the messages are stored")
        wait_until((disk / "data" / "ballast").exists, "the ballast")
        gateway.kill()

        filler = fill(disk)
        gateway.start()
        wait_until(lambda: gateway.get("/healthz"), "the gateway runs")
        assert not (disk / "data" / "ballast").exists(), "the ballast gave way"
        fill(disk)  # and all that it gave is gone, too
        wait_until(lambda: "cannot be written" in gateway.log(), "it knows that the disk is full")
        pid = gateway.pid
        publish(broker.port, readings(5))
        filler.unlink()
        wait_until(lambda: gateway.get("/readyz"), "the gateway at work")
        wait_until(lambda: len(gateway.raw_payloads()) == 55, "the messages are stored")
        assert gateway.pid == pid
        assert gateway.stop() == 0
        assert gateway.audit().problems == ()
    assert not list((disk / "data").glob("damaged-*"))


def test_a_start_without_any_room_fails_with_a_clear_message_and_changes_nothing(
    mosquitto: MosquittoFactory, tmp_path: Path, disk: Path
) -> None:
    broker = mosquitto()
    with gateway_on(disk, tmp_path, broker.url) as gateway:
        gateway.wait_ready()
        publish(broker.port, readings(50))
        wait_until(lambda: len(gateway.raw_payloads()) == 50, "the messages are stored")
        gateway.kill()
        data = disk / "data"
        for name in ("ballast", "events.db-shm"):
            (data / name).unlink(missing_ok=True)
        before = files(data)
        filler = fill(disk)
        gateway.start()
        assert gateway.ended() == 1
        assert "cannot be opened" in gateway.log()
        assert "is there space" in gateway.log()
        assert "Traceback" not in gateway.log()
        assert files(data) == before
        filler.unlink()
        gateway.start()
        gateway.wait_ready()
        assert len(gateway.raw_payloads()) == 50


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["run"], "the data directory"),
        (["buffer", "drop", "--all", "--yes"], "the data directory"),
        (["buffer", "stats"], "copy the folder"),
        (["buffer", "audit"], "copy the folder"),
    ],
)
def test_on_a_read_only_file_system_each_command_says_what_to_do(
    tmp_path: Path, disk: Path, command: list[str], said: str
) -> None:
    gateway = gateway_on(disk, tmp_path, "mqtt://127.0.0.1:1")
    (disk / "data").mkdir()
    left_by_kill(disk / "data" / "events.db")
    before = files(disk / "data")
    with read_only(disk):
        done = CliRunner().invoke(app, [*command, "-c", str(gateway.config)])
    assert done.exit_code == 1
    assert isinstance(done.exception, StoreError)
    assert said in f"{done.exception} {done.exception.hint}"
    assert files(disk / "data") == before


def test_the_metrics_tell_of_the_disk(mosquitto: MosquittoFactory, tmp_path: Path, disk: Path) -> None:
    with gateway_on(disk, tmp_path, mosquitto().url) as gateway:
        gateway.wait_ready()
        wait_until(lambda: gateway.metric("gateway_disk_ballast") == 1, "the ballast")
        assert 0 < gateway.metric("gateway_disk_free_bytes") < 8 * 1024 * 1024
        assert gateway.metric("gateway_buffer_wal_bytes") >= 0
        fill(disk)
        wait_until(lambda: gateway.metric("gateway_disk_low") == 1, "the disk is low")
