"""How fast a backlog drains, beside Mosquitto's own bridge, and how long a live event takes meanwhile.

Run `.venv/bin/python -m benchmarks.bridge [--events 500000] [--live 1000000] [--folder .]`. Store, writer
and bridge are the gateway's, in this process; the cloud is a Mosquitto without subscribers; what it has
received it counts once a second. For the latency a consumer in a process of its own decodes everything.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import quantiles
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from gateway.buffer.compression import train
from gateway.buffer.store import NewEvent, Store
from gateway.core.events import Priority, Status
from gateway.lab.load import publish_all
from gateway.wire.frame import decode_batch
from tests.support.brokers import BrokerSetup, ProgramBroker
from tests.support.buffers import event
from tests.support.gateways import wait_until
from tests.support.ports import free_port
from tests.support.sending import sending

PATIENCE_S = 600.0
GROUP = 10_000
PROBES_EVERY_S = 0.05
_LINES = ("max_queued_messages 0", "max_queued_bytes 0", "sys_interval 1", "max_inflight_messages 1000")


def reading_of(number: int) -> bytes:
    value = round(random.uniform(10, 30), 1)
    sensor = {"Temperature": value, "Humidity": number % 90}
    return json.dumps({"Time": f"2024-01-01T00:00:{number % 60:02}", "BME280": sensor}).encode()


def backlog(count: int) -> list[NewEvent]:
    return [event(f"tele/dev{n % 1000}/SENSOR", reading_of(n), family="tasmota", at=n) for n in range(count)]


def fill(path: Path, events: list[NewEvent]) -> None:
    """A buffer with the dictionary that it would train."""
    store = Store(path)
    store.open()
    with store.transaction():
        store.append(events[:GROUP])
    ((family, samples, _),) = store.compressor.take_trainable()
    dictionary = train(samples)
    assert dictionary is not None
    with store.transaction():
        store.dictionaries.install(family, dictionary, 0)
    for start in range(GROUP, len(events), GROUP):
        with store.transaction():
            store.append(events[start : start + GROUP])
    store.close()


@contextmanager
def mosquitto(folder: Path, *lines: str, port: int | None = None) -> Iterator[ProgramBroker]:
    folder.mkdir(exist_ok=True)
    broker = ProgramBroker(BrokerSetup(port or free_port(), (), (*_LINES, *lines), folder, False))
    broker.start()
    try:
        yield broker
    finally:
        broker.close()


class Counts:
    """What a broker counts of itself, each second."""

    def __init__(self, port: int) -> None:
        self.bytes_received = self.published = 0
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        for what in ("bytes/received", "publish/messages/received"):
            self._client.subscribe(f"$SYS/broker/{what}")
        self._client.loop_start()

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        if "bytes" in message.topic:
            self.bytes_received = int(message.payload)
        else:
            self.published = int(message.payload)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def ours(folder: Path, events: list[NewEvent], **spec: Any) -> tuple[float, int]:
    """Events a second, and bytes on the wire."""
    path = folder / "events.db"
    for file in folder.glob("events.db*"):
        file.unlink()
    fill(path, events)
    with mosquitto(folder / "cloud") as cloud:
        started_s = time.monotonic()
        with sending(path, cloud.port, [], **spec) as sender:

            def acked() -> int:
                return sum(bridge.metrics.events_acked for bridge in sender.bridges)

            wait_until(lambda: acked() >= len(events), "the drain", PATIENCE_S)
            took_s = time.monotonic() - started_s
            return len(events) / took_s, sum(bridge.metrics.wire_bytes for bridge in sender.bridges)


def mosquittos_own(folder: Path, events: list[NewEvent]) -> tuple[float, int]:
    """The same messages, queued in a Mosquitto for its bridge."""
    port = free_port()
    lines = ["connection up", f"address 127.0.0.1:{port}", "topic # out 1", "restart_timeout 1"]
    lines += ["bridge_protocol_version mqttv50", "cleansession false"]
    with mosquitto(folder / "local", *lines) as local:
        publish_all("127.0.0.1", local.port, ((each.topic, each.payload) for each in events))
        with mosquitto(folder / "cloud", port=port) as cloud:
            counts = Counts(port)
            wait_until(lambda: ".up (" in cloud.log(), "the bridge", PATIENCE_S)
            started_s = time.monotonic()
            wait_until(lambda: counts.published >= len(events), "its drain", PATIENCE_S)
            took_s = time.monotonic() - started_s
            counts.close()
            return len(events) / took_s, counts.bytes_received


def consume(port: int, ready: Connection, found: Connection) -> None:
    """Say when each probe arrived: its payload is when it was appended."""
    client = paho.Client(CallbackAPIVersion.VERSION2)

    def on_message(_client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        now_s = time.monotonic()
        for one in decode_batch(bytes(message.payload)).events:
            if one.stream.startswith("probe/"):
                found.send((one.stream, now_s - float(one.payload)))

    client.on_message = on_message
    client.on_subscribe = lambda *_: ready.send(True)
    client.connect("127.0.0.1", port)
    client.subscribe("gateway/g1/up/batch/+", 1)
    client.loop_forever()


def latency(folder: Path, count: int) -> dict[str, list[float]]:
    """Seconds from append to arrival of probes, while `count` events drain."""
    path = folder / "live.db"
    fill(path, backlog(count))
    context = multiprocessing.get_context("spawn")
    (is_ready, ready), (arrived, found) = context.Pipe(False), context.Pipe(False)
    times: dict[str, list[float]] = {"probe/critical": [], "probe/raw": []}
    with mosquitto(folder / "cloud") as cloud:
        consumer = context.Process(target=consume, args=(cloud.port, ready, found), daemon=True)
        consumer.start()
        is_ready.recv()
        with sending(path, cloud.port, []) as sender:
            # What is there when the drain begins is backlog, and its stream waits its turn.
            wait_until(lambda: sender.writer.pending_events < count, "the drain to begin", PATIENCE_S)
            while sender.writer.pending_events > count // 20:
                now = str(time.monotonic()).encode()
                priorities = (("probe/critical", Priority.CRITICAL), ("probe/raw", Priority.NORMAL))
                sender.append([event(topic, now, priority=priority) for topic, priority in priorities])
                time.sleep(PROBES_EVERY_S)
            while arrived.poll(2.0):
                topic, took_s = arrived.recv()
                times[topic].append(took_s)
            assert sender.counts()[Status.FAILED] == 0
        consumer.kill()
    return times


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=500_000, help="how many drain in each form")
    parser.add_argument("--live", type=int, default=1_000_000, help="and while the latency is measured")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the files go")
    given = parser.parse_args()
    events = backlog(given.events)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        base_rate, base_bytes = mosquittos_own(folder, events)
        print(f"{'Mosquitto bridge':34} {base_rate:10,.0f}/s 1.00 {base_bytes:12,} bytes 1.00", flush=True)
        for what, spec in (
            ("batch", {}),
            ("batch, 2 connections", {"connections": 2}),
            ("batch of 5000", {"batch_events": 5000}),
            ("batch of 5000, 2 connections", {"batch_events": 5000, "connections": 2}),
            ("event", {"format": "event"}),
            ("event, user properties", {"format": "event", "short_identity": False}),
        ):
            rate, size = ours(folder, events, **spec)
            ratios = f"{rate / base_rate:.2f} {size:12,} bytes {size / base_bytes:.2f}"
            print(f"{what:34} {rate:10,.0f}/s {ratios}", flush=True)
        if given.live:
            for topic, times in latency(folder, given.live).items():
                cuts = quantiles(times, n=100)
                print(f"{topic}: {len(times)}, p50 {1000 * cuts[49]:.0f} ms, p99 {1000 * cuts[98]:.0f} ms")


if __name__ == "__main__":
    main()
