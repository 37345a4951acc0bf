"""Kill -9 at random moments under load: nothing lost, nothing twice, every sum balances (P1, P2, P3, P5)."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from gateway.buffer.reader import Reader
from gateway.core.events import Kind
from tests.conftest import MosquittoFactory
from tests.support.gateways import GatewayProcess, gateway_config, wait_until

RATE_PER_S = 500
DEVICES = 20
EPOCH_MS = 1_700_000_000_000


class Publisher(threading.Thread):
    """Publishes numbered readings at QoS 1 and knows which the broker has acknowledged: the oracle."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.acknowledged = 0
        self.sent = 0
        self._stopping = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="publisher")
        self._client.on_publish = self._on_publish
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def run(self) -> None:
        started_s = time.monotonic()
        while not self._stopping.is_set():
            due = int((time.monotonic() - started_s) * RATE_PER_S)
            for number in range(self.sent, due):
                self._client.publish(f"sensors/d{number % DEVICES}", reading(number), qos=1)
            self.sent = max(due, self.sent)
            self._stopping.wait(0.01)

    def finish(self) -> int:
        """Stop, and wait until the broker has acknowledged everything; returns how many there were."""
        self._stopping.set()
        self.join()
        wait_until(lambda: self.acknowledged == self.sent, "the broker's PUBACKs")
        self._client.loop_stop()
        return self.sent

    def _on_publish(self, *_: object) -> None:
        self.acknowledged += 1


def reading(number: int) -> bytes:
    """A reading whose value and time follow from its number, so that a mix-up shows."""
    return json.dumps({"n": number, "v": number % 97, "t": EPOCH_MS + number * 50}).encode()


def kill_in_a_loop(gateway: GatewayProcess, rounds: int, chance: random.Random) -> None:
    """Every round ends with a gateway that was just started."""
    for _ in range(rounds):
        if chance.random() < 0.8:  # else it dies while it starts
            gateway.wait_ready()
        time.sleep(chance.uniform(0, 1.5))
        gateway.kill()
        gateway.start()


def check_nothing_lost_nothing_twice(gateway: GatewayProcess, sent: int) -> None:
    numbers = Counter(payload["n"] for payload in gateway.raw_payloads())
    missing = [n for n in range(sent) if n not in numbers]
    twice = [n for n, count in numbers.items() if count > 1]
    assert not missing, f"{len(missing)} lost, first {missing[:5]}"
    assert not twice, f"{len(twice)} twice, first {twice[:5]}"
    found = gateway.audit()
    assert not found.problems
    assert found.messages["buffered"] == sent


def check_aggregates(gateway: GatewayProcess, sent: int) -> None:
    """Each closed minute of each device once, with the count and sum that follow from the numbers."""
    expected: dict[tuple[str, int], list[int]] = {}
    for number in range(sent):
        minute = (EPOCH_MS + number * 50) // 60_000 * 60_000
        total = expected.setdefault((f"d{number % DEVICES}", minute), [0, 0])
        total[0] += 1
        total[1] += number % 97
    aggregates = derived_payloads(gateway.buffer_path)
    keys = Counter((a["key"], a["start_ms"], a["revision"]) for a in aggregates)
    assert all(count == 1 for count in keys.values()), "an aggregate stands twice"
    assert aggregates, "no window ever closed"
    for a in aggregates:
        assert [a["count"], a["result"]["sum"]] == expected[a["key"], a["start_ms"]], a
    last_minute = (EPOCH_MS + (sent - DEVICES) * 50) // 60_000 * 60_000
    assert len(keys) == sum(minute < last_minute for _, minute in expected)


def derived_payloads(path: Path) -> list[dict[str, Any]]:
    reader = Reader(path)
    try:
        events = reader.derived_after(0, 1_000_000)
        assert {*events.kinds} <= {Kind.AGGREGATE}
        return [json.loads(payload) for payload in reader.payloads(events)]
    finally:
        reader.close()


@pytest.mark.parametrize(
    "rounds", [pytest.param(4, id="short"), pytest.param(20, id="long", marks=pytest.mark.slow)]
)
def test_kill_minus_9_in_a_loop_loses_nothing_and_stores_nothing_twice(
    mosquitto: MosquittoFactory, tmp_path: Path, rounds: int
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    logging.getLogger(__name__).warning("seed %d", seed)  # pytest shows it when the test fails
    broker = mosquitto(["max_queued_messages 0", "max_inflight_messages 100"])
    cloud = mosquitto(["max_queued_messages 0"])
    with GatewayProcess(gateway_config(tmp_path, broker.url, cloud.url)) as gateway:
        gateway.wait_ready()  # so that the broker knows the session and queues for it
        publisher = Publisher(broker.port)
        publisher.start()

        kill_in_a_loop(gateway, rounds, random.Random(seed))

        gateway.wait_ready()
        sent = publisher.finish()
        buffered = 'gateway_messages_total{outcome="buffered"}'
        wait_until(lambda: gateway.metric(buffered) >= sent, f"{sent} messages in the buffer")
        wait_until(lambda: gateway.metric('gateway_buffer_events{status="pending"}') == 0, "the drain")
        assert gateway.stop() == 0
        check_nothing_lost_nothing_twice(gateway, sent)
        check_aggregates(gateway, sent)
