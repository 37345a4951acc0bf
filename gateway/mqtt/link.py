"""One supervised MQTT connection: a thread that drives paho, and that nothing a broker sends can end.

paho is driven from the outside (`loop_read`, `loop_write`, `loop_misc`), on one thread that also runs all
of the owner's callbacks. So acknowledgements, publishes and reconnects cannot overtake each other, and no
lock is needed:
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
import select
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gateway.core.errors import BrokerError, plain_reason
from gateway.core.events import Message
from gateway.core.threads import RoleThread
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.sockets import BufferedSocket

log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.5
STOP_TIMEOUT_S = 2.0  # a goodbye takes milliseconds; what takes longer is a peer that does not answer
_CONNECT_TIMEOUT_S = 10.0
_MISC_EVERY_S = 1.0
_UNSENT_LIMIT_BYTES = 4 * 1024 * 1024  # a peer that does not read must not fill our memory
_PACKETS_PER_TURN = 2000
_CREDENTIALS_REFUSED = (0x86, 0x87)  # bad user name or password, not authorized
_CREDENTIALS_HINT = "; check the username, the password and the client_id that the configuration gives"


class Session:
    """What an owner does with a connection: override what matters. All of it runs on the link's thread."""

    def connected(self, link: Link, session_present: bool) -> None:
        """The broker accepted the connection. `session_present`: it still knows our subscriptions."""

    def received(self, link: Link, messages: list[Message]) -> None:
        """What one turn of the loop has read, in order."""

    def published(self, link: Link, packet_id: int, reason_code: int) -> None:
        """The broker answered a QoS 1 publish. `reason_code` >= 128 is a refusal (MQTT 5)."""

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
        self.last_error = ""
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
        self.max_packet_bytes: int | None = None  # what the broker said it takes (MQTT 5)
        self.receive_maximum = 65_535  # how many unacknowledged publishes it takes (MQTT 5)
        self.farewell_code: int | None = None  # of the broker's DISCONNECT, if it sent one (MQTT 5)
        self._earlier_wire_bytes = 0
        self._backoff_s = FIRST_BACKOFF_S
        self._session = session
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self._client: _Client | None = None
        self._inbox: list[Message] = []
        self._refused = ""
        self._data_waited = False
        self._stop = threading.Event()
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
        """Connect at once instead of after the pause; for who knows that the network is back."""
        self._pause_over.set()

    @property
    def alive(self) -> bool:
        return self.thread.is_alive()

    # --- from the session's callbacks ---

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Subscribe to (filter, QoS) pairs. A refusal ends the connection with BrokerError."""
        if filters:
            self._require_client().subscribe(list(filters))

    def ack(self, epoch: int, packet_id: int) -> None:
        """Acknowledge a QoS 1 message, unless it came on an earlier connection."""
        if epoch == self.epoch and self._client is not None:
            self._client.ack(packet_id, 1)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        properties: Sequence[tuple[str, str]] = (),
    ) -> int:
        """Publish and return the packet id, under which `Session.published` will be called.

        `properties` are MQTT 5 user properties. Raises BrokerError when there is no connection.
        """
        sent: Properties | None = None
        if properties and self.endpoint.protocol == "5":
            sent = Properties(PacketTypes.PUBLISH)
            sent.UserProperty = list(properties)
        info = self._require_client().publish(topic, payload, qos, retain, sent)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise BrokerError(f"publish to {self._place} failed: {paho.error_string(info.rc)}")
        return int(info.mid)

    @property
    def wire_bytes(self) -> int:
        """What was sent on all connections so far, with what still waits for the network."""
        client = self._client
        return self._earlier_wire_bytes + (0 if client is None else client.wire_bytes)

    def progressed(self) -> None:
        """This connection is good for something: after it, the pauses between attempts begin anew."""
        self._backoff_s = FIRST_BACKOFF_S

    def reset(self, reason: str) -> None:
        """Give up this connection; a new one is made. Call it from a callback; it raises BrokerError."""
        raise BrokerError(reason)

    # --- the thread ---

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                self._serve()
            except Exception as exc:  # noqa: BLE001
                # A malformed packet, a refusal, a defect in paho or in a callback: whatever it is, the
                # thread goes on, or the gateway would stay "connected" and deaf for ever.
                self._note_failure(exc)
            finally:
                self._end_connection()
            longest_s = self.endpoint.reconnect_max_s
            if time.monotonic() - started > longest_s:
                self._backoff_s = FIRST_BACKOFF_S
            # full jitter: a fleet must not come back at once
            hurried = self._pause_over.wait(random.uniform(0, min(self._backoff_s, longest_s)))
            self._pause_over.clear()
            self._backoff_s = FIRST_BACKOFF_S if hurried else min(self._backoff_s * 2, longest_s)

    def _serve(self) -> None:
        client = self._client = self._make_client()
        self._refused = ""
        endpoint = self.endpoint
        client.connect(endpoint.host, endpoint.port, endpoint.keepalive_s, **self._v5_connect())
        connection = client.connection
        next_misc = 0.0
        connecting_until = time.monotonic() + _CONNECT_TIMEOUT_S
        wait_s = 0.0  # CONNECT is queued: send it before waiting for the answer
        while not self._stop.is_set():
            self._wait_for_network(connection, wait_s)
            self._read(client, connection)
            wait_s = self._session.work(self) if self.connected else _MISC_EVERY_S
            client.loop_write()
            connection.flush()
            now = time.monotonic()
            if now >= next_misc:
                _check(client.loop_misc())
                self._raise_refusal()
                next_misc = now + _MISC_EVERY_S
            self._check_progress(connection, connecting_until)
            if connection.readable and self._session.wants_to_read():
                wait_s = 0.0

    def _wait_for_network(self, connection: BufferedSocket, wait_s: float) -> None:
        reading = [self._wake_receiver.fileno()]
        if self._session.wants_to_read():
            reading.append(connection.fileno())
            if connection.pending():
                wait_s = 0.0
        writing = [connection.fileno()] if connection.unsent_bytes else []
        ready, writable, _ = select.select(reading, writing, [], 0)
        self._data_waited = reading[-1] in ready and len(reading) > 1
        if not ready and not writable and wait_s > 0:
            ready, _, _ = select.select(reading, writing, [], min(wait_s, _MISC_EVERY_S))
        if reading[0] in ready:
            self._wake_receiver.recv(4096)

    def _read(self, client: _Client, connection: BufferedSocket) -> None:
        if not self._session.wants_to_read():
            return
        connection.fill()
        for _ in range(_PACKETS_PER_TURN):
            if not connection.readable:
                break
            code = client.loop_read()
            if not self.connected:
                self._raise_refusal()  # it says why; paho's code only that something was wrong
            _check(code)
            self._raise_refusal()
        if self._inbox:
            messages, self._inbox = self._inbox, []
            self.metrics.messages += len(messages)
            self.metrics.waited += len(messages) * self._data_waited
            self._session.received(self, messages)

    def _raise_refusal(self) -> None:
        if self._refused:
            raise BrokerError(self._refused)

    def _check_progress(self, connection: BufferedSocket, connecting_until_s: float) -> None:
        if not self.connected and time.monotonic() > connecting_until_s:
            raise BrokerError(f"{self._place} accepted the connection but did not answer CONNECT")
        if connection.unsent_bytes > _UNSENT_LIMIT_BYTES * 4:
            raise BrokerError(f"{self._place} does not read what we send")

    @property
    def congested(self) -> bool:
        """Whether so much is unsent that the session should publish no more for now."""
        client = self._client
        return client is not None and client.connection.unsent_bytes > _UNSENT_LIMIT_BYTES

    def _end_connection(self) -> None:
        self._inbox = []
        client, was_connected = self._client, self.connected
        if client is not None:
            if was_connected and self._stop.is_set():
                self._say_goodbye(client)
            client.close()
            self._earlier_wire_bytes += client.wire_bytes
        self._client, self.connected = None, False
        if was_connected:
            self._session.disconnected(self)

    def _say_goodbye(self, client: _Client) -> None:
        """Last words and DISCONNECT, on a connection that may be broken already."""
        try:
            self._session.leaving(self)
            client.disconnect()
            client.loop_write()
        except (OSError, ValueError, BrokerError) as exc:
            log.info("%s: no polite goodbye: %s", self.name, exc)

    def _note_failure(self, error: Exception) -> None:
        self.metrics.failures += 1
        self.metrics.last_error = plain_reason(error)
        expected = isinstance(error, (OSError, BrokerError))
        log.warning(
            "%s: %s %s: %s",
            self.name,
            "lost the connection to" if self.connected else "no connection to",
            self._place,
            self.metrics.last_error,
            exc_info=None if expected else error,
        )

    # --- paho ---

    def _make_client(self) -> _Client:
        endpoint = self.endpoint
        v5 = endpoint.protocol == "5"
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=endpoint.client_id,
            clean_session=None if v5 else not endpoint.persistent,
            protocol=paho.MQTTv5 if v5 else paho.MQTTv311,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # the sessions keep windows of their own
        if endpoint.username is not None:
            client.username_pw_set(endpoint.username, endpoint.password)
        if endpoint.tls is not None:
            client.tls_set_context(endpoint.tls.context())
            client.tls_insecure_set(endpoint.tls.insecure)
        if endpoint.will is not None:
            will = endpoint.will
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.on_socket_register_write = _ignore  # paho then leaves all writing to our loop
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        return client

    def _v5_connect(self) -> dict[str, Any]:
        if self.endpoint.protocol != "5":
            return {}
        properties = Properties(PacketTypes.CONNECT)
        if self.endpoint.persistent:
            properties.SessionExpiryInterval = self.endpoint.session_expiry_s
        properties.ReceiveMaximum = self.endpoint.receive_maximum
        if self.endpoint.max_packet_bytes is not None:
            properties.MaximumPacketSize = self.endpoint.max_packet_bytes
        return {"clean_start": not self.endpoint.persistent, "properties": properties}

    def _on_connect(self, _client: Any, _data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            hint = _CREDENTIALS_HINT if reason.value in _CREDENTIALS_REFUSED else ""
            self._refused = f"{self._place} refused the connection: {reason}{hint}"
            return
        self.epoch += 1
        self.connected = True
        self.metrics.connects += 1
        self.metrics.last_error = ""
        self.max_packet_bytes = getattr(properties, "MaximumPacketSize", None)
        self.receive_maximum = getattr(properties, "ReceiveMaximum", 65_535)
        self.farewell_code = None
        log.info("%s: connected to %s", self.name, self._place)
        self._session.connected(self, bool(flags.session_present))

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            # Not valid MQTT, but lost if it were refused: keep it under a name that can be stored.
            topic = message._topic.decode("utf-8", "backslashreplace")
        self._inbox.append(
            Message(
                topic,
                bytes(message.payload),
                message.qos,
                message.retain,
                message.dup,
                message.mid,
                self.epoch,
                self._now_ms(),
                tuple(getattr(message.properties, "UserProperty", ())) if message.properties else (),
            )
        )

    def _on_publish(self, _client: Any, _data: Any, packet_id: int, reason: Any, _properties: Any) -> None:
        client = self._client
        self._session.published(self, packet_id, client.puback_code if client else int(reason.value))

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            self._refused = f"{self._place} refused a subscription: {', '.join(refused)}"

    def _on_disconnect(self, _client: Any, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if flags.is_disconnect_packet_from_server and reason is not None:
            self.farewell_code = int(reason.value)
        if not self._stop.is_set() and not self._refused:
            self._refused = f"{self._place} closed the connection: {reason}"

    def _require_client(self) -> _Client:
        if self._client is None or not self.connected:
            raise BrokerError(f"not connected to {self._place}")
        return self._client

    @property
    def _place(self) -> str:
        return f"{self.endpoint.host}:{self.endpoint.port}"


def stop_links(links: Sequence[Link], timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Stop all of them at the same time, within `timeout_s` in total."""
    deadline_s = time.monotonic() + timeout_s
    for link in links:
        link.begin_stop()
    for link in links:
        link.stop(max(0.0, deadline_s - time.monotonic()))


