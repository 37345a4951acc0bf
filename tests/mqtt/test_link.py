"""The supervised connection: hostile packets, stale acks, refusals, backpressure.

Brokers are real, or sockets that send what no real broker would.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.core.events import Message
from gateway.mqtt import link as connection
from gateway.mqtt.bulk_publishes import FIRST_ID
from gateway.mqtt.endpoint import Endpoint, Will
from gateway.mqtt.link import Link, Session
from tests.conftest import MosquittoFactory
from tests.support.asked_broker import CONNACK, asked_broker
from tests.support.gateways import wait_until
from tests.support.stub_broker import CLOSE, PUBLISH, StubBroker


class Recorder(Session):
    """Notes everything that a link tells its session."""

    def __init__(self, filters: tuple[tuple[str, int], ...] = ()) -> None:
        self.filters = filters
        self.sessions: list[bool] = []
        self.messages: list[Message] = []
        self.answers: list[tuple[int, int]] = []
        self.lost = 0
        self.reading = True
        self.outbox: list[Callable[[Link], object]] = []

    def connected(self, link: Link, session_present: bool) -> None:
        self.sessions.append(session_present)
        link.subscribe(self.filters)

    def received(self, link: Link, messages: list[Message]) -> None:
        self.messages += messages

    def published(self, link: Link, packet_id: int, reason_code: int) -> None:
        self.answers.append((packet_id, reason_code))

    def disconnected(self, link: Link) -> None:
        self.lost += 1

    def wants_to_read(self) -> bool:
        return self.reading

    def work(self, link: Link) -> float:
        while self.outbox:
            self.outbox.pop(0)(link)
        return 1.0

    def do(self, link: Link, action: Callable[[Link], object]) -> None:
        self.outbox.append(action)
        link.wake()


@contextmanager
def running(session: Session, **endpoint: object) -> Iterator[Link]:
    settings = {"host": "127.0.0.1", "client_id": "tested"} | endpoint
    link = Link("tested", Endpoint(**settings), session)  # type: ignore[arg-type]
    link.start()
    try:
        yield link
    finally:
        link.stop()
        assert not link.alive


@contextmanager
def scripted_broker(*answers: bytes) -> Iterator[int]:
    """Accepts connections one after the other, answers CONNECT, then sends `answers[n]` on the n-th; the
    last one is repeated."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def serve() -> None:
        number = 0
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = listener.accept()
                connections.append(accepted)
                accepted.recv(1000)
                accepted.sendall(CONNACK + answers[min(number, len(answers) - 1)])
                number += 1

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for accepted in connections:
            accepted.close()
        thread.join(5)


GOOD = b"\x30\x04\x00\x01a" + b"X"


@pytest.mark.parametrize(
    "poison",
    [
        pytest.param(b"\x30\x01\x00", id="a PUBLISH that is cut short"),
        pytest.param(b"\x30\x04\xff\xffab", id="a topic longer than its packet"),
        pytest.param(b"\x90\x01\x00", id="a SUBACK that is cut short"),
        pytest.param(b"\x40\x01\x00", id="a PUBACK that is cut short"),
        pytest.param(b"\x36\x05\x00\x01aXX", id="QoS 3"),
        pytest.param(b"\xf0\x00", id="a packet type that does not exist"),
        pytest.param(b"\x30\xff\xff\xff\xff\x7f", id="a length of five bytes"),
    ],
)
def test_no_packet_ends_the_loop_and_the_next_connection_works(poison: bytes) -> None:
    session = Recorder()
    with scripted_broker(poison, GOOD) as port, running(session, port=port) as link:
        wait_until(lambda: session.messages, "a message on the second connection")
        assert session.messages[0].topic == "a"
        assert session.messages[0].epoch == 2
        assert link.metrics.failures == 1
        assert session.lost == 1


def test_a_retry_now_ends_the_pause_however_long_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_BACKOFF_S", 1e6)  # days, of which chance takes a part
    session = Recorder()
    broker = scripted_broker(b"\xf0\x00", GOOD)
    with broker as port, running(session, port=port, reconnect_max_s=1e6) as link:
        wait_until(lambda: link.metrics.failures == 1, "the first connection's end")
        link.retry_now()
        wait_until(lambda: session.messages, "a message on the second connection")
        assert session.messages[0].epoch == 2


