"""Events of the event format in bulk: complete and in order, within what the broker takes, none beside it."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest

from gateway.core.events import Status
from gateway.delivery.states import Backoff
from gateway.mqtt.bulk_publishes import FIRST_ID
from tests.conftest import MosquittoFactory
from tests.support.buffers import event
from tests.support.sending import Consumer, check_complete, sending
from tests.support.stub_broker import (
    CONNECT,
    PUBACK,
    PUBLISH,
    SILENCE,
    Answer,
    Packet,
    StubBroker,
    connack,
    farewell,
    puback,
)

QUICK: dict[str, Any] = {
    "endpoint": {"reconnect_max_s": 0.02},
    "backoff": Backoff(1, 20, 3),
    "format": "event",
}
ALIASES = b"\x22\x00\x05"  # Topic Alias Maximum: 5


def path_of(folder: Path) -> Path:
    return folder / "events.db"


@pytest.mark.parametrize("spec", [{}, {"short_identity": False}, {"envelope": "always"}])
@pytest.mark.parametrize(
    "lines", [["max_inflight_messages 20"], ["max_inflight_messages 0", "max_topic_alias 100"]]
)
def test_a_backlog_arrives_complete_and_in_order(
    mosquitto: MosquittoFactory, tmp_path: Path, spec: dict[str, Any], lines: list[str]
) -> None:
    cloud = mosquitto(["max_queued_messages 0", *lines])
    sent = [event(f"t/{n % 30}", f"{n}".encode()) for n in range(2000)]
    with (
        Consumer(cloud.port) as consumer,
        sending(path_of(tmp_path), cloud.port, sent, **QUICK, **spec) as sender,
    ):
        sender.wait_drained()
        consumer.wait_for(len(sent))
        assert check_complete(consumer.events, sent) == 0
        assert sum(link.metrics.connects for link in sender.links) == 1


def test_no_more_are_unanswered_than_the_broker_takes(tmp_path: Path) -> None:
    """The answers come only when nothing more does, so that the most is seen."""
    waiting: list[Packet] = []
    most = 0
    lock = threading.Lock()

    def rule(packet: Packet) -> Answer | None:
        nonlocal most
        if packet.kind == CONNECT:
            return connack(packet, properties=b"\x21\x00\x0a")  # Receive Maximum: 10
        if packet.kind != PUBLISH:
            return None
        with lock:
            waiting.append(packet)
            most = max(most, len(waiting))
            if packet.topic.endswith("status") or (len(waiting) < 9 and packet.number < 55):
                return SILENCE
            found = b"".join(puback(each).data for each in waiting)
            waiting.clear()
            return Answer(found)

    cloud = StubBroker(rule)
    sent = [event(f"t/{n % 5}", f"{n}".encode()) for n in range(60)]
    with cloud.running(), sending(path_of(tmp_path), cloud.port, sent, **QUICK) as sender:
        sender.wait_drained()
        assert len({e.event_id for p in cloud.of(PUBLISH) for e in p.events}) == len(sent)
    assert most == 9, "the tenth place is for the status"
    assert {p.packet_id >= FIRST_ID for p in cloud.of(PUBLISH)} == {True}


@pytest.mark.parametrize(
    ("code", "status"), [(0x87, Status.FAILED), (0x97, Status.SYNCED), (0x80, Status.SYNCED)]
)
def test_a_refusal_amid_a_run_is_one_events_own(tmp_path: Path, code: int, status: Status) -> None:
    refused = 0

    def rule(packet: Packet) -> Answer | None:
        nonlocal refused
        if any(e.payload == b"57" for e in packet.events) and (code == 0x87 or not refused):
            refused += 1
            return puback(packet, code)
        return None

    cloud = StubBroker(rule)
    sent = [event(f"t/{n}", f"{n}".encode()) for n in range(200)]
    with cloud.running(), sending(path_of(tmp_path), cloud.port, sent, **QUICK) as sender:
        sender.wait_drained()
        assert sender.counts()[status] == (1 if status is Status.FAILED else 200)
        check_complete(cloud.events, sent, missing=[57] if status is Status.FAILED else [])
    assert cloud.connections == refused == 1


def test_an_answer_without_a_message_and_a_second_one_change_nothing(tmp_path: Path) -> None:
    def rule(packet: Packet) -> Answer | None:
        if packet.kind != PUBLISH:
            return None
        stray = packet._replace(packet_id=60_000)
        return Answer(puback(stray).data + 2 * puback(packet).data + puback(packet, 0x87).data)

    cloud = StubBroker(rule)
    sent = [event(f"t/{n % 3}", f"{n}".encode()) for n in range(50)]
    with cloud.running(), sending(path_of(tmp_path), cloud.port, sent, **QUICK) as sender:
        sender.wait_drained()
        assert (sender.counts()[Status.SYNCED], sender.bridges[0].metrics.events_acked) == (50, 50)
    assert cloud.connections == 1


@pytest.mark.parametrize("code", [0x82, 0x94])
def test_a_broker_that_does_not_take_the_aliases_it_offers_gets_topics_in_full(
    tmp_path: Path, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    def rule(packet: Packet) -> Answer | None:
        if packet.kind == CONNECT:
            return connack(packet, properties=ALIASES)
        return farewell(code) if packet.kind == PUBLISH and not packet.topic else None

    cloud = StubBroker(rule)
    sent = [event("t/a", f"{n}".encode()) for n in range(50)]
    with cloud.running(), sending(path_of(tmp_path), cloud.port, sent, **QUICK) as sender:
        sender.wait_drained()
        assert sender.counts()[Status.SYNCED] == 50
    assert [p.topic_alias for p in cloud.of(PUBLISH) if p.connection > 1] == [0] * (
        len(cloud.of(PUBLISH)) - 2
    )
    assert "the broker does not take topic aliases" in caplog.text


def test_an_event_that_is_too_large_fails_and_those_around_it_go(tmp_path: Path) -> None:
    def rule(packet: Packet) -> Answer | None:
        return connack(packet, properties=b"\x27\x00\x00\x02\x00") if packet.kind == CONNECT else None

    cloud = StubBroker(rule)
    sent = [event("t/a", bytes(1000) if n == 20 else f"{n}".encode()) for n in range(50)]
    with cloud.running(), sending(path_of(tmp_path), cloud.port, sent, **QUICK) as sender:
        sender.wait_drained()
        assert sender.refusals() == {"packet too large (0x95)": 1}
        check_complete(cloud.events, sent, missing=[20])
    assert cloud.connections == 1


def test_a_silent_broker_is_left_and_everything_goes_again(tmp_path: Path) -> None:
    def rule(packet: Packet) -> Answer | None:
        return SILENCE if packet.kind == PUBLISH and packet.connection == 1 and packet.number > 20 else None

    cloud = StubBroker(rule)
    sent = [event(f"t/{n % 7}", f"{n}".encode()) for n in range(100)]
    with cloud.running(), sending(path_of(tmp_path), cloud.port, sent, ack_timeout_s=0.3, **QUICK) as sender:
        sender.wait_drained()
        assert sender.counts()[Status.SYNCED] == 100
    check_complete(cloud.events, sent)
    assert cloud.connections > 1


def test_bandwidth_is_kept_in_small_runs(tmp_path: Path) -> None:
    cloud = StubBroker()
    sent = [event(f"t/{n % 7}", bytes(100)) for n in range(200)]
    with cloud.running(), sending(path_of(tmp_path), cloud.port, sent, bandwidth=100_000, **QUICK) as sender:
        sender.wait_drained()
        wire_bytes = sender.bridges[0].metrics.wire_bytes
    assert 180 * 200 > wire_bytes > 150 * 200
    assert not cloud.of(PUBACK)
    assert re.match("gateway/g1/up/event/t/", cloud.of(PUBLISH)[0].topic)
