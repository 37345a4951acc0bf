"""A cloud broker that takes what nobody subscribes to: said, and waited for where there was a subscriber."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gateway.core.events import Status
from tests.conftest import MosquittoFactory
from tests.support.buffers import event
from tests.support.gateways import wait_until
from tests.support.sending import Consumer, check_complete, sending
from tests.support.stub_broker import PUBLISH, Packet, StubBroker, puback


@pytest.mark.parametrize("form", ["batch", "event"])
def test_a_broker_that_forgot_the_receivers_session_gets_nothing_until_it_is_back(
    mosquitto: MosquittoFactory, tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    cloud = mosquitto(["max_queued_messages 0"])
    sent = [event(f"t/{n % 3}", f"{n}".encode()) for n in range(90)]
    path = tmp_path / "events.db"
    with sending(path, cloud.port, sent[:30], format=form) as sender:
        wait_until(lambda: sender.counts()[Status.SYNCED] == 30, "sent, for there never was a subscriber")
        with Consumer(cloud.port) as before:
            sender.append(sent[30:60])
            before.wait_for(30)
            sender.wait_drained()
    cloud.kill()
    cloud.start()
    with caplog.at_level(logging.WARNING), sending(path, cloud.port, [], format=form) as sender:
        sender.append(sent[60:])
        wait_until(lambda: sender.bridges[0].metrics.without_subscriber, "the broker says so")
        assert sender.counts()[Status.SYNCED] == 60
        assert sender.bridges[0].subscribers.missing
        with Consumer(cloud.port) as after:
            sender.wait_drained()
            after.wait_for(30)
        assert sender.counts()[Status.SYNCED] == 90
        assert not sender.bridges[0].subscribers.missing
    assert "has lost its subscriber" in caplog.text
    check_complete(after.events, sent[60:])


def nobody_for_a(packet: Packet) -> bool:
    return packet.kind == PUBLISH and packet.topic.endswith("/t/a")


@pytest.mark.parametrize("rule", ["wait", "send", "auto"])
def test_the_rule_says_what_happens_where_nobody_ever_subscribed(tmp_path: Path, rule: str) -> None:
    cloud = StubBroker(lambda packet: puback(packet, 0x10) if nobody_for_a(packet) else None)
    sent = [event(f"t/{'abc'[n % 3]}", f"{n}".encode()) for n in range(30)]
    alerts: list[str] = []
    with (
        cloud.running(),
        sending(
            tmp_path / "events.db",
            cloud.port,
            sent,
            format="event",
            no_subscriber=rule,
            alert=lambda name, message: alerts.append(f"{name}: {message}"),
        ) as sender,
    ):
        synced = 20 if rule == "wait" else 30
        wait_until(lambda: sender.counts()[Status.SYNCED] == synced, "the others")
        assert sender.counts()[Status.FAILED] == 0
        assert sender.bridges[0].subscribers.missing == {cloud.of(PUBLISH, "/t/a")[0].topic}
        assert len(alerts) == (rule == "wait")
        cloud.rule = lambda _packet: None
        sender.append([event("t/a", b"30")])
        sender.wait_drained()
        assert not sender.bridges[0].subscribers.missing
        assert sender.counts()[Status.SYNCED] == 31