def test_no_pause_is_longer_than_reconnect_max(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_BACKOFF_S", 1e6)
    session = Recorder()
    with scripted_broker(b"\xf0\x00", GOOD) as port, running(session, port=port, reconnect_max_s=0.1):
        wait_until(lambda: session.messages, "a message on the second connection")


def test_an_unknown_puback_changes_nothing() -> None:
    session = Recorder()
    with scripted_broker(b"\x40\x02\x00\x09" + GOOD) as port, running(session, port=port) as link:
        wait_until(lambda: session.messages, "the message behind it")
        assert link.metrics.failures == 0


def test_a_topic_that_is_not_utf8_is_kept_under_a_name_that_can_be_stored() -> None:
    session = Recorder()
    topic = b"a/\xff\xfe"
    packet = b"\x30" + bytes([2 + len(topic) + 1]) + len(topic).to_bytes(2, "big") + topic + b"x"
    with scripted_broker(packet) as port, running(session, port=port):
        wait_until(lambda: session.messages, "the message")
        assert session.messages[0].topic == "a/\\xff\\xfe"
        session.messages[0].topic.encode()


def test_a_callback_that_raises_costs_the_connection_but_not_the_thread() -> None:
    class Broken(Recorder):
        def received(self, link: Link, messages: list[Message]) -> None:
            super().received(link, messages)
            if len(self.messages) == 1:
                raise ZeroDivisionError

    session = Broken()
    with scripted_broker(GOOD) as port, running(session, port=port) as link:
        wait_until(lambda: len(session.messages) == 2, "a message after the defect")
        assert link.metrics.failures == 1


def test_an_ack_of_an_earlier_connection_is_dropped(mosquitto: MosquittoFactory) -> None:
    broker = mosquitto(["max_inflight_messages 1"])
    session = Recorder((("t/#", 1),))
    with running(session, port=broker.port, client_id="stale", persistent=True) as link:
        wait_until(lambda: session.sessions, "the connection")
        with running(Recorder(), port=broker.port, client_id="publisher") as publisher:
            sender = publisher._session
            wait_until(lambda: publisher.connected, "the publisher")
            for payload in (b"first", b"second"):
                sender.do(publisher, lambda p, payload=payload: p.publish("t/x", payload))  # type: ignore[attr-defined]
        wait_until(lambda: len(session.messages) == 1, "the first message")
        stale = session.messages[0]
        session.do(link, lambda link: link.reset("as if the network broke"))
        wait_until(lambda: len(session.messages) == 2, "the redelivery")
        again = session.messages[1]
        assert (again.payload, again.dup, again.epoch) == (b"first", True, stale.epoch + 1)
        # The window is one: were this ack sent, the broker would take "first" as done and send "second".
        session.do(link, lambda link: link.ack(stale))
        session.do(link, lambda link: link.publish("unrelated", b"barrier"))
        wait_until(lambda: session.answers, "the barrier's PUBACK, behind any effect of the ack")
        assert len(session.messages) == 2
        session.do(link, lambda link: link.ack(again))
        wait_until(lambda: len(session.messages) == 3, "the second message")
        assert session.messages[2].payload == b"second"


def test_a_qos_2_delivery_is_answered_step_by_step_and_only_when_the_owner_says_so() -> None:
    publish = b"\x34\x06\x00\x01a\x00\x07X"
    session = Recorder()
    with asked_broker(publish) as (port, sent), running(session, port=port) as link:
        wait_until(lambda: session.messages, "the message, with its PUBLISH")
        assert (session.messages[0].qos, session.messages[0].payload) == (2, b"X")
        session.do(link, lambda link: link.publish("t", b"", qos=0))
        assert sent().startswith(b"\x30"), "nothing was acknowledged before the owner did"
        session.do(link, lambda link: link.ack(session.messages[0]))
        assert sent() == b"\x50\x02\x00\x07"  # PUBREC
        sent.answer(b"\x62\x02\x00\x07")
        assert sent() == b"\x70\x02\x00\x07"  # PUBCOMP
        assert len(session.messages) == 1


def test_subscriptions_go_in_packets_of_eight_and_a_refusal_names_its_filter() -> None:
    session = Recorder(tuple((f"t/{number}", 1) for number in range(10)))
    with asked_broker() as (port, sent), running(session, port=port) as link:
        first, second = sent(), sent()
        assert (first.count(b"t/"), second.count(b"t/")) == (8, 2)
        sent.answer(b"\x90\x04" + second[2:4] + b"\x01\x80")
        wait_until(lambda: link.metrics.failures, "the refusal")
        assert link.metrics.last_error.endswith("refused the subscription to t/9")


def test_without_room_nothing_is_read_and_nothing_is_lost(mosquitto: MosquittoFactory) -> None:
    broker = mosquitto()
    session = Recorder((("t/#", 1),))
    with running(session, port=broker.port, client_id="full") as link:
        wait_until(lambda: session.sessions, "the connection")
        session.do(link, lambda link: link.publish("t/before", b""))
        wait_until(lambda: session.messages, "the subscription")
        session.reading = False
        link.wake()
        with running(Recorder(), port=broker.port, client_id="publisher") as publisher:
            wait_until(lambda: publisher.connected, "the publisher")
            sender: Recorder = publisher._session  # type: ignore[assignment]
            for _ in range(10):
                sender.do(publisher, lambda p: p.publish("t/x", b""))
            wait_until(lambda: len(sender.answers) == 10, "the broker has all ten")
        assert len(session.messages) == 1
        session.reading = True
        link.wake()
        wait_until(lambda: len(session.messages) == 11, "all ten")


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_both_protocols_publish_subscribe_and_keep_a_session(
    mosquitto: MosquittoFactory, protocol: str
) -> None:
    broker = mosquitto()
    settings = {"port": broker.port, "client_id": "both", "protocol": protocol, "persistent": True}
    session = Recorder((("t/#", 1),))
    with running(session, **settings) as link:
        wait_until(lambda: session.sessions, "the connection")
        session.do(link, lambda link: link.publish("t/1", b"x", properties=[("k", "v")]))
        wait_until(lambda: session.messages and session.answers, "message and PUBACK")
        assert session.messages[0].properties == ((("k", "v"),) if protocol == "5" else ())
        assert [reason for _, reason in session.answers] == [0]
    again = Recorder()
    with running(again, **settings):
        wait_until(lambda: again.messages, "what was not acknowledged")
        assert again.sessions == [True]
        assert again.messages[0].dup


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_thousands_of_messages_may_wait_for_their_answers(mosquitto: MosquittoFactory, protocol: str) -> None:
    session = Recorder()
    with running(session, port=mosquitto().port, protocol=protocol) as link:
        wait_until(lambda: session.sessions, "the connection")
        session.do(link, lambda link: [link.publish("t", b"x") for _ in range(3000)])
        wait_until(lambda: len(session.answers) == 3000, "all answers")
        assert len({packet_id for packet_id, _ in session.answers}) == 3000


def test_without_a_packet_id_left_the_connection_ends_and_the_next_one_works(
    mosquitto: MosquittoFactory, caplog: pytest.LogCaptureFixture
) -> None:
    session = Recorder()
    with running(session, port=mosquitto().port) as link:
        wait_until(lambda: session.sessions, "the connection")
        session.do(link, lambda link: [link.publish("t", b"") for _ in range(FIRST_ID)])
        wait_until(lambda: len(session.sessions) == 2, "another connection")
        assert "no packet id left" in caplog.text


def test_mqtt_5_tells_a_refusal_from_an_acknowledgement(mosquitto: MosquittoFactory) -> None:
    broker = mosquitto(["message_size_limit 1000"])
    session = Recorder()
    with running(session, port=broker.port, protocol="5") as link:
        wait_until(lambda: session.sessions, "the connection")
        session.do(link, lambda link: link.publish("t", b"x" * 2000))
        wait_until(lambda: session.answers or session.lost, "an answer")
        assert session.lost or session.answers[0][1] >= 0x80


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("credentials", [{}, {"username": "u", "password": "wrong"}])
def test_a_refused_connection_says_why_and_is_tried_again(
    mosquitto: MosquittoFactory, protocol: str, credentials: dict[str, str]
) -> None:
    broker = mosquitto(["allow_anonymous false"])
    session = Recorder()
    with running(session, port=broker.port, protocol=protocol, **credentials) as link:
        wait_until(lambda: link.metrics.failures >= 2, "two attempts")
        assert link.metrics.last_error == (
            f"127.0.0.1:{broker.port} refused the connection: Not authorized; "
            "check the username, the password and the client_id that the configuration gives"
        )
        assert not session.sessions


def test_the_will_speaks_after_a_crash_and_not_after_a_stop(mosquitto: MosquittoFactory) -> None:
    broker = mosquitto()
    watcher = Recorder((("status", 1),))
    with running(watcher, port=broker.port, client_id="watcher") as watching:
        wait_until(lambda: watching.connected, "the watcher")
        will = Will("status", b"offline")
        session = Recorder()
        with running(session, port=broker.port, client_id="dies", will=will) as link:
            wait_until(lambda: session.sessions, "the connection")
            session.do(link, lambda link: link.reset("a crash, as the broker sees it"))
            wait_until(lambda: watcher.messages, "the will")
            wait_until(lambda: len(session.sessions) == 2, "the new connection")
        session.lost = 0
        watcher.do(watching, lambda link: link.publish("status", b"barrier"))
        wait_until(lambda: len(watcher.messages) == 2, "the barrier")
        assert [m.payload for m in watcher.messages] == [b"offline", b"barrier"]


def test_connections_that_bring_nothing_are_made_ever_more_seldom_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each is accepted and then closed."""
    broker = StubBroker(lambda packet: CLOSE if packet.kind == PUBLISH else None)

    class Publisher(Session):
        def connected(self, link: Link, session_present: bool) -> None:
            link.publish("t", b"1")

    with broker.running(), running(Publisher(), port=broker.port, reconnect_max_s=0.05):
        wait_until(lambda: broker.connections > 8, "many connections")
        started_s, before = time.monotonic(), broker.connections
        wait_until(lambda: broker.connections > before + 8, "as many again")
        took_s = time.monotonic() - started_s
    assert took_s > 8 * 0.05  # with pauses of at most 50 ms it could not be
    assert "in a row ended without any progress" in caplog.text


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_two_clients_with_one_client_id_are_suspected_where_the_broker_only_closes(
    mosquitto: MosquittoFactory, caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    broker = mosquitto()
    settings = {"port": broker.port, "client_id": "twin", "protocol": protocol, "persistent": True}
    with running(Recorder(), **settings), running(Recorder(), **settings):
        wait_until(lambda: "does another client use the client id 'twin'?" in caplog.text, "the suspicion")


def test_another_client_with_the_same_client_id_is_named_where_the_broker_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = asked_broker(b"\xe0\x01\x8e", b"\x20\x03\x00\x00\x00")
    with broker as (port, _), running(Recorder(), port=port, protocol="5"):
        wait_until(lambda: "another client uses this client id, 'tested'" in caplog.text, "the takeover")


def test_a_corrected_password_file_is_read_with_the_next_connection(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    known = tmp_path / "passwords"
    # user:right, as mosquitto_passwd -H sha512 writes it
    salt = b"0123456789ab"
    digest = base64.b64encode(hashlib.sha512(b"right" + salt).digest()).decode()
    known.write_text(f"user:$6${base64.b64encode(salt).decode()}${digest}\n")
    known.chmod(0o644)
    broker = mosquitto(["allow_anonymous false", f"password_file {known}"], persistence=tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("wrong\n")
    settings = {"port": broker.port, "username": "user", "password": "wrong", "password_file": secret}
    with running(Recorder(), reconnect_max_s=0.2, **settings) as link:
        wait_until(lambda: link.metrics.failures, "the refusal")
        secret.write_text("right\n")
        wait_until(lambda: link.connected, "the connection")
        secret.unlink()
    assert link.endpoint.current_password() == "wrong", "the last one that is known"


def test_a_process_with_more_than_a_thousand_descriptors_connects(mosquitto: MosquittoFactory) -> None:
    """`select` cannot watch a descriptor beyond 1,023."""
    broker, session = mosquitto(), Recorder((("t", 1),))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held = [os.dup(0) for _ in range(1100)]
    try:
        with running(session, port=broker.port) as link:
            wait_until(lambda: session.sessions, "the connection")
            session.do(link, lambda link: link.publish("t", b"1"))
            wait_until(lambda: session.messages and session.answers, "the message and its PUBACK")
            assert link.metrics.failures == 0
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
