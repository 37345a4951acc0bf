"""A buffer in use is looked through: what is wrong is found and said, and mended by the next start."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.buffer.connection import PAGE_BYTES
from gateway.buffer.proof.balance import audit
from gateway.buffer.repair import recovery
from gateway.buffer.repair.damage import note_damage, noted_damage
from gateway.buffer.repair.recovery import check, recover
from gateway.buffer.repair.upkeep import Upkeep
from gateway.buffer.repair.verification import Verification
from gateway.buffer.schema import UNSETTLED_INDEX
from gateway.buffer.store import Store
from gateway.buffer.writer import Writer
from gateway.core.clock import SystemClock
from gateway.core.errors import DamageError
from gateway.core.events import Kind, Status
from gateway.delivery.states import DeliveryEvent
from gateway.host.control import SOCKET_FILE
from tests.support.buffers import append, event, events, opened, reading, spoil_page, sql
from tests.support.gateways import HOST, GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port

NOW_MS = 1_750_000_000_000


def fill(path: Path, count: int) -> None:
    with opened(path) as store:
        for start in range(0, count, 1000):
            append(store, events(count)[start : start + 1000])
        with store.transaction():
            store.checkpoint([])


def spoil(path: Path, *ids: int) -> None:
    """Change payloads behind the store's back."""
    for one in ids:
        sql(path, "UPDATE buffer_events SET payload = x'00' || payload WHERE id = ?", one)


def lose_index_entries(path: Path, condition: str) -> None:
    """Take entries out of the index that the bridge follows; `quick_check` does not see it."""
    sql(path, "DROP INDEX buffer_events_unsettled")
    sql(path, UNSETTLED_INDEX + f" AND NOT ({condition})")
    sql(path, "PRAGMA writable_schema = 1")
    with_schema = "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = "
    text = UNSETTLED_INDEX.replace("IF NOT EXISTS ", "")
    sql(path, f"{with_schema}'{text}' WHERE name = 'buffer_events_unsettled'")


def walk(path: Path) -> tuple[int, list[int]]:
    """Everything that one verification looks at, and what it finds."""
    with reading(path) as reader:
        verification, looked_at, wrong = Verification(reader), 0, list[int]()
        while not verification.finished:
            count, found = verification.step()
            looked_at, wrong = looked_at + count, wrong + found
        assert verification.done == verification.total
    return looked_at, wrong


class Watched:
    """An upkeep beside a writer, and the alerts that it gave."""

    def __init__(self, store: Store) -> None:
        self.alerts: list[str] = []
        self.writer = Writer(store)
        self.upkeep = Upkeep(store.path, self.writer, lambda name, _: self.alerts.append(name), SystemClock())

    @property
    def walked(self) -> bool:
        return self.upkeep.metrics.verified_share == 1.0


@contextmanager
def kept_up(path: Path) -> Iterator[Watched]:
    with opened(path) as store:
        watched = Watched(store)
        watched.writer.start()
        watched.upkeep.start()
        yield watched
        watched.upkeep.stop()
        assert watched.writer.stop()


