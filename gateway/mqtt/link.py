"""Supervised MQTT connection: a thread drives it, and nothing that a broker sends can end the thread.

The connection (`paho_client`) is driven from one thread that also runs all of the owner's callbacks. So
acknowledgements, publishes and reconnects cannot overtake each other, and no lock is needed:
- every connection has an epoch, and an ack of an older epoch is dropped (after a reconnect the same packet
  id may belong to a different message, which would be lost);
- a paho client lives for one connection only, so nothing is resent behind the owner's back;
- whatever is raised while a connection is served ends that connection, is counted, and a new one is made
  after a pause with full jitter.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from gateway.core.errors import BrokerError, SilentBrokerError, plain_reason
from gateway.core.events import Message
from gateway.core.threads import RoleThread
from gateway.mqtt.concessions import Concessions
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.paho_client import CONNECT_TIMEOUT_S, Connack, Connection, is_refusal
from gateway.mqtt.sockets import Readiness

log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.5
STOP_TIMEOUT_S = 2.0  # a goodbye takes milliseconds; what takes longer is a peer that does not answer
_CHANCE = random.Random()  # of its own: a program that seeds `random` must not make a fleet come back at once
_EVERY_S = 1.0
_TAKEN_OVER = 0x8E
TOO_LARGE = 0x95
_CLOSED_OFTEN = 3
FAIL_BACK_S = 300.0  # how often a link on another broker looks for the first one of the list
_LOOK_TIMEOUT_S = 1.0
_RENEW_AT = 0.8  # of the time that a password is valid
_BARREN = 5  # connections in a row that brought nothing: pauses go beyond `reconnect_max`
_BARREN_LONGEST = 16  # times `reconnect_max`
_UNSENT_LIMIT_BYTES = 4 * 1024 * 1024  # a peer that does not read must not fill our memory


class Session:
    """The owner's side of a connection: override what matters. All of it runs on the link's thread."""

    def connected(self, link: Link, session_present: bool) -> None:
        """The broker accepted the connection. `session_present`: it still knows our subscriptions."""

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        """The broker answered a SUBSCRIBE, with the granted QoS by filter. A code >= 128 is a refusal; unless
        this is overridden, one ends the connection."""
        refused = [name for name, code in codes.items() if is_refusal(code)]
        if refused:
            link.reset(f"{link.endpoint.place} refused the subscription to {', '.join(refused)}")

    def unsubscribed(self, link: Link, filters: Sequence[str]) -> None:
        """The broker has ended these subscriptions."""

    def received(self, link: Link, messages: list[Message]) -> None:
        """Take the messages that one turn of the loop has read, in order."""

    def published(self, link: Link, packet_id: int, reason_code: int) -> None:
        """The broker answered a QoS 1 publish. `reason_code` >= 128 is a refusal (MQTT 5)."""

    def published_many(self, link: Link, packet_ids: Sequence[int], reason_code: int) -> None:
        """The broker answered messages of `Link.publish_many`, all in the same way."""
        for packet_id in packet_ids:
            self.published(link, packet_id, reason_code)

    def released(self, link: Link, packet_id: int) -> None:
        """The broker will not send the QoS 2 message of this packet id again. Call `Link.complete` once that
        needs no remembering: then it may give the id to another message."""
        link.complete(packet_id)

    def disconnected(self, link: Link) -> None:
        """The connection is gone, with everything that was not acknowledged on it."""

    def leaving(self, link: Link) -> None:
        """`Link.stop` was called; what is published here still goes out before the DISCONNECT."""

    def work(self, link: Link) -> float:
        """Publish, acknowledge. Called on every turn while connected; returns how many seconds the loop
        may wait for the network before it calls again. `Link.wake` cuts that short."""
        return 1.0

    def wants_to_read(self) -> bool:
        """False leaves what has arrived in the socket: backpressure to the broker."""
        return True


class LinkMetrics:
    """Plain numbers, written by the link's thread, read by any."""

    def __init__(self) -> None:
        self.connects = 0
        self.failures = 0
        self.too_large = 0  # messages that were not sent, because the broker takes none of this size
        self.last_error = ""
        self.accepted = False  # the newest attempt, whatever became of that connection
        self.silent = False  # the broker held the last connection, but did not answer on it
        self.messages = 0
        self.waited = 0  # of the messages: those that were there already when the loop came to read


