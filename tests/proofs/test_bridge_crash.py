"""`kill -9` of the gateway while its backlog drains: all of it arrives, nothing twice after the dedupe."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from gateway.buffer.store import NewEvent
from gateway.core.events import Status
from tests.conftest import MosquittoFactory
from tests.receiver.test_proof import Consumer
from tests.support.buffers import append, event, opened, reading
from tests.support.faulty_line import FaultyLine
from tests.support.gateways import GatewayProcess, gateway_config, wait_until

log = logging.getLogger(__name__)

NOBODY = "mqtt://127.0.0.1:9"


def numbered(count: int) -> list[NewEvent]:
    return [
        event(f"sensors/d{n % 10}", json.dumps({"n": n, "v": 1, "t": 1_700_000_000_000}).encode(), at=n)
        for n in range(count)
    ]


def statuses(path: Path) -> dict[int, int]:
    with reading(path) as reader:
        return dict(reader.count_by_status())


@pytest.mark.parametrize("kills", [pytest.param(4, id="short"), pytest.param(50, marks=pytest.mark.slow)])
def test_kills_while_the_backlog_drains_cost_duplicates_at_most(
    mosquitto: MosquittoFactory, tmp_path: Path, kills: int
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    chance, count = random.Random(seed), 1000 + 300 * kills
    log.warning("seed %d", seed)
    (tmp_path / "cloud").mkdir()
    cloud = mosquitto(["max_queued_messages 0"], persistence=tmp_path / "cloud")
    line = FaultyLine(cloud.port)
    line.rate_bytes_per_s = 60_000
    settings = {"url": line.url, "audit": "500ms", "encoding": "none", "connections": 2}
    gateway = GatewayProcess(gateway_config(tmp_path, NOBODY, cloud=settings))
    gateway.buffer_path.parent.mkdir()
    with opened(gateway.buffer_path) as store:
        append(store, numbered(count))
    consumer = Consumer(cloud, str(tmp_path / "events.ndjson"))
    consumer.once()  # leaves a session behind, for which the broker keeps what comes
    under_way = 0
    with line.running():
        for _ in range(kills):
            kill_at_bytes = line.up_bytes + chance.randrange(1_000, 25_000)
            gateway.start()
            wait_until(lambda at=kill_at_bytes: line.up_bytes >= at, "bytes of the drain")
            wait_until(lambda: held_under_way(gateway), "events on their way")
            gateway.kill()
            under_way += statuses(gateway.buffer_path).get(Status.SYNCING, 0) > 0
        line.rate_bytes_per_s = None
        with gateway:
            waiting = (Status.PENDING, Status.SYNCING)
            wait_until(lambda: not any(map(statuses(gateway.buffer_path).get, waiting)), "the drain")
            wait_until(lambda: complete(consumer), "the proof")
    assert under_way == kills, "each kill hit events that were on their way"
    lines = map(json.loads, (tmp_path / "events.ndjson").read_text().splitlines())
    arrived = Counter(each["payload"]["n"] for each in lines if each["kind"] == "raw")
    assert arrived == Counter(range(count))


def held_under_way(gateway: GatewayProcess) -> bool:
    """Freeze the gateway; return True if it stands still with events on their way, else let it go on."""
    os.kill(gateway.pid, signal.SIGSTOP)
    if statuses(gateway.buffer_path).get(Status.SYNCING, 0) > 0:
        return True
    os.kill(gateway.pid, signal.SIGCONT)
    return False


def complete(consumer: Consumer) -> bool:
    consumer.once()
    _, found = consumer.verify()
    assert found["declared"] == {}
    return bool(found["complete"] and found["gateways"] and not found["unproven"])
