"""Whatever a broker answers to a subscription: the other filters work, and what is refused is named."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gateway.cloud import downlink
from gateway.cloud.downlink import CloudSide
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.link import Link
from gateway.wire.command_topics import Downlink, DownlinkRule
from tests.support.gateways import wait_until
from tests.support.stub_broker import PUBLISH, SUBSCRIBE, Answer, Packet, StubBroker, suback

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
