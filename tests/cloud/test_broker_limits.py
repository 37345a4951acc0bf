"""A broker that takes one message at a time, or small ones only: true for all that is sent."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gateway.buffer.store import NewEvent, Store
from gateway.buffer.writer import Writer
from gateway.cloud.auditor import Auditor
from gateway.cloud.downlink import CloudSide, _Command
from gateway.core.events import Kind, Message
from gateway.local.republish import Republish
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.link import Link, Session
from gateway.wire.audit_record import read_audit
from gateway.wire.command_topics import Downlink
from tests.support.buffers import append, event
from tests.support.gateways import wait_until
from tests.support.sending import sending
from tests.support.stub_broker import CONNECT, PUBLISH, Answer, Packet, StubBroker, connack

ONE_AT_A_TIME = b"\x21" + struct.pack("!H", 1)
TWO_THOUSAND_BYTES = b"\x27" + struct.pack("!I", 2000)


def limits(properties: bytes) -> StubBroker:
    def rule(packet: Packet) -> Answer | None:
        return connack(packet, 0, properties) if packet.kind == CONNECT else None

    return StubBroker(rule)


@contextmanager
def stored(path: Path, events: list[NewEvent]) -> Iterator[Writer]:
    with ExitStack() as cleanup:
        store = Store(path)
        store.open()
        cleanup.callback(store.close)
        append(store, events)
        writer = Writer(store)
        writer.start()
        cleanup.callback(writer.stop)
        yield writer


@contextmanager
def linked(cloud: StubBroker, session: Session, takes_bytes: int | None = None) -> Iterator[Link]:
    where = Endpoint("127.0.0.1", cloud.port, "t", "3.1.1" if takes_bytes else "5", takes_bytes=takes_bytes)
    link = Link("tested", where, session)
    link.start()
    try:
        yield link
    finally:
        link.stop()


def largest_bytes(cloud: StubBroker) -> int:
    return max(packet.size_bytes for packet in cloud.of(PUBLISH))


class Burst(Session):
    """Publishes ten messages at once, and one as its last words."""

    def __init__(self) -> None:
        self.answered: list[int] = []

    def connected(self, link: Link, session_present: bool) -> None:
        for number in range(10):
            link.publish(f"t/{number}", b"x")

    def published(self, link: Link, packet_id: int, reason_code: int) -> None:
        self.answered.append(reason_code)

    def leaving(self, link: Link) -> None:
        link.publish("t/last", b"x")


def test_a_session_that_publishes_ten_at_once_has_one_under_way() -> None:
    """Whatever the session, republish and downlink among them: the connection sees to it."""
    cloud, burst = limits(ONE_AT_A_TIME), Burst()
    cloud.answer_after_s = 0.02
    with cloud.running():
        with linked(cloud, burst):
            wait_until(lambda: len(burst.answered) == 10, "all answers")
        wait_until(lambda: cloud.of(PUBLISH, "/last"), "the last words")
        assert [p.topic for p in cloud.of(PUBLISH)] == [*(f"t/{n}" for n in range(10)), "t/last"]
    assert cloud.most_unanswered == 1
    assert cloud.connections == 1


def test_last_words_go_out_although_an_answer_is_outstanding() -> None:
    cloud, burst = limits(ONE_AT_A_TIME), Burst()
    cloud.answer_after_s = 60.0
    with cloud.running():
        with linked(cloud, burst):
            wait_until(lambda: cloud.of(PUBLISH), "the first")
        wait_until(lambda: cloud.of(PUBLISH, "/last"), "the last words")
        assert [p.qos for p in cloud.of(PUBLISH)] == [1, 0]


@pytest.mark.parametrize("form", ["batch", "event"])
def test_the_status_counts_among_what_the_uplink_may_have_under_way(tmp_path: Path, form: str) -> None:
    cloud = limits(ONE_AT_A_TIME)
    cloud.answer_after_s = 0.02
    sent = [event(f"t/{n % 5}", f"{n}".encode()) for n in range(30)]
    with (
        cloud.running(),
        sending(
            tmp_path / "events.db", cloud.port, sent, format=form, status_topic="gateway/g1/status"
        ) as sender,
    ):
        sender.wait_drained()
    assert cloud.most_unanswered == 1
    assert cloud.connections == 1


@pytest.mark.parametrize("takes_bytes", [None, 2000])
def test_audit_records_are_as_large_as_the_broker_takes(tmp_path: Path, takes_bytes: int | None) -> None:
    """As it says, or as `cloud.max_packet_size` says for it."""
    cloud = limits(b"" if takes_bytes else TWO_THOUSAND_BYTES)
    sent = [event(f"plant/hall-{n}/machine/temperature", b"1") for n in range(300)]
    path = tmp_path / "events.db"
    with cloud.running():
        with sending(path, cloud.port, sent, endpoint={"takes_bytes": takes_bytes}) as sender:
            sender.wait_drained()
        with stored(path, []) as writer:
            auditor = Auditor("gateway/g1/audit", "g1", path, writer, lambda: time.time_ns() // 1_000_000)
            with linked(cloud, auditor, takes_bytes):
                wait_until(lambda: auditor.metrics.audits, "an audit is taken")
            auditor.finish()
        records = [read_audit(p.payload) for p in cloud.of(PUBLISH, "/audit")]
    assert {claim.stream for record in records for claim in record.claims} == {e[0] for e in sent}
    assert len(records) > 10
    assert largest_bytes(cloud) <= 2000


def test_an_alert_that_the_local_broker_does_not_take_is_left_out_and_the_others_come(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cloud, path = limits(TWO_THOUSAND_BYTES), tmp_path / "events.db"
    made = [event(f"gateway/g1/late/{n}", b"9" * (5000 if n == 3 else 10), kind=Kind.ALERT) for n in range(8)]
    with cloud.running(), stored(path, made) as writer:
        republish = Republish(path, writer, "gateway/g1/status", "gateway/g1/b", lambda _topic: False, 0)
        with linked(cloud, republish) as link:
            wait_until(lambda: len(cloud.of(PUBLISH)) == 8, "the status and seven")
            wait_until(lambda: link.metrics.too_large == 1, "one is counted")
            wait_until(lambda: republish._settled == 8, "it is not tried again")
        republish.finish()
        assert cloud.connections == 1
    assert "takes 2000" in caplog.text


def test_a_command_that_the_local_broker_does_not_take_is_answered() -> None:
    cloud = limits(TWO_THOUSAND_BYTES)
    side = CloudSide(Downlink("g1", "gateway/g1", []))
    with cloud.running(), linked(cloud, side.local):
        for size in (10, 5000, 20):
            message = Message("t", b"x" * size, 1, False, False, size, 1, 0)
            side.local.submit(_Command(message, f"device/{size}", 1))
        wait_until(lambda: side.metrics.forwarded == 2, "the others")
        assert side.metrics.rejected["refused"] == 1
        assert cloud.connections == 1