class _Client(paho.Client):
    """paho's client on a BufferedSocket."""

    connection: BufferedSocket
    puback_code = 0
    """The reason code of the PUBACK that is being handled."""

    @property
    def wire_bytes(self) -> int:
        connection = getattr(self, "connection", None)
        return 0 if connection is None else int(connection.wire_bytes)

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        """paho refuses a packet whose code the standard does not list for a PUBACK; Mosquitto sends one, 0x95
        for a message over its size limit. So the code is taken out here, and paho sees a plain PUBACK."""
        packet = self._in_packet["packet"]
        self.puback_code = packet[2] if len(packet) > 2 else 0
        self._in_packet["packet"] = packet[:2]
        return super()._handle_pubackcomp(cmd)

    def _handle_on_message(self, message: paho.MQTTMessage) -> None:
        """paho first looks the topic up among callbacks for filters. Nobody registers any here, and to search
        that empty tree took 9 % of a busy gateway's time."""
        self.on_message(self, None, message)  # type: ignore[misc] # the link has set it

    def _create_socket(self) -> Any:
        sock = super()._create_socket()
        if isinstance(sock, socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = BufferedSocket(sock)  # type: ignore[arg-type]
        return self.connection

    def close(self) -> None:
        """Close the socket, if there ever was one."""
        connection = getattr(self, "connection", None)
        if connection is not None:
            connection.close()


def _check(code: int) -> None:
    if code > 0:
        raise BrokerError(paho.error_string(MQTTErrorCode(code)))


def _ignore(*_: Any) -> None:
    """Registering a write is our loop's business."""
