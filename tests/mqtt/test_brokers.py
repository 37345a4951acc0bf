"""The contract of the test brokers, over every kind that this machine can run."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.conftest import MosquittoFactory, broker_factory, no_broker
from tests.support.broker_kinds import REASONS
from tests.support.brokers import Broker, BrokerFailedError, ContainerBroker, ProgramBroker

WAIT_S = 60.0


@pytest.fixture(params=[ContainerBroker, ProgramBroker], ids=["container", "program"])
def brokers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MosquittoFactory]:
    kind: type[Broker] = request.param
    reason = REASONS[kind]()
    if reason:
        pytest.skip(reason)
    yield from broker_factory(kind, tmp_path_factory)


def client(name: str, broker: Broker) -> mqtt.Client:
    """A connected client with a persistent session and a running loop."""
    connected = Event()
    paho = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=False)
    paho.on_connect = lambda *_: connected.set()
    paho.connect(broker.host, broker.port)
    paho.loop_start()
    assert connected.wait(WAIT_S)
    return paho


def leave(paho: mqtt.Client) -> None:
    paho.disconnect()
    paho.loop_stop()


def subscribe(paho: mqtt.Client, topic_filter: str) -> None:
    subscribed = Event()
    paho.on_subscribe = lambda *_: subscribed.set()
    paho.subscribe(topic_filter, qos=1)
    assert subscribed.wait(WAIT_S)


def publish(broker: Broker, topic: str, payload: bytes) -> None:
    paho = client("publisher", broker)
    paho.publish(topic, payload, qos=1).wait_for_publish(WAIT_S)
    leave(paho)


def receive(name: str, broker: Broker) -> bytes:
    """The first message that waits for the session `name`."""
    arrived = Event()
    payloads: list[bytes] = []

    def keep(_paho: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        payloads.append(bytes(message.payload))
        arrived.set()

    paho = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=False)
    paho.on_message = keep
    paho.connect(broker.host, broker.port)
    paho.loop_start()
    assert arrived.wait(WAIT_S)
    leave(paho)
    return payloads[0]


def accepts(broker: Broker) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((broker.host, broker.port)) == 0


def leave_a_message_for(name: str, broker: Broker, payload: bytes) -> None:
    waiting = client(name, broker)
    subscribe(waiting, "a/b")
    leave(waiting)
    publish(broker, "a/b", payload)


def test_a_running_broker_passes_messages(brokers: MosquittoFactory) -> None:
    broker = brokers()

    leave_a_message_for("reader", broker, b"hello")

    assert receive("reader", broker) == b"hello"


def test_a_stopped_broker_starts_again_on_its_port_with_what_it_held(
    brokers: MosquittoFactory, tmp_path: Path
) -> None:
    broker = brokers(persistence=tmp_path)
    port = broker.port
    leave_a_message_for("reader", broker, b"kept")

    broker.stop()
    assert not accepts(broker)
    broker.start()

    assert broker.port == port
    assert receive("reader", broker) == b"kept"


def test_a_killed_broker_with_stock_settings_forgets_what_it_held(
    brokers: MosquittoFactory, tmp_path: Path
) -> None:
    """The kill is a real one: nothing is saved on the way out (`test_mosquitto.py` has the cure)."""
    broker = brokers(persistence=tmp_path)
    leave_a_message_for("reader", broker, b"lost")

    broker.kill()
    assert not accepts(broker)
    broker.start()

    sessions: list[bool] = []
    paho = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="reader", clean_session=False)
    connected = Event()

    def note(_paho: mqtt.Client, _data: object, flags: mqtt.ConnectFlags, *_: object) -> None:
        sessions.append(flags.session_present)
        connected.set()

    paho.on_connect = note
    paho.connect(broker.host, broker.port)
    paho.loop_start()
    assert connected.wait(WAIT_S)
    leave(paho)
    assert sessions == [False]


def test_a_paused_broker_keeps_its_connections_and_says_nothing(brokers: MosquittoFactory) -> None:
    broker = brokers()
    paho = client("publisher", broker)

    broker.pause()
    sent = paho.publish("a/b", b"x", qos=1)
    with pytest.raises(TimeoutError), socket.create_connection((broker.host, broker.port), 1) as raw:
        raw.sendall(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")  # CONNECT, no client id, clean
        raw.recv(4)
    assert not sent.is_published()
    broker.resume()

    sent.wait_for_publish(WAIT_S)
    assert sent.is_published()
    leave(paho)


def test_every_call_is_allowed_in_every_state(brokers: MosquittoFactory) -> None:
    broker = brokers()
    broker.start()
    broker.resume()
    broker.pause()
    broker.pause()
    broker.kill()
    for call in (broker.kill, broker.stop, broker.pause, broker.resume):
        call()
    assert not broker.is_running()

    broker.start()
    broker.pause()
    broker.stop()

    assert not broker.is_running()


def test_configuration_lines_reach_the_broker(brokers: MosquittoFactory) -> None:
    broker = brokers(config_lines=["allow_anonymous false"])
    refused = Event()
    paho = mqtt.Client(CallbackAPIVersion.VERSION2)
    paho.on_connect = lambda _c, _d, _f, reason, _p: refused.set() if reason.is_failure else None

    paho.connect(broker.host, broker.port)
    paho.loop_start()

    assert refused.wait(WAIT_S)
    leave(paho)


def test_a_broker_that_cannot_start_says_why(brokers: MosquittoFactory) -> None:
    with pytest.raises(BrokerFailedError, match="no_such_setting"):
        brokers(config_lines=["no_such_setting 1"])


def test_without_a_broker_tests_are_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)

    with pytest.raises(pytest.skip.Exception, match="no engine; no program"):
        no_broker("no engine; no program")


def test_without_a_broker_tests_fail_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")

    with pytest.raises(pytest.fail.Exception, match="no engine; no program"):
        no_broker("no engine; no program")
