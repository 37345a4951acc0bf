"""The embedded broker, with real paho clients."""

from __future__ import annotations

import logging
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from gateway.core.errors import BrokerError, ConfigError
from gateway.host.ports import free_port
from gateway.lab.fault_proxy import FaultProxy
from gateway.mqtt import embedded
from gateway.mqtt.embedded import EmbeddedBroker

WAIT_S = 60.0  # how long a test waits for something that should come at once


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    embedded = EmbeddedBroker()
    embedded.start()
    yield embedded
    embedded.stop()


class Peer:
    """A paho client that keeps what happens to it in queues."""

    def __init__(self, name: str, *, clean: bool = True) -> None:
        self.client = Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=clean)
        self.connects: queue.Queue[tuple[bool, bool]] = queue.Queue()  # refused, session present
        self.messages: queue.Queue[MQTTMessage] = queue.Queue()
        self.subscribed = threading.Event()
        self.client.on_connect = lambda _c, _u, flags, code, _p: self.connects.put(
            (code.is_failure, flags.session_present)
        )
        self.client.on_message = lambda _c, _u, message: self.messages.put(message)
        self.client.on_subscribe = lambda *_: self.subscribed.set()

    def subscribe(self, topic_filter: str) -> None:
        self.client.subscribe(topic_filter, qos=1)
        assert self.subscribed.wait(WAIT_S)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self.client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(WAIT_S)


@contextmanager
def connected(broker: EmbeddedBroker, name: str, *, clean: bool = True) -> Iterator[Peer]:
    peer = Peer(name, clean=clean)
    peer.client.connect(broker.host, broker.port)
    peer.client.loop_start()
    try:
        yield peer
    finally:
        peer.client.disconnect()
        peer.client.loop_stop()


def publish_and_leave(broker: EmbeddedBroker, name: str, payloads: list[bytes]) -> None:
    """Hang up as soon as the broker has acknowledged the last one."""
    with connected(broker, name) as peer:
        assert peer.connects.get(timeout=WAIT_S)[0] is False
        for publication in [peer.client.publish("t/x", payload, qos=1) for payload in payloads]:
            publication.wait_for_publish(WAIT_S)


def test_what_one_client_publishes_another_receives_in_order(broker: EmbeddedBroker) -> None:
    with connected(broker, "reader") as reader, connected(broker, "writer") as writer:
        reader.subscribe("tele/+/SENSOR")
        for number in range(200):
            writer.publish("tele/a/SENSOR", b"%d" % number)
        received = [reader.messages.get(timeout=WAIT_S) for _ in range(200)]
    assert [int(message.payload) for message in received] == list(range(200))
    assert {message.qos for message in received} == {1}


def test_a_retained_message_waits_for_later_subscribers(broker: EmbeddedBroker) -> None:
    with connected(broker, "writer") as writer, connected(broker, "reader") as reader:
        writer.publish("status", b"online", retain=True)
        reader.subscribe("status")
        message = reader.messages.get(timeout=WAIT_S)
    assert (message.payload, message.retain) == (b"online", True)


def test_a_persistent_session_gets_what_was_published_while_it_was_away(broker: EmbeddedBroker) -> None:
    with connected(broker, "reader", clean=False) as reader:
        assert reader.connects.get(timeout=WAIT_S) == (False, False)
        reader.subscribe("t")
    with connected(broker, "writer") as writer:
        writer.publish("t", b"meanwhile")
    with connected(broker, "reader", clean=False) as reader:
        assert reader.connects.get(timeout=WAIT_S) == (False, True)
        assert reader.messages.get(timeout=WAIT_S).payload == b"meanwhile"


def test_an_outage_ends_on_the_same_port_and_clients_come_back(broker: EmbeddedBroker) -> None:
    with connected(broker, "reader") as reader:
        reader.client.reconnect_delay_set(min_delay=1, max_delay=1)
        assert reader.connects.get(timeout=WAIT_S) == (False, False)
        port = broker.port
        broker.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((broker.host, port))
        broker.start()
        assert broker.port == port
        assert reader.connects.get(timeout=WAIT_S) == (False, False)


def test_it_tells_what_is_subscribed_to(broker: EmbeddedBroker) -> None:
    assert broker.subscriptions() == frozenset()
    with connected(broker, "reader") as reader:
        reader.subscribe("tele/+/SENSOR")
        assert broker.subscriptions() == {"tele/+/SENSOR"}


def test_a_line_that_is_cut_loses_what_is_under_way_and_can_be_mended(broker: EmbeddedBroker) -> None:
    line = FaultProxy(broker.host, broker.port)
    line.mend()
    with connected(broker, "reader") as reader:
        reader.subscribe("t")
        far = Peer("far")
        far.client.reconnect_delay_set(min_delay=1, max_delay=1)
        far.client.connect(line.host, line.port)
        far.client.loop_start()
        try:
            assert far.connects.get(timeout=WAIT_S) == (False, False)
            far.publish("t", b"before")
            line.cut()
            assert not line.up
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((line.host, line.port))
            line.mend()
            assert far.connects.get(timeout=WAIT_S) == (False, False)
            far.publish("t", b"after")
        finally:
            far.client.disconnect()
            far.client.loop_stop()
            line.cut()
        assert [reader.messages.get(timeout=WAIT_S).payload for _ in range(2)] == [b"before", b"after"]


