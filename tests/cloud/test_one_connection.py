"""Services that allow one connection per client id: uplink, audit, status and commands share one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.config import parse_config
from gateway.mqtt.link import Link, Session
from gateway.mqtt.shared_session import SharedSession
from tests.cloud.test_broker_limits import linked
from tests.conftest import MosquittoFactory
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import Watcher, publish
from tests.support.stub_broker import (
    CLOSE,
    CONNECT,
    PUBLISH,
    SUBSCRIBE,
    Answer,
    Packet,
    StubBroker,
    suback,
    wait_for_events,
)

RULES = [{"topic": "commands/g1/{device}", "to": "cmnd/{device}"}]


def readings(first: int, count: int) -> list[tuple[str, str]]:
    return [
        (f"sensors/d{n % 3}", f'{{"t": {1_700_000_000_000 + n}, "v": {n}}}')
        for n in range(first, first + count)
    ]


def config(folder: Path, local_url: str, cloud_url: str, **cloud: Any) -> Path:
    section = {"url": cloud_url, "client_id": "plant-7", "audit": "1s", "downlink": RULES, **cloud}
    return gateway_config(folder, local_url, cloud=section, windows=[])


@pytest.mark.parametrize("form", ["batch", "event"])
def test_one_connection_with_the_exact_name_carries_everything(
    mosquitto: MosquittoFactory, tmp_path: Path, form: str
) -> None:
    local, cloud = mosquitto(), StubBroker()
    with cloud.running(), GatewayProcess(config(tmp_path, local.url, cloud.url, format=form)) as gateway:
        gateway.wait_ready()
        publish(local.port, readings(0, 100))
        wait_for_events(cloud, 100)
        wait_until(lambda: cloud.of(PUBLISH, "/audit"), "an audit record")
        cloud.drop_all()
        publish(local.port, readings(100, 100))
        wait_for_events(cloud, 200)
        wait_until(lambda: len(cloud.of(CONNECT)) > 1, "the connection after the outage")
        newest = cloud.of(CONNECT)[-1].connection
        wait_until(
            lambda: any(each.connection == newest for each in cloud.of(PUBLISH, "/audit")), "the next audit"
        )
        wait_until(lambda: any(each.connection == newest for each in cloud.of(SUBSCRIBE)), "the subscription")
        assert {each.client_id for each in cloud.of(CONNECT)} == {"plant-7"}
        assert cloud.connections == 2
        assert cloud.of(CONNECT)[-1].will_topic == "gateway/g1/status"
        assert gateway.stop() == 0
        offline = b'{"state":"offline"'
        wait_until(lambda: cloud.of(PUBLISH, "/status")[-1].payload.startswith(offline), "the last status")


def test_commands_come_down_beside_the_uplink(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    local, cloud = mosquitto(), mosquitto()
    with (
        GatewayProcess(config(tmp_path, local.url, cloud.url)) as gateway,
        Watcher(local.port, "cmnd/+") as device,
        Watcher(cloud.port, "gateway/g1/up/batch/0") as receiver,
    ):
        gateway.wait_ready()
        wait_until(lambda: gateway.metric('gateway_link_up{link="bridge-0"}') == 1, "the connection")
        publish(local.port, readings(0, 50))
        wait_until(lambda: receiver.messages, "the uplink")
        publish(cloud.port, [("commands/g1/lamp", f"{n}") for n in range(50)])
        wait_until(lambda: len(device.messages) == 50, "the commands")
        assert [int(each.payload) for each in device.messages] == [*range(50)]
        assert " as plant-7 " in cloud.log()
        assert " as plant-7-" not in cloud.log()


def test_a_broker_that_closes_over_the_audit_costs_no_event(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    def rule(packet: Packet) -> Answer | None:
        return CLOSE if packet.kind == PUBLISH and packet.topic.endswith("/audit") else None

    local, cloud = mosquitto(), StubBroker(rule)
    with cloud.running(), GatewayProcess(config(tmp_path, local.url, cloud.url)) as gateway:
        gateway.wait_ready()
        for first in range(0, 300, 20):
            publish(local.port, readings(first, 20))
            wait_for_events(cloud, first + 20)
        assert gateway.metric('gateway_buffer_events{status="failed"}') == 0
    assert len({event.event_id for event in cloud.events}) == 300


def test_without_a_client_id_or_with_more_connections_each_has_its_own() -> None:
    def one(**cloud: Any) -> bool:
        base = {"gateway": {"id": "g1"}, "routes": [{"name": "r", "topic": "t/{d}"}]}
        found = parse_config(json.dumps({**base, "cloud": {"url": "mqtt://c", **cloud}})).cloud
        assert found is not None
        return found.one_connection

    assert one(client_id="exact")
    assert one(client_id="plant-{id}", connections=1)
    assert not one()
    assert not one(client_id="exact", connections=2)


def test_a_refused_subscription_is_the_readers_alone() -> None:
    class Told(Session):
        def __init__(self) -> None:
            self.codes: dict[str, int] = {}
            self.ends = 0

        def connected(self, link: Link, session_present: bool) -> None:
            link.subscribe([("a/#", 1)])

        def subscribed(self, link: Link, codes: dict[str, int]) -> None:
            self.codes |= codes

        def disconnected(self, link: Link) -> None:
            self.ends += 1

    def rule(packet: Packet) -> Answer | None:
        return suback(packet, 0x87) if packet.kind == SUBSCRIBE else None

    reader, cloud = Told(), StubBroker(rule)
    with cloud.running(), linked(cloud, SharedSession([Session(), reader], reader)):
        wait_until(lambda: reader.codes == {"a/#": 0x87}, "the refusal")
        assert reader.ends == 0