def test_a_walk_looks_at_every_event_of_whatever_kind_and_status(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    fill(path, 2300)
    with opened(path) as store:
        append(store, [event("alerts", b"!", kind=Kind.ALERT, priority=0)])
        with store.transaction():
            store.move(store.claim(500), Status.SYNCING, DeliveryEvent.PUBACK)
            store.claim(500)
    assert walk(path) == (2301, [])
    spoil(path, 3, 700, 2301)
    assert walk(path) == (2301, [3, 700, 2301])


def test_an_empty_buffer_is_verified_at_once(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db"):
        assert walk(tmp_path / "events.db") == (0, [])


def test_nothing_is_held_between_two_steps_so_that_the_log_can_be_reset(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    fill(path, 2000)
    with opened(path) as store, reading(path) as reader:
        verification = Verification(reader)
        while not verification.finished:
            verification.step()
            append(store, [event()])
            emptied = store.file.empty_wal()
            assert emptied
            assert path.with_name("events.db-wal").stat().st_size == 0


def test_pending_events_with_a_wrong_checksum_become_corrupt_and_are_counted_and_announced(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events.db"
    fill(path, 2000)
    with opened(path) as store, store.transaction():
        store.move(store.claim(100), Status.SYNCING, DeliveryEvent.PUBACK)
    spoil(path, 50, 150, 1999)  # the first one has reached the cloud already
    with kept_up(path) as watched:
        wait_until(lambda: watched.alerts, "it is announced")
        assert watched.alerts == ["corrupt_events"]
        assert watched.upkeep.metrics.mismatches == 2
        claimed = watched.writer.call(lambda store: store.claim(5000))
        assert not {150, 1999} & {*claimed}
        assert len(claimed) == 1898
    assert sql(path, "SELECT id FROM buffer_events WHERE status = ?", int(Status.CORRUPT)) == [
        (150,),
        (1999,),
    ]
    with reading(path) as reader:
        assert audit(reader).problems == ()


def test_a_whole_buffer_gives_no_alert(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    fill(path, 2000)
    with kept_up(path) as watched:
        wait_until(lambda: watched.walked, "it is through")
        assert watched.upkeep.metrics.verified_events == 2000
    assert watched.alerts == []
    assert noted_damage(path) == ""


def test_damage_that_somebody_else_has_read_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    fill(path, 10)
    with kept_up(path) as watched:
        note_damage(path, "database disk image is malformed")
        wait_until(lambda: watched.alerts == ["buffer_damaged"], "the alert")
        assert watched.upkeep.metrics.damage == "database disk image is malformed"


def test_damage_that_only_the_page_reads_is_in_health_and_an_alert(tmp_path: Path) -> None:
    path = tmp_path / "data" / "events.db"
    path.parent.mkdir()
    fill(path, 2000)
    with GatewayProcess(gateway_config(tmp_path, f"mqtt://{HOST}:{free_port()}")) as gateway:
        wait_until(lambda: gateway.metric("gateway_buffer_verified_share") == 1, gateway.log())
        spoil_page(path, "buffer_events")
        wait_until(
            lambda: gateway.said("/api/events?stream=%23&limit=2000") and gateway.get("/healthz") is None,
            gateway.log(),
            patience_s=10.0,
        )
        assert "malformed" in gateway.said("/healthz")
        wait_until(lambda: "buffer_damaged" in gateway.said("/api/state"), "the alert", patience_s=5.0)
        assert "Traceback" not in gateway.log()


def test_an_index_that_lost_entries_is_damage_that_quick_check_does_not_see(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    fill(path, 2000)
    lose_index_entries(path, "id IN (1500, 1501)")
    assert check(path) == ""
    assert check(path, thorough=True) != ""
    with pytest.raises(DamageError, match=r"buffer_events_unsettled differ.* behind event 1000"):
        walk(path)


def test_damage_that_the_start_did_not_look_for_is_found_noted_and_mended_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "CHECK_AT_START_BYTES", 0)  # as if the file were a large one
    path = tmp_path / "events.db"
    fill(path, 5000)
    content = bytearray(path.read_bytes())
    page = len(content) // PAGE_BYTES // 2
    content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = random.Random(3).randbytes(PAGE_BYTES)
    path.write_bytes(content)
    assert recover(path, NOW_MS).kind == "whole"
    with kept_up(path) as watched:
        wait_until(lambda: watched.alerts, "it is announced")
        assert watched.alerts == ["buffer_damaged"]
        assert watched.upkeep.metrics.damage
    assert noted_damage(path) == watched.upkeep.metrics.damage
    done = recover(path, NOW_MS)
    assert done.kind == "salvaged"
    assert noted_damage(path) == ""
    assert recover(path, NOW_MS).kind == "whole"
    assert walk(path)[1] == []


def test_a_running_gateway_says_that_only_a_restart_mends_its_file_and_the_restart_does(
    tmp_path: Path,
) -> None:
    path = tmp_path / "data" / "events.db"
    path.parent.mkdir()
    fill(path, 2000)
    spoil(path, 10)
    lose_index_entries(path, "id BETWEEN 1800 AND 1900")
    with GatewayProcess(gateway_config(tmp_path, f"mqtt://{HOST}:{free_port()}")) as gateway:
        wait_until(lambda: gateway.metric("gateway_buffer_damaged") == 1, gateway.log())
        assert gateway.get("/healthz") is None  # 503
        wait_until(lambda: gateway.metric("gateway_buffer_mismatches_total") == 1, gateway.log())
        gateway.stop()
        gateway.start()
        wait_until(lambda: gateway.metric("gateway_buffer_verified_share") == 1, gateway.log())
        assert gateway.metric("gateway_buffer_damaged") == 0
        assert gateway.get("/healthz") is not None
        gateway.stop()
        assert gateway.audit().problems == ()
    with reading(path) as reader:
        said = [json.loads(p)["alert"] for p in reader.payloads(reader.derived_after(0, 10))]
    assert said == ["buffer_damaged", "buffer_salvaged"]
    assert sql(path, "SELECT count(*) FROM buffer_events WHERE kind = 0 AND status = 0") == [(1999,)]


@pytest.mark.slow
def test_a_gateway_that_cannot_write_its_damaged_file_any_more_starts_anew_and_mends_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "data" / "events.db"
    path.parent.mkdir()
    fill(path, 2000)
    lose_index_entries(path, "id BETWEEN 1800 AND 1900")
    config = gateway_config(tmp_path, f"mqtt://{HOST}:{free_port()}")
    with GatewayProcess(config) as gateway:
        wait_until((path.parent / SOCKET_FILE).exists, "its control socket")
        drop = [sys.executable, "-m", "gateway", "buffer", "drop", "-c", str(config), "--status", "pending"]
        with subprocess.Popen([*drop, "--older-than", "1s", "--yes"], stderr=subprocess.DEVNULL) as command:
            wait_until(lambda: "starts anew" in gateway.log(), "it gives up that file")
            wait_until(lambda: gateway.metric("gateway_buffer_verified_share") == 1, gateway.log())
            command.kill()
        assert gateway.get("/healthz") is not None
        gateway.stop()
        assert gateway.audit().problems == ()
    assert sql(path, "SELECT count(*) FROM buffer_events WHERE kind = 0 AND status = 0") == [(2000,)]
