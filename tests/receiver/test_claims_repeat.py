"""Claims that are repeated: what the cloud broker lost together with its audit shows in idle streams too."""

from __future__ import annotations

import time
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from gateway.cli.receive import default_client_id
from gateway.core.events import Message
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.link import Link
from gateway.receiver.session import Receiver
from gateway.receiver.sinks.ndjson import EventFile
from gateway.receiver.sinks.sink import resume
from tests.conftest import MosquittoFactory
from tests.receiver.test_proof import Consumer, config, numbered
from tests.support.brokers import Broker
from tests.support.gateways import GatewayProcess, wait_until
from tests.support.publishing import publish


def lose_the_queue(cloud: Broker, client_id: str) -> None:
    """What the broker has kept for the receiver is gone, audit records included."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id)  # a clean session
    client.connect("127.0.0.1", cloud.port)
    client.loop_start()
    wait_until(client.is_connected, "the clean session")
    client.disconnect()
    client.loop_stop()


def test_what_the_broker_lost_with_its_audit_is_missing_though_the_streams_are_idle(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local, cloud = mosquitto(), mosquitto()
    output = str(tmp_path / "events.ndjson")
    consumer = Consumer(cloud, output)
    consumer.once()
    with GatewayProcess(config(tmp_path, local, cloud)) as gateway:
        gateway.wait_ready()
        publish(local.port, numbered(0, 50))
        found = consumer.wait_until_audited(gateway, local, 50)
        assert (found["complete"], found["received"]) == (True, 50)
        publish(local.port, numbered(50, 100))
        raw = 'gateway_events_appended_total{kind="raw"}'
        wait_until(lambda: gateway.metric(raw) >= 100, "everything is taken in")
        wait_until(lambda: gateway.metric('gateway_buffer_events{status="pending"}') == 0, "nothing waits")
        wait_until(lambda: gateway.metric('gateway_buffer_events{status="syncing"}') == 0, "all is there")
        time.sleep(1.5)  # the audit of these events goes to the receiver's queue, and is lost with them
        lose_the_queue(cloud, default_client_id(output))
        consumer.once()  # subscribes, and hears what is repeated
        consumer.once()
        code, found = consumer.verify()
    assert (code, found["complete"], found["missing"], found["unproven"]) == (1, False, 50, 0)


def test_a_topic_that_a_broker_has_rewritten_is_named_and_its_message_kept(tmp_path: Path) -> None:
    sink = EventFile(tmp_path / "events.ndjson")
    receiver = Receiver("gateway", "a.b", sink, resume(sink))
    link = Link("receive", Endpoint("127.0.0.1", 9, "receive"), receiver)
    rewritten = "gateway/a/b/up/batch/0"
    try:
        receiver.received(link, [Message(rewritten, b"frame", 0, False, False, 0, 0, 0)])
    finally:
        link.stop()
        sink.close()
    assert (receiver.unreadable, receiver.rejected) == ({rewritten: 1}, 1)
    assert rewritten in (tmp_path / "events.ndjson.rejected").read_text()
