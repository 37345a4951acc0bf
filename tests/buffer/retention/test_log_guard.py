"""Somebody reads the buffer for long: file and log stay within the size, nothing is lost, and it goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

import pytest

from gateway.buffer.connection import wal_pages
from gateway.buffer.proof.balance import audit
from gateway.buffer.retention.disk_guard import DiskGuard
from gateway.buffer.retention.disk_space import DiskSpace
from gateway.buffer.retention.log_guard import QUIET_TURNS, PinnedWal, readers_of
from gateway.buffer.retention.policy import Retention
from gateway.buffer.store import CHECKPOINT_ID, Store
from gateway.core.errors import LogHeldError
from tests.conftest import MosquittoFactory
from tests.support.buffers import EPOCH_MS, append, event, opened, reading
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import Watcher, publish

MIB = 1024 * 1024
MAX_BYTES = 4 * MIB
HOUR_MS = 3_600_000
_READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM buffer_events").fetchall()
print("reading", flush=True)
sys.stdin.read()
"""
GUARD: Any = {"now_ms": lambda: EPOCH_MS, "checkpoint": lambda store: store.checkpoint([])}


@contextmanager
def a_long_reader(path: Path) -> Iterator[int]:
    """Another process that holds a snapshot; gives its process id."""
    command = [sys.executable, "-c", _READER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reading\n"
        yield process.pid
        process.kill()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A buffer with one event."""
    with opened(tmp_path / "events.db") as store:
        store._connection.execute(f"PRAGMA wal_autocheckpoint = {wal_pages(MAX_BYTES)}")
        append(store, [event()])
        yield store


class Alerts:
    """Notes alerts instead of storing them."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def __call__(self, store: Store, name: str, message: str, details: Any) -> None:
        self.said.append((name, message))


def fill(store: Store, room: DiskGuard, chance: Random) -> None:
    """A group and a tick, as the writer does them."""
    room.check(store, 0)
    append(store, [event(f"t/{n % 10}", chance.randbytes(300), at=n) for n in range(200)])
    with store.transaction():
        room.run(store, EPOCH_MS, store.checkpoint([]))
    room.committed(store)


def file_bytes(path: Path) -> int:
    return sum(path.with_name(path.name + suffix).stat().st_size for suffix in ("", "-wal"))


def test_file_and_log_stay_within_the_size_while_somebody_reads_and_it_goes_on_afterwards(
    store: Store,
) -> None:
    alerts, chance = Alerts(), Random(1)
    room = DiskGuard(Retention(MAX_BYTES, HOUR_MS), alerts, DiskSpace(store.path, MAX_BYTES), **GUARD)
    with a_long_reader(store.path) as reader:
        with pytest.raises(LogHeldError, match=f"process {reader}"):
            while True:
                fill(store, room, chance)
                assert file_bytes(store.path) <= MAX_BYTES
        with pytest.raises(LogHeldError, match="stop that process"):
            room.check(store, 0)
    (announced,) = [said for name, said in alerts.said if name == "log_held"]
    assert "python" in announced
    assert f"(process {reader})" in announced
    alerts.said.clear()
    for _ in range(100):
        fill(store, room, chance)
        assert file_bytes(store.path) <= MAX_BYTES
    ((_, afterwards),) = [one for one in alerts.said if one[0] == "log_held"]
    assert "nothing was acknowledged for a while" in afterwards


def test_a_log_that_is_large_for_a_moment_is_not_announced(store: Store) -> None:
    alerts, chance = Alerts(), Random(2)
    log = PinnedWal(DiskSpace(store.path, MAX_BYTES), MAX_BYTES)
    for _ in range(3 * QUIET_TURNS):
        append(store, [event(payload=chance.randbytes(300_000)) for _ in range(5)])
        with store.transaction():
            log.announce(store, alerts)
        log.look(store)
        log.check()
    assert alerts.said == []


def test_our_own_readers_are_nobody_to_complain_about(store: Store) -> None:
    assert readers_of(store.path) == []
    with a_long_reader(store.path) as reader:
        (who,) = readers_of(store.path)
    assert who.endswith(f"(process {reader})")
    assert readers_of(store.path) == []


def test_where_the_kernel_says_nothing_the_reader_stays_unknown(store: Store, tmp_path: Path) -> None:
    assert readers_of(store.path, locks=tmp_path / "locks") == []


def test_a_gateway_acknowledges_nothing_beyond_its_size_and_goes_on_when_the_reader_has_ended(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto(["max_queued_messages 0"])
    config = gateway_config(
        tmp_path,
        broker.url,
        buffer={"max_size": "4MiB", "checkpoint_interval": "250ms"},
        routes=[{"name": "blobs", "topic": "blobs/{device}", "decoder": "raw", "priority": "high"}],
        windows=[],
    )
    chance, sent = Random(3), 0
    with GatewayProcess(config) as gateway, Watcher(broker.port, "gateway/g1/alerts") as operator:
        gateway.wait_ready()
        pid = gateway.pid

        def more() -> None:
            nonlocal sent
            publish(broker.port, ((f"blobs/d{n % 10}", chance.randbytes(700)) for n in range(500)))
            sent += 500

        with a_long_reader(gateway.buffer_path) as reader:

            def withheld() -> bool:
                more()
                assert file_bytes(gateway.buffer_path) <= MAX_BYTES
                return gateway.get("/readyz") is None

            wait_until(withheld, "a log that must not grow")
            assert f"(process {reader}) reads the buffer" in gateway.log()
            more()
            assert file_bytes(gateway.buffer_path) <= MAX_BYTES
        wait_until(lambda: gateway.get("/readyz"), "the gateway at work again")
        buffered = 'gateway_messages_total{outcome="buffered"}'
        wait_until(lambda: gateway.metric(buffered) == sent, "all that was sent")
        assert gateway.pid == pid
        wait_until(lambda: "log_held" in said(operator), "the alert")
        assert gateway.stop() == 0
        assert file_bytes_left(gateway.buffer_path) <= MAX_BYTES
        assert gateway.audit().problems == ()


@pytest.mark.parametrize(
    "refused",
    [pytest.param(False, id="pending", marks=pytest.mark.slow), pytest.param(True, id="failed")],
)
def test_a_flood_never_makes_file_and_log_larger_than_the_size(store: Store, refused: bool) -> None:
    """With groups as large as a writer makes them, and ticks only every now and then."""
    chance = Random(4)
    space = DiskSpace(store.path, MAX_BYTES)
    room = DiskGuard(Retention(MAX_BYTES, HOUR_MS), Alerts(), space, **GUARD)
    for number in range(300):
        room.check(store, size_bytes=300 * 500)
        append(store, [event(f"t/{n % 10}", chance.randbytes(500), at=n) for n in range(300)])
        assert file_bytes(store.path) <= MAX_BYTES
        checkpoint_id = store.meta_int(CHECKPOINT_ID)
        room.check(store, size_bytes=0)
        with store.transaction():
            store.checkpoint([])
            if refused:
                store.reject(store.claim(300), "not allowed")
            if number % 20 == 0:
                room.run(store, EPOCH_MS, checkpoint_id)
        room.committed(store)
        assert file_bytes(store.path) <= MAX_BYTES
    with reading(store.path) as reader:
        assert audit(reader).problems == ()


@pytest.mark.slow
def test_a_gateway_that_is_flooded_keeps_file_and_log_within_the_size(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto(["max_queued_messages 0", "max_inflight_messages 1000"])
    route = {"name": "blobs", "topic": "blobs/{device}", "decoder": "raw", "priority": "high"}
    config = gateway_config(tmp_path, broker.url, buffer={"max_size": "4MiB"}, routes=[route], windows=[])
    chance, sent = Random(5), 60_000
    messages = ((f"blobs/d{n % 1000}", chance.randbytes(700)) for n in range(sent))
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        flood = Thread(target=publish, args=(broker.port, messages))
        flood.start()

        def all_are_stored() -> bool:
            assert file_bytes(gateway.buffer_path) <= MAX_BYTES
            return gateway.metric('gateway_messages_total{outcome="buffered"}') == sent

        wait_until(all_are_stored, "all that was sent")
        flood.join()
        assert gateway.stop() == 0
        assert gateway.audit().problems == ()


def said(operator: Watcher) -> list[str]:
    return [json.loads(message.payload)["alert"] for message in operator.messages]


def file_bytes_left(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*") if file.suffix != ".mark")
