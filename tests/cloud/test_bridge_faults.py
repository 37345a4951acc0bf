"""The uplink through outages and bad lines: complete afterwards, in order per stream and priority, with the
duplicates counted. A real Mosquitto is the cloud."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.buffer.store import NewEvent
from gateway.core.events import Priority, Status
from tests.conftest import MosquittoFactory
from tests.support.brokers import Broker
from tests.support.buffers import event
from tests.support.faulty_line import FaultyLine
from tests.support.gateways import wait_until
from tests.support.publishing import settle
from tests.support.sending import Consumer, Sender, check_complete, sending

# What it has acknowledged is on its disk or at the consumer at the end of the same turn of its loop.
SAVES_AT_ONCE = [
    *("max_queued_messages 0", "max_inflight_messages 1000"),
    *("autosave_on_changes true", "autosave_interval 1"),
]


def traffic(count: int, start: int = 0) -> list[NewEvent]:
    """Events of ten streams in two priorities, with payloads that compress badly and say which they are."""
    chance = random.Random(start)
    return [
        event(
            f"s/{n % 10}",
            f"{n} {chance.randbytes(10).hex()}".encode(),
            priority=Priority.HIGH if n % 7 == 0 else Priority.NORMAL,
        )
        for n in range(start, start + count)
    ]


def check_in_the_middle(sender: Sender) -> None:
    counts = sender.counts()
    assert counts[Status.SYNCED], "the outage came before the drain"
    assert counts[Status.PENDING] + counts[Status.SYNCING], "the outage came after the drain"


def stop_and_start(broker: Broker, sender: Sender, _line: FaultyLine) -> None:
    broker.stop()
    check_in_the_middle(sender)
    broker.start()


def kill_and_start(broker: Broker, sender: Sender, line: FaultyLine) -> None:
    line.holds = True
    settle(broker.port)  # else it could lose what it has acknowledged just now
    broker.kill()
    check_in_the_middle(sender)
    line.holds = False
    broker.start()


def freeze(broker: Broker, sender: Sender, _line: FaultyLine) -> None:
    failures = sender.links[0].metrics.failures
    broker.pause()
    check_in_the_middle(sender)
    wait_until(lambda: sender.links[0].metrics.failures > failures, "the silence is noticed")
    broker.resume()


@pytest.mark.parametrize("outage", [stop_and_start, kill_and_start, freeze])
def test_an_outage_in_the_middle_costs_duplicates_at_most(
    mosquitto: MosquittoFactory, tmp_path: Path, outage: Callable[[Broker, Sender, FaultyLine], None]
) -> None:
    cloud = mosquitto(SAVES_AT_ONCE, persistence=tmp_path)
    line = FaultyLine(cloud.port)
    sent = traffic(3000)
    timings: dict[str, Any] = {"ack_timeout_s": 1.0, "batch_events": 20, "in_flight": 2, "connections": 2}
    with (
        line.running(),
        Consumer(cloud.port) as consumer,
        sending(tmp_path / "events.db", line.port, sent[:1000], **timings) as sender,
    ):
        consumer.wait_for(100)
        sender.append(sent[1000:])
        outage(cloud, sender, line)
        for link in sender.links:
            link.retry_now()
        sender.wait_drained()
        consumer.wait_for(3000)
    check_complete(consumer.events, sent)


def test_lost_pubacks_give_duplicates_and_nothing_else(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    cloud, sent = mosquitto(["max_queued_messages 0"]), traffic(500)
    line = FaultyLine(cloud.port)
    line.lose_pubacks = True
    with (
        line.running(),
        Consumer(cloud.port) as consumer,
        sending(tmp_path / "events.db", line.port, sent, ack_timeout_s=0.3) as sender,
    ):
        wait_until(lambda: line.connections >= 3, "answers are missed, twice")
        assert sender.bridges[0].metrics.events_acked == 0
        line.lose_pubacks = False
        sender.wait_drained()
        consumer.wait_for(500)
        assert line.lost_pubacks
    assert check_complete(consumer.events, sent) > 0


def test_one_lost_puback_among_others_is_noticed(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    cloud, sent = mosquitto(["max_queued_messages 0"]), traffic(2000)
    line = FaultyLine(cloud.port)
    with (
        line.running(),
        Consumer(cloud.port) as consumer,
        sending(tmp_path / "events.db", line.port, [], ack_timeout_s=2.0, batch_events=10) as sender,
    ):
        wait_until(lambda: sender.links[0].connected, "the connection")
        line.lose_pubacks = True
        sender.append(sent[:5])
        wait_until(lambda: line.lost_pubacks, "one is lost")
        line.lose_pubacks = False
        for at in range(5, 2000, 5):  # answers keep coming, so that silence alone would show nothing
            sender.append(sent[at : at + 5])
        sender.wait_drained()
        assert sender.links[0].metrics.failures == 1
        consumer.wait_for(2000)
    assert check_complete(consumer.events, sent) > 0


def test_a_line_that_is_always_cut_after_some_bytes_is_got_over_with_smaller_frames(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    cloud, sent = mosquitto(["max_queued_messages 0"]), traffic(300)
    line = FaultyLine(cloud.port)
    line.cut_after_bytes = 6000  # less than the frame of all 300
    with (
        line.running(),
        Consumer(cloud.port) as consumer,
        sending(tmp_path / "events.db", line.port, sent) as sender,
    ):
        sender.wait_drained()
        consumer.wait_for(300)
        assert line.cuts > 1
    check_complete(consumer.events, sent)


def test_a_delay_of_half_a_second_each_way_is_no_failure(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    cloud, sent = mosquitto(["max_queued_messages 0"]), traffic(2000)
    line = FaultyLine(cloud.port)
    line.delay_s = 0.5
    with (
        line.running(),
        Consumer(cloud.port) as consumer,
        sending(tmp_path / "events.db", line.port, sent, ack_timeout_s=5.0) as sender,
    ):
        sender.wait_drained()
        consumer.wait_for(2000)
        assert sender.links[0].metrics.failures == 0
    assert check_complete(consumer.events, sent) == 0


def test_64_kbit_a_second_never_meet_the_ack_timeout(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    """The frame of all of them would take longer than the ack timeout here."""
    cloud, sent = mosquitto(["max_queued_messages 0"]), traffic(1100)
    line = FaultyLine(cloud.port)
    line.rate_bytes_per_s = 8000
    with (
        line.running(),
        Consumer(cloud.port) as consumer,
        sending(tmp_path / "events.db", line.port, sent, ack_timeout_s=3.0) as sender,
    ):
        sender.wait_drained()
        consumer.wait_for(1100)
        assert line.up_bytes > 3 * 8000
        assert sender.links[0].metrics.failures == 0
        assert sender.bridges[0].metrics.frames > 4
    assert check_complete(consumer.events, sent) == 0


def test_what_is_urgent_does_not_wait_behind_what_the_bandwidth_takes_minutes_for(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    cloud, draw = mosquitto(["max_queued_messages 0"]), random.Random(1)
    backlog = [event(f"t/{n % 5}", draw.randbytes(100)) for n in range(5000)]  # a minute and more
    with (
        Consumer(cloud.port) as consumer,
        sending(tmp_path / "events.db", cloud.port, backlog, bandwidth=8_000) as sender,
    ):
        consumer.wait_for(100)
        before = len(consumer.events)
        sender.append([event("alarm", b"now", priority=Priority.CRITICAL)])
        wait_until(lambda: any(e.stream == "alarm" for e in consumer.events), "the alarm")
        at = next(at for at, e in enumerate(consumer.events) if e.stream == "alarm")
        assert at - before < 500


def test_the_bandwidth_bounds_what_all_connections_put_on_the_wire(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    cloud, sent = mosquitto(["max_queued_messages 0"]), traffic(1000)
    line = FaultyLine(cloud.port)
    with (
        line.running(),
        sending(
            tmp_path / "events.db", line.port, sent, connections=2, bandwidth=20_000, batch_events=50
        ) as sender,
    ):
        sender.wait_drained()
        counted = sum(bridge.metrics.wire_bytes for bridge in sender.bridges)
        assert abs(counted - line.up_bytes) < 10  # a DISCONNECT, a ping
        assert counted > 1.01 * sum(bridge.metrics.payload_bytes for bridge in sender.bridges)
