"""What devices may send that nobody should: it is bounded and counted, and the others go on unharmed."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from benchmarks.topics import flood as flood_of_topics
from gateway.buffer.reader import Reader
from gateway.buffer.store import Store
from gateway.buffer.streams import CACHED_CHARS
from gateway.core.events import Message
from gateway.core.own_topics import OwnTopics
from gateway.decode.routes import RouteSpec, RouteTable
from gateway.decode.scalars import is_scalar
from gateway.lab.load import connected, encode_publish, publish_all
from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.topic_plans import MAX_TOPIC_CHARS
from gateway.testing import ManualClock
from gateway.windows.engine import WindowEngine
from gateway.windows.spec import WindowSpec
from tests.conftest import MosquittoFactory
from tests.support.buffers import EPOCH_MS, reading
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port
from tests.support.publishing import publish
from tests.support.windowing import Timeline, shipped, spec

MIB = 1024 * 1024
HOSTILE_PAYLOADS = {
    "nothing": b"",
    "garbage": random.Random(1).randbytes(1000),
    "invalid UTF-8": b'{"v":"\xff\xfe\xed\xa0\x80"}',
    "NaN": b'{"v":NaN,"w":-Infinity}',
    "a huge number": b'{"v":1e999,"w":-1e308}',
    "a long number": b'{"v":' + b"9" * 100_000 + b"}",
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"v":' * 100_000 + b"1" + b"}" * 100_000,
    "a wide object": b"{" + b",".join(b'"f%d":1' % n for n in range(50_000)) + b"}",
    "a long list": b"[" + b"1," * 100_000 + b"1]",
    "the same key again and again": b"{" + b",".join([b'"v":1'] * 50_000) + b"}",
    "an unfinished string": b'{"v":"' + b"\\" * 100_001,
    "a million letters": b'{"v":"' + b"x" * 1_000_000 + b'"}',
    "8 MiB": b"\0" * 8 * MIB,
}


def rss_bytes(gateway: GatewayProcess) -> int:
    return int(psutil.Process(gateway.pid).memory_info().rss)


def test_hostile_messages_are_kept_and_counted_and_calm_devices_get_their_aggregates(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto(["max_queued_messages 1000000", "max_inflight_messages 1000"])
    with GatewayProcess(gateway_config(tmp_path, broker.url)) as gateway:
        gateway.wait_ready()
        calm = [("sensors/calm", json.dumps({"t": EPOCH_MS + n, "v": 2})) for n in range(10)]
        publish(broker.port, calm)
        hostile = [(f"sensors/hostile{n}", payload) for n, payload in enumerate(HOSTILE_PAYLOADS.values())]
        publish(broker.port, hostile)
        long_topic = "sensors/" + "x" * (MAX_TOPIC_CHARS + 1)
        publish(broker.port, [(long_topic, b"1"), ("sensors/calm", json.dumps({"t": EPOCH_MS + 11, "v": 2}))])
        taken = 'gateway_messages_total{outcome="buffered"}'
        wait_until(lambda: gateway.metric(taken) == len(calm) + len(hostile) + 1, "all of them")
        assert gateway.metric('gateway_messages_rejected_total{reason="topic_too_long"}') == 1
        undecoded = [line for line in (gateway.get("/metrics") or "").splitlines() if "undecoded" in line]
        assert undecoded
        assert gateway.get("/readyz") is not None
        assert gateway.stop() == 0
        found = gateway.audit()
        assert found.problems == ()
        assert found.messages == {"buffered": len(calm) + len(hostile) + 1, "rejected": 1}


def test_a_flood_of_new_topics_takes_bounded_memory_and_costs_the_others_nothing(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    """Each topic is a device, a stream, and a key of a window."""
    broker = mosquitto(["max_queued_messages 1000000", "max_inflight_messages 1000"])
    topics = 20_000
    with GatewayProcess(gateway_config(tmp_path, broker.url)) as gateway:
        gateway.wait_ready()
        before_bytes = rss_bytes(gateway)
        taken = 'gateway_messages_total{outcome="buffered"}'
        for start in range(0, topics, 2000):
            flood = ((f"sensors/{n}", b'{"t":%d,"v":1}' % EPOCH_MS) for n in range(start, start + 2000))
            calm = "sensors/calm", b'{"t":%d,"v":2}' % (EPOCH_MS + start)
            publish_all(broker.host, broker.port, [*flood, calm])
        wait_until(lambda: gateway.metric(taken) == topics + topics // 2000, "the whole flood")
        # 20,000 keys with an open window each are 40 MB by themselves.
        assert rss_bytes(gateway) - before_bytes < 120 * MIB
        assert len(gateway.get("/metrics") or "") < 100_000
        assert gateway.stop() == 0
        assert gateway.audit().problems == ()
        assert gateway.audit().streams >= topics


HOSTILE_PACKETS = {
    "a topic that is no UTF-8": encode_publish("sensors/AA", b"1", 1).replace(b"AA", b"\xff\xfe"),
    "a surrogate in a topic": encode_publish("sensors/AAA", b"1", 1).replace(b"AAA", b"\xed\xa0\x80"),
    "NUL in a topic": encode_publish("sensors/\0b", b"1", 1),
    "a wildcard in a topic": encode_publish("sensors/#", b"1", 1),
    "an empty topic": encode_publish("", b"1", 1),
    "a topic longer than its packet": b"\x30\x04\xff\xffab",
    "QoS 3": b"\x36\x05\x00\x01aXX",
    "an unknown packet": b"\xf0\x00",
    "a length of five bytes": b"\x30\xff\xff\xff\xff\x7f",
}


def send_raw(port: int, packet: bytes) -> None:
    """As a device that has connected; the broker may do with it what it likes."""
    with connected("127.0.0.1", port, "hostile", clean=True) as sock, suppress(OSError):
        sock.sendall(packet)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass


@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
def test_packets_that_break_the_protocol_keep_nobody_elses_messages_out(
    mosquitto: MosquittoFactory, tmp_path: Path, kind: str
) -> None:
    if kind == "mosquitto":
        broker = mosquitto()
        port, local = broker.port, {"url": broker.url}
    else:
        port = free_port()
        local = {"url": "embedded", "listen": f"127.0.0.1:{port}"}
    with GatewayProcess(gateway_config(tmp_path, local["url"], local=local)) as gateway:
        gateway.wait_ready()
        for sent, packet in enumerate(HOSTILE_PACKETS.values(), 1):
            send_raw(port, packet)
            publish(port, [("sensors/calm", json.dumps({"t": EPOCH_MS + sent, "v": sent}))])
        wait_until(
            lambda: len([*each_calm(gateway)]) == len(HOSTILE_PACKETS), "the messages of the calm device"
        )
        assert gateway.get("/readyz") is not None
        assert gateway.stop() == 0
        assert gateway.audit().problems == ()


def test_a_device_that_floods_keeps_nobody_elses_messages_out(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker, flood, calm = mosquitto(["max_queued_messages 1000000"]), 20_000, 100
    with (
        GatewayProcess(gateway_config(tmp_path, broker.url)) as gateway,
        ThreadPoolExecutor(1) as pool,
    ):
        gateway.wait_ready()
        messages = [("sensors/flood", b'{"t":%d,"v":1}' % EPOCH_MS)] * flood
        flooding = pool.submit(publish_all, broker.host, broker.port, messages)
        for number in range(calm):
            publish(broker.port, [(f"sensors/calm{number % 10}", json.dumps({"t": EPOCH_MS, "v": number}))])
        assert flooding.result() == flood
        taken = 'gateway_messages_total{outcome="buffered"}'
        wait_until(lambda: gateway.metric(taken) == flood + calm, "everything")
        assert gateway.stop() == 0
        assert gateway.audit().problems == ()
        assert sorted(each_calm(gateway)) == [*range(calm)]


def each_calm(gateway: GatewayProcess) -> Iterator[int]:
    """The readings of the calm devices that are in the buffer."""
    with reading(gateway.buffer_path) as reader:
        for events in reader.raw_after(0):
            names = reader.names(events.stream_ids)
            for name, payload in zip(names, reader.payloads(events), strict=True):
                if name.startswith("sensors/calm"):
                    yield json.loads(payload)["v"]


@pytest.mark.slow
def test_a_million_topics_take_bounded_memory_and_what_is_beyond_the_limit_is_counted(tmp_path: Path) -> None:
    seen = list(flood_of_topics(tmp_path, 1_000_000, 256 * MIB))
    assert seen[-1].keys + seen[-1].rejected == seen[-1].topics == 1_000_000
    assert seen[-1].rejected > 0
    # After the limit nothing grows any more but the buffer's own file.
    assert seen[-1].rss_bytes - seen[len(seen) // 2].rss_bytes < 40 * MIB


def test_long_topics_are_not_remembered_by_the_thousand(tmp_path: Path) -> None:
    store = Store(tmp_path / "events.db")
    store.open()
    window = WindowSpec("w", "tumbling", route="r", fields=("v",), key="{device}", size_ms=1000, max_keys=10)
    pipeline = Pipeline(
        OwnTopics("gateway", "g1"),
        RouteTable([RouteSpec("r", "s/{device}")]),
        partial(WindowEngine, [window], {"w": shipped("stats")}, fetch=store.windows.state),
        ManualClock(EPOCH_MS),
    )
    reader = Reader(tmp_path / "events.db")
    with store.transaction():
        pipeline.restore(store, reader)
    for start in range(0, 12_000, 1000):
        topics = (f"s/{n}{'x' * 900}" for n in range(start, start + 1000))
        with store.transaction():
            pipeline.take_in(store, [Message(t, b'{"v":1}', 1, False, False, 1, 1, EPOCH_MS) for t in topics])
        with store.transaction():
            pipeline.checkpoint(store)
    assert sum(map(len, store._streams._by_name)) < CACHED_CHARS
    assert not len(pipeline.intake._plans)
    reader.close()
    store.close()


@pytest.mark.parametrize("number", [1e101, -1e200, float("inf"), float("nan"), 10**400, -(2**63) - 1])
def test_numbers_beyond_all_measure_are_no_readings(number: float) -> None:
    assert not is_scalar(number)


@pytest.mark.parametrize("plugin", ["stats", "percentiles", "delta", "counter", "circular_mean"])
def test_the_largest_readings_leave_state_that_a_checkpoint_can_hold(plugin: str) -> None:
    timeline = Timeline(spec(size_ms=1000), shipped(plugin))
    for at, value in enumerate([9.9e99, -9.9e99, 2.0**62, 0.0, 9.9e99]):
        assert is_scalar(value)
        timeline.event(at, value)
    again = timeline.restarted()
    (straight,), (restored,) = timeline.end(), again.end()
    assert restored.result == straight.result
    assert "error" not in str(straight.result)
    assert "inf" not in str(straight.result)
