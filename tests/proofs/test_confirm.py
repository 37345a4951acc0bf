"""`cloud.confirm: receiver`: brokers and receivers may die, an event leaves only when a receiver has it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.conftest import MosquittoFactory
from tests.support.brokers import Broker
from tests.support.buffers import reading
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish

EPOCH_MS = 1_700_000_000_000
KEEPS_NOTHING = ["max_queued_messages 0"]  # and it is killed before it saves anything
CLOUD = {"confirm": "receiver", "audit": "1s", "reconnect_max": "1s"}


def numbered(start: int, end: int) -> list[tuple[str, bytes]]:
    return [
        (f"sensors/d{n % 10}", json.dumps({"n": n, "v": 1, "t": EPOCH_MS}).encode())
        for n in range(start, end)
    ]


class Receiver:
    """`gateway receive` into one output, as a process that may be killed."""

    def __init__(self, folder: Path, cloud: Broker) -> None:
        self.path = folder / "events.ndjson"
        self._command = [sys.executable, "-m", "gateway", "receive", "--output", str(self.path)]
        self._url = ["--url", cloud.url]
        self._log = folder / "receive.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*self._command, *self._url], stdout=log, stderr=log)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def run(self, *options: str, url: bool = True) -> tuple[int, dict[str, Any]]:
        """Run it to its end; its exit code and report."""
        command = [*self._command, *(self._url if url else ()), "--json", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def numbers(self) -> Counter[int]:
        """How often each number of a device is in the file."""
        if not self.path.exists():
            return Counter()
        lines = [
            json.loads(line)
            for line in self.path.read_bytes().splitlines(keepends=True)
            if line[-1:] == b"\n"
        ]
        return Counter(line["payload"]["n"] for line in lines if line["stream"].startswith("sensors/"))

    @property
    def log(self) -> str:
        return self._log.read_text()


@contextmanager
def running(folder: Path, cloud: Broker) -> Iterator[Receiver]:
    receiver = Receiver(folder, cloud)
    try:
        yield receiver
    finally:
        receiver.kill()


def counters(gateway: GatewayProcess) -> dict[tuple[str, str], int]:
    with reading(gateway.buffer_path) as reader:
        return reader.counters()


def synced(gateway: GatewayProcess) -> bool:
    found = counters(gateway)
    waiting = sum(found.get(("status", name), 0) for name in ("PENDING", "SYNCING"))
    return not waiting and found.get(("status", "SYNCED"), 0) > 0


def has_some(receiver: Receiver, count: int) -> bool:
    return len(receiver.numbers()) >= count


def has_all(receiver: Receiver, count: int) -> bool:
    return len(receiver.numbers()) == count


@pytest.mark.slow
def test_what_a_broker_acknowledged_and_lost_goes_again(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    local, cloud = mosquitto(), mosquitto(KEEPS_NOTHING)
    config = gateway_config(tmp_path, local.url, cloud.url, cloud={"url": cloud.url, **CLOUD})
    with GatewayProcess(config) as gateway, running(tmp_path, cloud) as receiver:
        gateway.wait_ready()
        receiver.start()
        publish(local.port, numbered(0, 100))
        wait_until(lambda: has_all(receiver, 100), "the first events")
        receiver.kill()
        publish(local.port, numbered(100, 600))
        wait_until(lambda: synced(gateway), "the broker takes them for a receiver that is away")
        cloud.kill()
        cloud.start()
        receiver.start()
        wait_until(lambda: has_all(receiver, 600), "what the broker lost")
        assert set(receiver.numbers().values()) == {1}
        assert counters(gateway)["resent", ""] >= 500
        assert "go again" in gateway.log()


@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_everything_is_at_the_receiver_once_whoever_dies(
    mosquitto: MosquittoFactory, tmp_path: Path, rounds: int
) -> None:
    chance = random.Random(rounds)
    local, cloud = mosquitto(), mosquitto(KEEPS_NOTHING)
    buffer = {"checkpoint_interval": "200ms", "keep_synced": "1s"}
    config = gateway_config(tmp_path, local.url, cloud.url, cloud={"url": cloud.url, **CLOUD}, buffer=buffer)
    sent = 0
    with GatewayProcess(config) as gateway, running(tmp_path, cloud) as receiver:
        gateway.wait_ready()
        receiver.start()
        for _ in range(rounds):
            publish(local.port, numbered(sent, sent + 500))
            sent += 500
            goal = chance.randrange(sent - 500, sent)
            wait_until(partial(has_some, receiver, goal), f"{goal} events")
            victims: tuple[Broker | Receiver, ...] = chance.choice(
                [(cloud,), (receiver,), (receiver, cloud), (cloud, receiver)]
            )
            for victim in victims:
                victim.kill()
            publish(local.port, numbered(sent, sent + 200))
            sent += 200
            for victim in victims:
                victim.start()
        wait_until(lambda: has_all(receiver, sent), "all events at the receiver")
        assert set(receiver.numbers().values()) == {1}
        wait_until(
            lambda: counters(gateway).get(("evicted", "synced"), 0) >= sent, "the buffer lets go of them"
        )
        receiver.kill()
        receiver.run("--once", "--idle", "2s")
    code, report = receiver.run("--verify", url=False)
    assert not report["verify"]["missing"], report
    assert code == 0, report


@pytest.mark.slow
def test_repair_asks_for_what_the_output_has_lost(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    local, cloud = mosquitto(), mosquitto()
    config = gateway_config(tmp_path, local.url, cloud.url, cloud={"url": cloud.url, **CLOUD})
    with GatewayProcess(config) as gateway, running(tmp_path, cloud) as receiver:
        gateway.wait_ready()
        receiver.run("--once", "--idle", "500ms")  # leaves its session behind
        publish(local.port, numbered(0, 100))
        wait_until(lambda: synced(gateway), "the broker takes them")
        receiver.run("--once", "--idle", "2s")
        assert has_all(receiver, 100)
        kept = receiver.path.read_bytes().splitlines(keepends=True)
        receiver.path.write_bytes(b"".join(kept[:20] + kept[60:]))
        receiver.run("--once", "--idle", "2s", "--repair", "--verify")
        assert has_all(receiver, 100)
        assert set(receiver.numbers().values()) == {1}
        assert counters(gateway)["resent", ""] == 40


@pytest.mark.slow
def test_events_stay_while_no_receiver_confirms(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    local, cloud = mosquitto(), mosquitto()
    buffer = {"checkpoint_interval": "200ms", "keep_synced": "100ms"}
    config = gateway_config(
        tmp_path,
        local.url,
        cloud.url,
        cloud={"url": cloud.url, **CLOUD, "confirm_silent_after": "1s"},
        buffer=buffer,
    )
    with GatewayProcess(config) as gateway, running(tmp_path, cloud) as receiver:
        gateway.wait_ready()
        publish(local.port, numbered(0, 100))
        wait_until(lambda: synced(gateway), "the broker takes them")
        wait_until(lambda: "wait for a receiver to confirm them" in gateway.log(), "an alert")
        assert ("evicted", "synced") not in counters(gateway)
        receiver.start()
        wait_until(lambda: has_all(receiver, 100), "what the receiver never got")
        wait_until(
            lambda: counters(gateway).get(("evicted", "synced"), 0) >= 100, "the buffer lets go of them"
        )


def test_a_forged_a_stale_and_a_broken_statement_change_nothing_wrong(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local, cloud = mosquitto(), mosquitto()
    buffer = {"checkpoint_interval": "200ms", "keep_synced": "100ms"}
    config = gateway_config(tmp_path, local.url, cloud.url, cloud={"url": cloud.url, **CLOUD}, buffer=buffer)
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        publish(local.port, numbered(0, 100))
        wait_until(lambda: synced(gateway), "the broker takes them")
        with reading(gateway.buffer_path) as reader:
            good = {"version": 1, "gateway": "g1", "buffer_id": reader.buffer_id, "audit_ms": 1}
        everything = [{"stream": f"sensors/d{n}", "have": [[1, 10]], "missing": []} for n in range(10)]
        told: list[dict[str, Any] | bytes] = [
            b"not JSON",
            good | {"buffer_id": "00" * 8, "streams": everything},
            good | {"gateway": "g2", "streams": everything},
            good | {"audit_ms": 1 << 60, "streams": everything},
            good | {"streams": [{"stream": "sensors/d0", "have": [[1, 1 << 40]]}]},
            good | {"streams": [{"stream": "unknown", "have": [[1, 2]]}]},
        ]
        retained = good | {"streams": everything}
        tell(cloud, retained, retain=True)
        for one in told:
            tell(cloud, one)
        wait_until(lambda: gateway.log().count("ignored") >= 3, "all of them are refused")
        assert gateway.log().count("/down/confirm: rejected") == 3
        gateway.kill()
        gateway.start()
        gateway.wait_ready()
        wait_until(lambda: "a retained confirmation is an old one" in gateway.log(), "the retained one")


def tell(cloud: Broker, statement: dict[str, Any] | bytes, *, retain: bool = False) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", cloud.port)
    client.loop_start()
    payload = statement if isinstance(statement, bytes) else json.dumps(statement).encode()
    client.publish("gateway/g1/down/confirm", payload, qos=1, retain=retain).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()