class Link:
    """A thread `gateway.<name>` that keeps one connection to `endpoint` and serves `session` on it."""

    def __init__(self, name: str, endpoint: Endpoint, session: Session, now_ms: Any = None) -> None:
        self.name = name
        self.endpoint = endpoint
        self.metrics = LinkMetrics()
        self.epoch = 0
        self.connected = False
        self.connack = Connack(session_present=False)  # what the broker said last
        self.farewell_code: int | None = None  # of the broker's DISCONNECT, if it sent one (MQTT 5)
        self.ended_by_us = False  # the connection that ended last
        self._choices = (endpoint, *endpoint.alternatives)
        self._choice = 0
        self._connected_at_s = self._looked_at_s = 0.0
        self._concessions = Concessions(name, endpoint.will)
        self._barren = 0  # connections in a row that were accepted, and lost before they brought anything
        self._earlier_wire_bytes = 0
        self._backoff_s = FIRST_BACKOFF_S
        self._closed_in_a_row = 0
        self._session = session
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self._connection: Connection | None = None
        self._stop = threading.Event()
        self._answered_here: list[int] = []  # packet ids of messages that are too large for the broker
        self._pause_over = threading.Event()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self.thread = RoleThread(name, self._run)

    # --- from any thread ---

    def start(self) -> None:
        self.thread.start()

    def begin_stop(self) -> None:
        """Let the thread disconnect politely and end; `stop` waits for it."""
        self._stop.set()
        self._pause_over.set()
        self.wake()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Disconnect politely and end the thread. One that waits for a peer's TLS is left to itself."""
        self.begin_stop()
        if self.thread.is_alive():
            self.thread.join(timeout_s)
        if not self.thread.is_alive():
            self._wake_receiver.close()
            self._wake_sender.close()

    def wake(self) -> None:
        """Let `Session.work` run soon."""
        # A full wake-up buffer wakes just as well; a closed one belongs to a stopped link.
        with contextlib.suppress(OSError):
            self._wake_sender.send(b"!", socket.MSG_DONTWAIT)

    def retry_now(self) -> None:
        """Connect at once instead of after the pause, when the network is known to be back."""
        self._pause_over.set()

    @property
    def alive(self) -> bool:
        return self.thread.is_alive()

    # --- from the session's callbacks ---

    @property
    def max_packet_bytes(self) -> int | None:
        """The largest packet that the broker takes: as it said (MQTT 5), or as is known of it."""
        return self.connack.max_packet_bytes or self.endpoint.takes_bytes

    @property
    def receive_maximum(self) -> int:
        """Number of unacknowledged publishes that the broker takes (MQTT 5)."""
        return self.connack.receive_maximum

    def subscribe(
        self,
        filters: Sequence[tuple[str, int]],
        *,
        retained: Literal["always", "new"] = "always",
        identifier: int = 0,
    ) -> None:
        """Subscribe to (filter, QoS) pairs. `Session.subscribed` is told what came of it.

        `retained`: whether the broker sends its retained messages at each call, or only where the
        subscription is new to it (MQTT 5). `identifier` comes back in `Message.subscriptions`, unless it is 0
        (MQTT 5).
        """
        self._require_connection().subscribe(filters, retained, identifier)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """End subscriptions. `Session.unsubscribed` is told when the broker has."""
        self._require_connection().unsubscribe(filters)

    def ack(self, *messages: Message) -> None:
        """Acknowledge `messages`, but none that came on an earlier connection: its packet id may be another's
        now. With QoS 0 there is nothing to acknowledge, and nothing before the broker has accepted us."""
        if self._connection is not None and self.connected:
            self._connection.ack(messages)

    def complete(self, packet_id: int) -> None:
        """Answer `Session.released`, on the connection on which it was called."""
        if self._connection is not None and self.connected:
            self._connection.complete(packet_id)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        properties: Sequence[tuple[str, str]] = (),
        correlation: bytes = b"",
    ) -> int:
        """Publish and return the packet id, under which `Session.published` will be called.

        `properties` are MQTT 5 user properties, `correlation` its correlation data. Where the broker keeps no
        retained messages, `retain` is left out. A packet that is larger than the broker takes is not sent but
        answered here, as the broker would: with 0x95. Raises BrokerError when there is no connection.
        """
        connection, limit_bytes = self._require_connection(), self.max_packet_bytes
        if limit_bytes is not None:
            size_bytes = connection.publish_bytes(topic, payload, qos, properties, correlation)
            if size_bytes > limit_bytes:
                return self._answer_here(topic, size_bytes, limit_bytes)
        if connection.closing and connection.full:
            qos = 0  # at the end nobody waits for an answer
        retain = retain and self._concessions.may_retain(topic)
        packet_id = connection.publish(topic, payload, qos, retain, properties, correlation)
        if retain:
            self._concessions.retained(packet_id)
        return packet_id

    def publish_many(
        self, topics: Sequence[str], payloads: Sequence[bytes], properties: Sequence[bytes]
    ) -> tuple[list[int], int]:
        """Publish messages at QoS 1 in bulk, up to the first that needs `publish`: because the broker takes
        no packet of its size, or nobody a topic like it. Returns the packet ids of those sent, for
        `Session.published_many`, and the size of all packets.

        `properties` are MQTT 5 properties as they stand in a packet (`bulk_publishes`). Raises BrokerError
        when there is no connection.
        """
        return self._require_connection().publish_many(topics, payloads, properties, self.max_packet_bytes)

    @property
    def bulk_maximum(self) -> int:
        """Number of messages of `publish_many` that may be unanswered at a time; 0 where none may go."""
        return 0 if self._connection is None else self._connection.bulk.most

    @property
    def congested(self) -> bool:
        """True while so much is unsent that the session should publish no more."""
        connection = self._connection
        return connection is not None and connection.unsent_bytes > _UNSENT_LIMIT_BYTES

    @property
    def wire_bytes(self) -> int:
        """Bytes sent on all connections so far, with those that still wait for the network."""
        connection = self._connection
        return self._earlier_wire_bytes + (0 if connection is None else connection.wire_bytes)

    def progressed(self) -> None:
        """Note that this connection is useful: the pauses between attempts begin anew after it."""
        self._backoff_s = FIRST_BACKOFF_S
        self._barren = 0

    def reset(self, reason: str) -> None:
        """Give up this connection; a new one is made. Call it from a callback; it raises BrokerError."""
        self.ended_by_us = True
        raise BrokerError(reason)

    # --- from the connection ---

    def accepted(self, connack: Connack) -> None:
        self.epoch += 1
        self.connected = True
        self.connack = connack
        self.metrics.connects += 1
        self.metrics.last_error, self.metrics.silent = "", False
        self.metrics.accepted = True
        self.farewell_code = None
        self._concessions.accepted(retain_available=connack.retain_available)
        log.info("%s: connected to %s", self.name, self.endpoint.place)
        self._connected_at_s = self._looked_at_s = time.monotonic()
        self._session.connected(self, connack.session_present)

    def published(self, packet_id: int, reason_code: int) -> None:
        self._concessions.answered(packet_id)
        self._session.published(self, packet_id, reason_code)

    def published_many(self, packet_ids: Sequence[int], reason_code: int) -> None:
        self._session.published_many(self, packet_ids, reason_code)

    def released(self, packet_id: int) -> None:
        self._session.released(self, packet_id)

    def subscribed(self, codes: dict[str, int]) -> None:
        self._session.subscribed(self, codes)

    def unsubscribed(self, filters: Sequence[str]) -> None:
        self._session.unsubscribed(self, filters)

    # --- the thread ---

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            self.ended_by_us = False
            try:
                self._serve()
            except _Renewal as exc:
                self.ended_by_us = True
                log.info("%s: reconnecting: %s", self.name, exc)
                self.progressed()
            except Exception as exc:  # noqa: BLE001
                # A malformed packet, a refusal, a defect in paho or in a callback: whatever it is, the
                # thread goes on, or the gateway would stay "connected" and deaf for ever.
                self._note_failure(exc)
            finally:
                self._end_connection()
            self._pause(time.monotonic() - started)

    def _client_id_hint(self) -> str:
        """Return advice for when another client seems to have taken our client id, and so our session."""
        connection, name = self._connection, repr(self.endpoint.client_id)
        if connection is None or not connection.closed_by_broker:
            self._closed_in_a_row = 0
            return ""
        self._closed_in_a_row += 1
        if connection.farewell_code == _TAKEN_OVER:
            return f": another client uses this client id, {name}"
        if self._closed_in_a_row >= _CLOSED_OFTEN:
            return f", {self._closed_in_a_row} times in a row: does another client use the client id {name}?"
        return ""

    def _pause(self, lasted_s: float) -> None:
        """Wait before the next attempt, with full jitter: a fleet must not come back at once."""
        longest_s = self.endpoint.reconnect_max_s
        if lasted_s > longest_s:
            self.progressed()
            self._closed_in_a_row = 0
        if self._barren > _BARREN:
            longest_s *= min(2 ** (self._barren - _BARREN), _BARREN_LONGEST)
        pause_s = _CHANCE.uniform(0, min(self._backoff_s, longest_s))
        hurried = self._pause_over.wait(max(pause_s, self.endpoint.reconnect_min_s))
        self._pause_over.clear()
        self._backoff_s = FIRST_BACKOFF_S if hurried else min(self._backoff_s * 2, longest_s)

    def _serve(self) -> None:
        connection = self._connection = Connection(
            replace(self.endpoint, will=self._concessions.will),
            self,
            self._now_ms,
            self.epoch + 1,
            aliases=self._concessions.aliases,
        )
        sock = connection.open()
        readiness = Readiness(sock, self._wake_receiver)
        next_check_s = 0.0
        connecting_until_s = time.monotonic() + CONNECT_TIMEOUT_S
        wait_s = 0.0  # CONNECT is queued: send it before waiting for the answer
        while not self._stop.is_set():
            reading = self._listening
            data_waited = readiness.wait(min(wait_s, _EVERY_S), reading=reading)
            if reading:
                self._hand_on(connection.read(), data_waited)
            wait_s = self._session.work(self) if self.connected else _EVERY_S
            if self._answered_here:
                wait_s = self._hand_answers_on()
            connection.write()
            now_s = time.monotonic()
            if now_s >= next_check_s:
                connection.keep_alive(listening=reading)
                next_check_s = now_s + _EVERY_S
            self._check_progress(connection, connecting_until_s)
            self._check_renewal(now_s)
            if sock.readable and self._listening:
                wait_s = 0.0

    @property
    def _listening(self) -> bool:
        """True unless the session takes no messages for now; the answer to CONNECT is none."""
        return not self.connected or self._session.wants_to_read()

    def _hand_on(self, messages: list[Message], data_waited: bool) -> None:
        if messages:
            self.progressed()
            self.metrics.messages += len(messages)
            self.metrics.waited += len(messages) * data_waited
            self._session.received(self, messages)

    def _answer_here(self, topic: str, size_bytes: int, limit_bytes: int) -> int:
        """Refuse a message in the broker's place; returns its packet id, which is no other message's."""
        log.warning(
            "%s: a message on %s of %d bytes is not sent: %s takes %d",
            *(self.name, topic, size_bytes, self.endpoint.place, limit_bytes),
        )
        self.metrics.too_large += 1
        self._answered_here.append(-self.metrics.too_large)
        return -self.metrics.too_large

    def _hand_answers_on(self) -> float:
        answered, self._answered_here = self._answered_here, []
        for packet_id in answered:
            self._session.published(self, packet_id, TOO_LARGE)
        return 0.0

    def _check_progress(self, connection: Connection, connecting_until_s: float) -> None:
        if not self.connected and time.monotonic() > connecting_until_s:
            place = self.endpoint.place
            raise SilentBrokerError(f"{place} accepted the connection but did not answer CONNECT")
        if connection.unsent_bytes > _UNSENT_LIMIT_BYTES * 4:
            raise BrokerError(f"{self.endpoint.place} does not read what we send")

    def _check_renewal(self, now_s: float) -> None:
        """Leave before the password runs out, and for the first choice of brokers once it is back."""
        if not self.connected:
            return
        ttl_s = self.endpoint.password_ttl_s
        if ttl_s is not None and now_s - self._connected_at_s > _RENEW_AT * ttl_s:
            raise _Renewal("the password expires soon")
        if self._choice and now_s - self._looked_at_s > FAIL_BACK_S:
            self._looked_at_s = now_s
            if _answers(self._choices[0]):
                self._choice = 0
                raise _Renewal(f"{self._choices[0].place} is back")

    def _end_connection(self) -> None:
        connection, was_connected = self._connection, self.connected
        if connection is not None:
            if was_connected and self._stop.is_set():
                self._say_goodbye(connection)
            connection.close()
            self._earlier_wire_bytes += connection.wire_bytes
            self.farewell_code = connection.farewell_code
            if not self._stop.is_set():
                self._concessions.ended(connection.refused_code, connection.farewell_code, was_connected)
                if connection.bulk.uses_aliases:
                    self._concessions.ended_with_aliases(connection.farewell_code)
                self._note_barren(was_connected)
        self._connection, self.connected = None, False
        self._answered_here.clear()
        if was_connected:
            self._session.disconnected(self)
        self._choose(was_connected)

    def _choose(self, was_connected: bool) -> None:
        """Choose the next address: the next of the list where this one did not work, else the first again."""
        self._choice = 0 if was_connected else (self._choice + 1) % len(self._choices)
        self.endpoint = self._choices[self._choice]

    def _note_barren(self, was_connected: bool) -> None:
        self._barren += was_connected
        if was_connected and self._barren > _BARREN:
            log.warning(
                "%s: %d connections to %s in a row ended without any progress: %s; "
                "the pauses grow up to %d times reconnect_max",
                *(self.name, self._barren, self.endpoint.place, self.metrics.last_error, _BARREN_LONGEST),
            )

    def _say_goodbye(self, connection: Connection) -> None:
        """Last words and DISCONNECT, on a connection that may be broken already."""
        connection.closing = True
        try:
            self._session.leaving(self)
            connection.say_goodbye()
        except (OSError, ValueError, BrokerError) as exc:
            log.info("%s: closed without DISCONNECT: %s", self.name, exc)

    def _note_failure(self, error: Exception) -> None:
        self.metrics.failures += 1
        self.metrics.last_error = plain_reason(error) + self._client_id_hint()
        self.metrics.silent = isinstance(error, SilentBrokerError)
        self.metrics.accepted = self.connected
        expected = isinstance(error, (OSError, BrokerError))
        log.warning(
            "%s: %s %s: %s",
            self.name,
            "lost the connection to" if self.connected else "no connection to",
            self.endpoint.place,
            self.metrics.last_error,
            exc_info=None if expected else error,
        )

    def _require_connection(self) -> Connection:
        if self._connection is None or not self.connected:
            raise BrokerError(f"not connected to {self.endpoint.place}")
        return self._connection


class _Renewal(Exception):  # noqa: N818 - no error
    """Raised to leave a connection that works, for a better one."""


def _answers(endpoint: Endpoint) -> bool:
    """Return True if a server listens there; behind a proxy, True without a test."""
    if endpoint.proxy is not None:
        return True
    try:
        socket.create_connection((endpoint.host, endpoint.port), _LOOK_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def stop_links(links: Sequence[Link], timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Stop all of them at the same time, within `timeout_s` in total."""
    deadline_s = time.monotonic() + timeout_s
    for link in links:
        link.begin_stop()
    for link in links:
        link.stop(max(0.0, deadline_s - time.monotonic()))
