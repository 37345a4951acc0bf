"""A full disk, on a real small one: nothing acknowledged is lost, sums balance, the gateway goes on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
from peewee import OperationalError

from gateway.buffer.connection import wal_pages
from gateway.buffer.proof.balance import audit
from gateway.buffer.retention.disk_guard import DiskGuard
from gateway.buffer.retention.disk_space import DiskSpace
from gateway.buffer.retention.policy import Retention
from gateway.buffer.store import NewEvent, Store
from gateway.core.events import Status
from gateway.delivery.states import DeliveryEvent
from tests.conftest import MosquittoFactory
from tests.support.buffers import EPOCH_MS, append, event, reading
from tests.support.disks import fill, mounted
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish

MIB = 1024 * 1024
DISK_BYTES = 8 * MIB
HOUR_MS = 3_600_000
GUARD: Any = {"now_ms": lambda: EPOCH_MS, "checkpoint": lambda store: store.checkpoint([])}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    with mounted(tmp_path / "disk", "8m") as folder:
        yield folder


# --- the whole gateway ---


def reading_of(number: int, chance: random.Random) -> tuple[str, bytes]:
    """A message whose payload does not compress and begins with its number."""
    return f"blobs/d{number % 10}", b"%07d" % number + chance.randbytes(700)


def blob_gateway(tmp_path: Path, data_dir: Path, local_url: str) -> Path:
    return gateway_config(
        tmp_path,
        local_url,
        gateway={"id": "g1", "data_dir": str(data_dir)},
        buffer={"checkpoint_interval": "500ms", "max_size": "64MiB"},
        routes=[{"name": "blobs", "topic": "blobs/{device}", "decoder": "raw"}],
        windows=[],
    )


def stored_numbers(path: Path) -> Counter[int]:
    with reading(path) as reader:
        found: Counter[int] = Counter()
        for chunk in reader.raw_after(0):
            good, corrupt = reader.without_corrupt(chunk)
            assert corrupt == []
            found.update(int(payload[:7]) for payload in reader.payloads(good))
        return found


def buffered(gateway: GatewayProcess) -> float:
    return gateway.metric('gateway_messages_total{outcome="buffered"}')


@pytest.mark.parametrize(
    "rounds", [pytest.param(2, id="short"), pytest.param(12, id="long", marks=pytest.mark.slow)]
)
def test_a_disk_that_others_fill_again_and_again_costs_nothing(
    mosquitto: MosquittoFactory, tmp_path: Path, disk: Path, rounds: int
) -> None:
    broker = mosquitto(["max_queued_messages 0"])
    chance, per_round = random.Random(rounds), 1600 // rounds  # in its share of the disk: nothing has to go
    with GatewayProcess(blob_gateway(tmp_path, disk / "data", broker.url)) as gateway:
        gateway.wait_ready()
        wait_until((disk / "data" / "ballast").exists, "the ballast")
        pid, sent = gateway.pid, 0
        for _ in range(rounds):
            filler = fill(disk)
            messages = [reading_of(number, chance) for number in range(sent, sent + per_round)]
            publish(broker.port, messages)
            sent += per_round
            failures = gateway.metric("gateway_commit_failures_total")

            def full(seen: float = failures) -> bool:
                fill(disk)  # also what the ballast and the eviction give
                return gateway.metric("gateway_commit_failures_total") > seen + 1

            wait_until(full, "a disk that is full for good")
            assert "cannot be written" in gateway.log()
            filler.unlink()
            wait_until(lambda: gateway.get("/readyz"), "the gateway at work again")
            wait_until(lambda count=sent: buffered(gateway) == count, f"{sent} messages in the buffer")
            wait_until((disk / "data" / "ballast").exists, "the ballast put back")
        assert gateway.pid == pid
        assert gateway.stop() == 0
        assert gateway.audit().problems == ()
        assert stored_numbers(gateway.buffer_path) == Counter(range(sent)), "each exactly once"


@pytest.mark.slow  # it takes most of a minute on a busy machine
def test_a_disk_smaller_than_the_buffer_may_be_is_thinned_and_never_stops_the_gateway(
    mosquitto: MosquittoFactory, tmp_path: Path, disk: Path
) -> None:
    broker = mosquitto(["max_queued_messages 0"])
    chance, sent = random.Random(1), 10_000  # 7 MB, beside the ballast and what stays free
    with GatewayProcess(blob_gateway(tmp_path, disk / "data", broker.url)) as gateway:
        gateway.wait_ready()
        publish(broker.port, (reading_of(number, chance) for number in range(sent)))
        wait_until(lambda: buffered(gateway) == sent, "all messages taken in")
        wait_until(lambda: gateway.get("/readyz"), "the gateway at work")
        wait_until((disk / "data" / "ballast").exists, "the ballast")
        assert gateway.stop() == 0
        found = gateway.audit()
        assert found.problems == ()
        kept = stored_numbers(gateway.buffer_path)
        alerts = found.appended["alert"]
        lost = found.evicted["thinned"] + found.evicted.get("oldest", 0)
        assert len(kept) == sent - lost == found.messages["buffered"] - lost
        assert max(kept.values()) == 1
        assert len(kept) > sent // 4
        assert alerts > 0


# --- what gives way, and in which order ---


TRIES = 20


def blobs(count: int, chance: random.Random) -> list[NewEvent]:
    return [event(f"t/{n % 10}", chance.randbytes(700), at=n) for n in range(count)]


@pytest.fixture
def store(disk: Path) -> Iterator[Store]:
    store = Store(disk / "events.db", wal_pages=wal_pages(DISK_BYTES))
    store.open()
    yield store
    store.close()


def room_of(store: Store) -> tuple[DiskGuard, DiskSpace, list[str]]:
    alerts: list[str] = []
    space = DiskSpace(store.path, 64 * MIB)
    space.look()
    assert space.fill_ballast()
    retention = Retention(64 * MIB, HOUR_MS)
    return (
        DiskGuard(retention, lambda _store, _name, text, _details: alerts.append(text), space, **GUARD),
        space,
        alerts,
    )


def checkpointed(store: Store) -> int:
    with store.transaction():
        return store.checkpoint([])


def meet_full_disk(store: Store, room: DiskGuard, refusals: int) -> None:
    """Append as the writer does until the disk has refused that often, and has taken it all the same."""
    refused = 0
    for attempt in range(TRIES):
        try:
            room.check(store, 0)
            append(store, blobs(300, random.Random(attempt)))
        except (OperationalError, OSError):
            refused += 1
            room.release()
            store.reopen()
            room.relieve(store)
            checkpointed(store)
        else:
            if refused >= refusals:
                return
    pytest.fail(f"refused {refused} times of {TRIES}")


def test_on_a_full_disk_what_the_cloud_has_goes_first(store: Store, disk: Path) -> None:
    chance = random.Random(3)
    for _ in range(4):
        append(store, blobs(1000, chance))
    with store.transaction():
        store.move(store.claim(3000, now_ms=EPOCH_MS), Status.SYNCING, DeliveryEvent.PUBACK)
    room, space, alerts = room_of(store)
    checkpointed(store)
    fill(disk)
    meet_full_disk(store, room, 1)
    assert not space.ballast_held
    assert store.counts["evicted", "synced"] > 0
    assert not store.counts["evicted", "thinned"] or not store.counts["status", "SYNCED"]
    with store.transaction():
        room.run(store, EPOCH_MS, store.last_id())
    assert any("the disk was full" in text for text in alerts)
    with reading(store.path) as reader:
        assert audit(reader).problems == ()


def test_what_the_emergency_takes_is_one_alert_even_when_its_transaction_is_rolled_back(
    store: Store, disk: Path
) -> None:
    chance = random.Random(4)
    for _ in range(5):
        append(store, blobs(1000, chance))
    room, _, alerts = room_of(store)
    checkpointed(store)
    fill(disk)
    meet_full_disk(store, room, 2)
    thinned = store.counts["evicted", "thinned"]
    assert thinned > 0
    for _ in range(2):
        alerts.clear()
        room.run(store, EPOCH_MS, 0)
        assert (
            len([text for text in alerts if f"{thinned} events of 10 streams were evicted (thinned)" in text])
            == 1
        )
        room.rolled_back()
    with reading(store.path) as reader:
        assert audit(reader).problems == ()


def test_others_that_fill_the_disk_never_cost_the_last_quarter_of_the_share(store: Store, disk: Path) -> None:
    append(store, blobs(1500, random.Random(5)))
    room, space, _ = room_of(store)
    checkpointed(store)
    for _ in range(5):
        fill(disk)
        with suppress(OperationalError, apsw.FullError):  # there is no room even for the log
            room.relieve(store)
    assert space.budget_bytes(0) == DISK_BYTES // 4
    assert store.counts["status", "PENDING"] == 1500


def test_the_ballast_is_real_and_stays_away_while_there_is_no_room(disk: Path) -> None:
    space = DiskSpace(disk / "events.db", 64 * MIB)
    assert space.ballast_bytes == DISK_BYTES // 8
    free_bytes = space.free_bytes
    assert space.fill_ballast()
    space.look()
    assert space.free_bytes == free_bytes - space.ballast_bytes
    assert space.release_ballast()
    assert not space.release_ballast()
    fill(disk)
    space.look()
    assert space.low
    assert not space.fill_ballast()
    assert not (disk / "ballast").exists()
