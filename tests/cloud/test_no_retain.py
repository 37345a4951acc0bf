"""Brokers without retained messages: noticed, said once, and gone without, whether or not they say why."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.mqtt.concessions import Concessions
from gateway.mqtt.endpoint import Will
from tests.support.buffers import events
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.sending import check_complete, sending
from tests.support.stub_broker import (
    CLOSE,
    CONNECT,
    PINGREQ,
    PUBLISH,
    Answer,
    Packet,
    StubBroker,
    connack,
    farewell,
)

WILL = Will("gateway/g1/status", b"{}")
NO_RETAIN = bytes([0x25, 0])


def announced(packet: Packet) -> Answer | None:
    """As the standard has it: a will that asks for it is refused, and a publish ends the connection."""
    if packet.kind == CONNECT:
        return connack(packet, 0x9A) if packet.will_retain else connack(packet, 0, NO_RETAIN)
    return farewell(0x9A) if packet.retain else None


def by_disconnect(packet: Packet) -> Answer | None:
    return farewell(0x9A) if packet.kind == PUBLISH and packet.retain else None


def without_a_word(packet: Packet) -> Answer | None:
    return CLOSE if packet.will_retain or packet.retain else None


def no_status_at_all(packet: Packet) -> Answer | None:
    return CLOSE if packet.topic.endswith("/status") else None


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("rule", [announced, by_disconnect, without_a_word, no_status_at_all])
def test_the_uplink_goes_on_without_retained_messages(
    tmp_path: Path,
    protocol: str,
    rule: Callable[[Packet], Answer | None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    if protocol == "3.1.1" and rule in (announced, by_disconnect):
        rule = without_a_word
    cloud, sent = StubBroker(rule), events(50)
    with (
        cloud.running(),
        caplog.at_level(logging.WARNING),
        sending(
            tmp_path / "events.db",
            cloud.port,
            sent,
            protocol=protocol,
            endpoint={"reconnect_max_s": 0.02, "will": WILL},
            status_topic="gateway/g1/status",
        ) as sender,
    ):
        sender.wait_drained()
        status = cloud.of(PUBLISH, "/status")
        assert not all(each.retain for each in status)
    assert check_complete(cloud.events, sent) >= 0
    said = [r for r in caplog.records if "retain" in r.getMessage() or "no status" in r.getMessage()]
    assert 1 <= len([r for r in said if "unretained" in r.getMessage() or "no status" in r.getMessage()]) <= 2


def test_an_outage_that_looks_like_a_refused_will_costs_the_will_no_longer_than_one_connection() -> None:
    concessions = Concessions("tested", WILL)
    for _ in range(3):
        concessions.ended(None, None, False)
    assert concessions.will == Will(WILL.topic, WILL.payload, WILL.qos, retain=False)
    concessions.accepted(retain_available=True)
    concessions.ended(None, None, True)
    assert concessions.will == WILL
    concessions.ended(None, None, False)  # it was the will after all
    assert concessions.will is not None
    assert not concessions.will.retain


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "rule"), [("5", announced), ("5", by_disconnect), ("3.1.1", without_a_word)]
)
def test_the_local_side_goes_on_without_retained_messages(
    tmp_path: Path, protocol: str, rule: Callable[[Packet], Answer | None]
) -> None:
    broker = StubBroker(rule)
    local = {"url": broker.url, "protocol": protocol, "reconnect_max": "300ms"}
    config = gateway_config(tmp_path, broker.url, local=local)
    with broker.running(), GatewayProcess(config) as gateway:
        wait_until(
            lambda: [p for p in broker.of(PUBLISH, "/status") if not p.retain],
            "a status that is not retained",
        )
        gateway.wait_ready()
        made = broker.connections
        wait_until(lambda: gateway.metric('gateway_link_up{link="republish"}') == 1, gateway.log())
        wait_until(lambda: broker.of(PINGREQ) or gateway.metric("gateway_commits_total") > 3, "some time")
        assert broker.connections == made