def test_a_line_to_nowhere_closes_its_connections() -> None:
    line = FaultProxy("127.0.0.1", free_port("127.0.0.1"))
    line.mend()
    with socket.create_connection((line.host, line.port), timeout=WAIT_S) as near, suppress(ConnectionError):
        assert near.recv(1) == b""
    line.cut()


def test_stopping_leaves_no_thread_behind_and_may_be_repeated() -> None:
    broker = EmbeddedBroker()
    broker.start()
    broker.start()
    assert [thread.name for thread in threading.enumerate()].count("gateway.broker") == 1
    broker.stop()
    broker.stop()
    assert "gateway.broker" not in [thread.name for thread in threading.enumerate()]


def test_a_client_that_never_says_hello_does_not_keep_it_from_stopping(broker: EmbeddedBroker) -> None:
    with socket.create_connection((broker.host, broker.port)) as silent:
        broker.stop()
        assert silent.recv(1) == b""


def test_connections_that_say_nothing_make_way_for_one_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_most_connections", lambda: 5)
    broker = EmbeddedBroker()
    broker.start()
    with ExitStack() as cleanup:
        cleanup.callback(broker.stop)
        for _ in range(3):
            silent = [
                cleanup.enter_context(socket.create_connection((broker.host, broker.port))) for _ in range(20)
            ]
            with connected(broker, "device") as device:
                assert device.connects.get(timeout=WAIT_S)[0] is False
                device.publish("t", b"x")
        silent[0].settimeout(WAIT_S)
        with suppress(ConnectionError):
            assert silent[0].recv(1) == b""


def test_beyond_its_limit_it_takes_no_client_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embedded, "_most_connections", lambda: 2)
    broker = EmbeddedBroker()
    broker.start()
    try:
        with connected(broker, "one") as one, connected(broker, "two") as two:
            for peer in (one, two):
                assert peer.connects.get(timeout=WAIT_S)[0] is False
            for _ in range(3):
                with (
                    socket.create_connection((broker.host, broker.port), timeout=WAIT_S) as third,
                    suppress(ConnectionError),
                ):
                    assert third.recv(1) == b""
            one.publish("t", b"x")
    finally:
        broker.stop()
    assert caplog.messages == ["the embedded broker has 2 clients and takes no more"]


def test_a_taken_port_is_a_broker_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        broker = EmbeddedBroker(port=other.getsockname()[1])
        with pytest.raises(BrokerError, match=r"cannot be started on 127\.0\.0\.1:") as failed:
            broker.start()
    assert "Address already in use" in str(failed.value)
    assert "local.url" in failed.value.hint


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])  # noqa: S104 - it must be refused
def test_without_a_password_it_serves_this_machine_only(host: str) -> None:
    with pytest.raises(ConfigError, match="open to everyone"):
        EmbeddedBroker(host)


@pytest.mark.parametrize(
    ("username", "password", "refused"),
    [("me", "secret", False), ("me", "wrong", True), ("you", "secret", True), (None, None, True)],
)
def test_with_a_password_only_those_who_know_it_get_in(
    username: str | None, password: str | None, refused: bool
) -> None:
    broker = EmbeddedBroker(username="me", password="secret")  # noqa: S106 - a test's own
    broker.start()
    peer = Peer("someone")
    peer.client.username_pw_set(username, password)
    peer.client.connect(broker.host, broker.port)
    peer.client.loop_start()
    try:
        assert peer.connects.get(timeout=WAIT_S)[0] is refused
    finally:
        peer.client.disconnect()
        peer.client.loop_stop()
        broker.stop()


def test_it_logs_nothing_that_a_user_would_have_to_read(
    broker: EmbeddedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="gateway"), connected(broker, "writer") as writer:
        writer.publish("t", b"x")
        broker.stop()
    assert caplog.records == []


@pytest.mark.parametrize(
    "names",
    [
        pytest.param([f"publisher{n}" for n in range(20)], id="many"),
        pytest.param(["back"] * 20, id="one, often"),
    ],
)
def test_what_was_acknowledged_arrives_in_order_although_its_publisher_left_at_once(
    broker: EmbeddedBroker, names: list[str]
) -> None:
    with connected(broker, "reader") as reader:
        reader.subscribe("t/#")
        for visit, name in enumerate(names):
            publish_and_leave(broker, name, [b"%d/%d" % (visit, number) for number in range(50)])
        received = [reader.messages.get(timeout=WAIT_S).payload for _ in range(50 * len(names))]
    assert received == [b"%d/%d" % (visit, number) for visit in range(len(names)) for number in range(50)]
