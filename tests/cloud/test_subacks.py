"""Whatever a broker answers to a subscription: the other filters work, and what is refused is named."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from gateway.cloud import downlink, own_subscription
from gateway.cloud.downlink import CloudSide
from gateway.config import parse_config
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.link import Link
from gateway.wire.command_topics import Downlink, DownlinkRule
from tests.support.gateways import wait_until
from tests.support.stub_broker import PUBLISH, SUBSCRIBE, Answer, Packet, StubBroker, suback
from tests.support.uplinks import statuses, uplink

RULES = [DownlinkRule("commands/g1/a", "cmnd/a"), DownlinkRule("commands/g1/b", "cmnd/b")]
CODES = [("5", code) for code in (0, 1, 2, *range(0x80, 0xA3), 0xFF)]
CODES += [("3.1.1", code) for code in (0, 1, 2, 0x80, 0xFF)]


def command(topic: str, *, v5: bool) -> bytes:
    body = len(topic).to_bytes(2, "big") + topic.encode() + (b"\x00" if v5 else b"") + b"ON"
    return bytes([PUBLISH << 4, len(body)]) + body


@pytest.mark.parametrize(("protocol", "code"), CODES)
def test_a_suback_with_any_code_leaves_the_other_commands_working(
    protocol: str, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(downlink, "REFUSED_RETRY_S", 0.3)
    granted = False

    def rule(packet: Packet) -> Answer | None:
        if packet.kind != SUBSCRIBE:
            return None
        codes = [code if name.endswith("/a") and not granted else 1 for name in packet.filters]
        sent = command("commands/g1/b", v5=packet.v5) if packet.number == 1 else b""
        return Answer(suback(packet, *codes).data + sent)

    cloud, local = StubBroker(rule), StubBroker()
    side = CloudSide(Downlink("g1", "gateway/g1", RULES))
    with cloud.running(), local.running(), caplog.at_level(logging.INFO):
        links = [
            Link(name, Endpoint("127.0.0.1", broker.port, name, protocol), session)  # type: ignore[arg-type]
            for name, broker, session in (("cloud", cloud, side), ("local", local, side.local))
        ]
        for link in links:
            link.start()
        try:
            wait_until(lambda: local.of(PUBLISH, "cmnd/b"), "the command on the other filter")
            assert side.metrics.refused_filters == ({"commands/g1/a": code} if code >= 0x80 else {})
            if code >= 0x80:
                assert f"0x{code:02x}" in caplog.text
                assert "commands/g1/a" in caplog.text
                granted = True
                wait_until(lambda: not side.metrics.refused_filters, "it is asked for again")
                assert [p.filters for p in cloud.of(SUBSCRIBE)][1] == ("commands/g1/a",)
            assert cloud.connections == 1
        finally:
            for link in links:
                link.stop()


def test_a_subscription_that_is_never_answered_is_said_and_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(downlink, "REFUSED_RETRY_S", 0.3)
    cloud = StubBroker(lambda packet: Answer() if packet.kind == SUBSCRIBE else None)
    with cloud.running(), caplog.at_level(logging.WARNING):
        side = CloudSide(Downlink("g1", "gateway/g1", RULES))
        link = Link("cloud", Endpoint("127.0.0.1", cloud.port, "g1", "5"), side)
        link.start()
        try:
            wait_until(lambda: len(cloud.of(SUBSCRIBE)) >= 2, "the second request")
        finally:
            link.stop()
    assert "has not answered the subscription to commands/g1/a" in caplog.text


@pytest.mark.parametrize("own", [{}, {"confirm": "receiver"}], ids=["backfill", "confirm"])
def test_requests_and_confirmations_are_subscribed_to_again_where_no_answer_comes(
    tmp_path: Path, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(own_subscription, "RETRY_S", 0.1)
    cloud = StubBroker(lambda packet: Answer() if packet.kind == SUBSCRIBE and packet.number < 3 else None)
    route = {"name": "r", "topic": "sensors/{device}", "forward": "confirm" in own}
    given = {"gateway": {"id": "g1"}, "routes": [route], "cloud": {"url": cloud.url, "audit": "1s", **own}}
    topic = "gateway/g1/down/" + ("confirm" if own else "backfill")
    with (
        cloud.running(),
        uplink(parse_config(json.dumps(given)), tmp_path / "events.db", [("other/d", "1")]) as writer,
    ):
        wait_until(lambda: len(cloud.of(SUBSCRIBE)) >= 3, "the third request")
        wait_until(lambda: statuses(writer)["SYNCED"] == 1, "the drain")
    assert {p.filters for p in cloud.of(SUBSCRIBE)} == {(topic,)}
    assert len(cloud.of(SUBSCRIBE)) == 3, "the third was answered"
    assert f"has not answered the subscription to {topic}; asked again" in caplog.text
