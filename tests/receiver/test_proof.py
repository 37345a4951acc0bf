"""The proof of completeness, end to end: outages, crashes, thinning, and rows that somebody took away."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.conftest import MosquittoFactory
from tests.support import commands
from tests.support.brokers import Broker
from tests.support.gateways import PATIENCE_S, GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish, settle

EPOCH_MS = 1_700_000_000_000
KEEPS_ALL = ["max_queued_messages 0", "autosave_on_changes true", "autosave_interval 1"]


def numbered(start: int, end: int, padding_bytes: int = 0) -> list[tuple[str, bytes]]:
    chance = random.Random(start)
    return [
        (
            f"sensors/d{n % 10}",
            json.dumps({"n": n, "v": 1, "t": EPOCH_MS, "x": chance.randbytes(padding_bytes).hex()}).encode(),
        )
        for n in range(start, end)
    ]


class Consumer:
    """`gateway receive` into one output."""

    def __init__(self, cloud: Broker, output: str) -> None:
        self._command = ["receive", "--output", output, "--json"]
        self._url = ["--url", cloud.url]

    def _run(self, *options: str) -> tuple[int, dict[str, Any]]:
        done = commands.gateway(*self._command, *options)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def once(self) -> dict[str, Any]:
        code, summary = self._run(*self._url, "--once", "--idle", "1s")
        assert code == 0
        return summary

    def verify(self) -> tuple[int, dict[str, Any]]:
        code, report = self._run("--verify")
        return code, report["verify"]

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "gateway", *self._command, *self._url]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait_until_audited(self, gateway: GatewayProcess, local: Broker, appended: int) -> dict[str, Any]:
        """Receive until an audit of the empty gateway tells of all the events that it has taken in."""
        raw = 'gateway_events_appended_total{kind="raw"}'
        wait_until(lambda: gateway.metric(raw) >= appended, "everything is taken in")
        for status in ("pending", "syncing"):
            name = f'gateway_buffer_events{{status="{status}"}}'
            wait_until(lambda name=name: gateway.metric(name) == 0, f"nothing is {status}")
        drained_ms = time.time_ns() // 1_000_000 + 600  # the checkpoint comes twice a second
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            self.once()
            _, found = self.verify()
            audited = [word["audited_ms"] for word in found["gateways"].values()]
            known = found["received"] + found["missing"] + sum(found["declared"].values())
            if audited and min(audited) > drained_ms and known >= appended:
                return found
            assert time.monotonic() < deadline_s, found


@pytest.fixture
def cloud(mosquitto: MosquittoFactory, tmp_path: Path) -> Broker:
    folder = tmp_path / "cloud"
    folder.mkdir()
    return mosquitto(KEEPS_ALL, persistence=folder)


def config(folder: Path, local: Broker, cloud: Broker, **more: Any) -> Path:
    return gateway_config(folder, local.url, cloud={"url": cloud.url, "audit": "500ms"}, **more)


def outputs(tmp_path: Path) -> dict[str, str]:
    return {"ndjson": str(tmp_path / "events.ndjson"), "sqlite": f"sqlite:///{tmp_path / 'events.db'}"}


def remove_one(tmp_path: Path, kind: str, stream: str, number: int) -> None:
    if kind == "sqlite":
        with apsw.Connection(str(tmp_path / "events.db")) as table:
            table.execute(
                "DELETE FROM gateway_events WHERE stream = ? AND sequence_num = ?", (stream, number)
            )
        return
    path = tmp_path / "events.ndjson"
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [
        line
        for line in lines
        if (json.loads(line)["stream"], json.loads(line)["sequence_num"]) != (stream, number)
    ]
    assert len(kept) == len(lines) - 1
    path.write_bytes(b"".join(kept))


def numbers_of(tmp_path: Path, kind: str) -> Counter[int]:
    if kind == "sqlite":
        with apsw.Connection(str(tmp_path / "events.db")) as table:
            rows = table.execute("SELECT payload ->> '$.n' FROM gateway_events WHERE kind = 'raw'").fetchall()
        return Counter(int(str(number)) for (number,) in rows)
    lines = map(json.loads, (tmp_path / "events.ndjson").read_text().splitlines())
    return Counter(line["payload"]["n"] for line in lines if line["kind"] == "raw")


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("ndjson", marks=pytest.mark.slow)])
def test_after_an_outage_and_crashes_of_gateway_and_receiver_it_is_complete_and_a_missing_event_is_named(
    mosquitto: MosquittoFactory, cloud: Broker, tmp_path: Path, kind: str
) -> None:
    local = mosquitto(KEEPS_ALL)
    consumer = Consumer(cloud, outputs(tmp_path)[kind])
    consumer.once()  # leaves a session behind, for which the broker keeps what comes
    chance = random.Random(5)
    with GatewayProcess(config(tmp_path, local, cloud)) as gateway:
        gateway.wait_ready()
        sent = 0
        for round_ in range(4):
            receiver = consumer.start()
            if round_ == 2:
                with gateway.frozen():
                    settle(cloud.port)
                    cloud.kill()
            publish(local.port, numbered(sent, sent + 500))
            sent += 500
            time.sleep(chance.uniform(0.2, 0.8))  # so that the kills hit different moments
            if round_ == 1:
                gateway.kill()
                gateway.start()
                gateway.wait_ready()
            receiver.kill()
            receiver.wait()
            if round_ == 2:
                cloud.start()
        found = consumer.wait_until_audited(gateway, local, sent)
    assert found["complete"], found
    assert (found["missing"], found["unproven"], found["duplicates"], found["declared"]) == (0, 0, 0, {})
    arrived = numbers_of(tmp_path, kind)
    del arrived[-1]
    assert arrived == Counter(range(sent))

    remove_one(tmp_path, kind, "sensors/d3", 17)
    code, found = consumer.verify()
    assert (code, found["complete"], found["missing"]) == (1, False, 1)
    assert found["missing_gaps"] == [{"gateway_id": "g1", "stream": "sensors/d3", "first": 17, "last": 17}]


def test_what_a_full_buffer_gave_up_is_declared_and_everything_else_is_there(
    mosquitto: MosquittoFactory, cloud: Broker, tmp_path: Path
) -> None:
    local = mosquitto(KEEPS_ALL)
    consumer = Consumer(cloud, outputs(tmp_path)["ndjson"])
    consumer.once()
    small = {"max_size": "2MiB", "checkpoint_interval": "500ms"}
    with GatewayProcess(config(tmp_path, local, cloud, buffer=small)) as gateway:
        gateway.wait_ready()
        cloud.stop()
        sent = 9000
        publish(local.port, numbered(0, sent, padding_bytes=300))
        wait_until(
            lambda: gateway.metric('gateway_events_evicted_total{reason="thinned"}') > 1000, "thinning"
        )
        cloud.start()
        found = consumer.wait_until_audited(gateway, local, sent)
        thinned = gateway.metric('gateway_events_evicted_total{reason="thinned"}')
        oldest = gateway.metric('gateway_events_evicted_total{reason="oldest"}')
    assert found["complete"], found
    assert sum(found["declared"].values()) == thinned + oldest
    lines = (tmp_path / "events.ndjson").read_text().splitlines()
    raw = [e for e in map(json.loads, lines) if e["kind"] == "raw" and e["payload"]["n"] >= 0]
    assert len(raw) == sent - thinned - oldest
