"""An MQTT broker inside this process (amqtt), for `local.url: embedded`, the demo and tests.

amqtt 0.12 opens the port, reads a CONNECT, and keeps sessions and subscriptions. Packets after that are read,
handed on and acknowledged here, many at a time and in order, so that a message costs no task of its own.

What it does not do: it speaks MQTT 3.1.1 (and 3.1) only, and keeps everything in memory, so a stop loses what
has not been delivered. A message goes out at the subscription's QoS, once per session.

What amqtt does wrong is mended: a client that comes back while its old connection is open takes its session
over, and gets again what it had not acknowledged; keepalive is kept to, so that wills of frozen clients come;
the first packet must be a CONNECT, and one of another version is answered; a PUBLISH to a wildcard ends the
connection, one to `$x/y` does not; messages that waited arrive with retain=0; retained ones come with a
subscription only. A deployment that must not lose anything runs Mosquitto (see mosquitto/).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from amqtt.adapters import (
    BufferReader,
    ReaderAdapter,
    StreamReaderAdapter,
    StreamWriterAdapter,
    WriterAdapter,
)
from amqtt.broker import Broker, Server
from amqtt.contexts import BaseContext
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

from gateway.core.errors import BrokerError, plain_reason
from gateway.core.threads import RoleThread
from gateway.host.ports import free_port
from gateway.mqtt import packets, variable_integers
from gateway.mqtt.first_packet import read_connect, refuse
from gateway.mqtt.loop_thread import LoopThread
from gateway.mqtt.loopback import check_loopback
from gateway.mqtt.outbox import Outbox

log = logging.getLogger(__name__)

_NOT_AUTHORISED = bytes((0x20, 2, 0, 5))
_CHUNK_BYTES = 65536
_ROOM_BYTES = 1024 * 1024  # written and not yet taken by the client; more waits in its outbox
_RESERVED_DESCRIPTORS = (
    400  # of the process, for everything else; asyncio takes in a hundred connections at once
)
_KNOWN_TOPICS = 20_000  # of which the subscribers are remembered

_TAKEOVER_S = 5.0  # for the end of an earlier connection, its will included
_SESSION_EXPIRY_S = 3600  # amqtt keeps a vanished client's messages in memory, without any other bound
_HANG_UP_S = 1.0  # then connections are cut: a peer that does not read must not keep the broker from stopping


class ConnectionLimit(BaseAuthPlugin):  # type: ignore[misc]  # amqtt is not typed for others
    """Lets in clients with the configured name and password, or everyone where none is configured.

    amqtt's own plugin for anonymous clients marks their sessions, and the broker then throws away
    everything that arrives for such a client while it reconnects.
    """

    @dataclass
    class Config:
        """The configuration that amqtt fills in for the broker."""

        username: str | None = None
        password: str | None = None

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._expected = (context.config.username, context.config.password)

    async def authenticate(self, *, session: Session) -> bool:
        """Return True if the client of `session` may connect."""
        if self._expected[0] is None:
            return True
        given = (session.username, session.password)
        return all(
            hmac.compare_digest((one or "").encode(), (other or "").encode())
            for one, other in zip(given, self._expected, strict=True)
        )


class _Connection:
    """One client after its CONNECT: if it breaks the protocol or its keepalive, the connection ends."""

    def __init__(
        self,
        broker: _MendedBroker,
        session: Session,
        outbox: Outbox,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._broker = broker
        self._session = session
        self._outbox = outbox
        self._reader, self._writer = streams
        self._gathered: list[bytes] = []
        self._flushing: asyncio.Task[None] | None = None

    async def serve(self) -> bool:
        """Do what the client says until it leaves; return False when it did not say goodbye."""
        loop, keepalive_s, held = asyncio.get_running_loop(), self._session.keep_alive, b""
        try:
            async with asyncio.timeout(None) as silence:
                while True:
                    if keepalive_s:
                        silence.reschedule(loop.time() + keepalive_s)
                    more = await self._reader.read(_CHUNK_BYTES)
                    if not more:
                        return False
                    found, held = packets.split(held + more)
                    for head, body in found:
                        if head >> 4 == packets.DISCONNECT:
                            return True
                        await self._take(head, body)
                    if self._backlog_bytes() > 2 * _ROOM_BYTES:
                        await self._drain()  # it publishes and does not read its acknowledgements
        except Exception as exc:  # noqa: BLE001 - whatever a client sends, it ends its own connection only
            log.debug("the connection of %s ends: %r", self._session.client_id, exc)
            return False

    def write(self, data: bytes) -> None:
        """Send `data` with what else is written in this turn of the event loop: one system call for all."""
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._flush)
        self._gathered.append(data)

    def has_room(self) -> bool:
        """Return False while the client does not read; its outbox goes on when it does again."""
        if self._backlog_bytes() < _ROOM_BYTES:
            return True
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._go_on_later())
        return False

    async def stop(self) -> None:
        """Close, after what is written has been sent."""
        self._flush()
        if self._flushing is not None:
            self._flushing.cancel()
        self._writer.close()

    async def _take(self, head: int, body: bytes) -> None:
        kind = head >> 4
        if kind == packets.PUBLISH:
            self._publish(packets.read_publish(head, body))
        elif kind in (packets.PUBACK, packets.PUBCOMP):
            self._outbox.acknowledged(packets.read_packet_id(body))
        elif kind == packets.PUBREC:
            self._outbox.received(packets.read_packet_id(body))
        elif kind == packets.PUBREL:
            self._release(packets.read_packet_id(body))
        elif kind == packets.PINGREQ:
            self.write(packets.PINGRESP)
        elif kind == packets.SUBSCRIBE:
            packet_id, filters = packets.read_subscribe(head, body)
            await self._broker.subscribe(self._session, self, packet_id, filters)
        elif kind == packets.UNSUBSCRIBE:
            packet_id, names = packets.read_unsubscribe(head, body)
            self._broker.unsubscribe(self._session, names)
            self.write(b"\xb0\x02" + packet_id)
        else:
            raise ValueError(f"a packet of type {kind}")

    def _publish(self, message: packets.Published) -> None:
        """Hand a message on, then acknowledge it."""
        if message.qos == 2:
            packets.read_topic(message.topic)
            self._session.inflight_in[int.from_bytes(message.packet_id, "big")] = message
            self.write(b"\x50\x02" + message.packet_id)
            return
        self._broker.hand_on(message.topic, message.payload, message.qos, retain=message.retain)
        if message.qos:
            self.write(b"\x40\x02" + message.packet_id)

    def _release(self, packet_id: int) -> None:
        message = self._session.inflight_in.pop(packet_id, None)
        if message is not None:
            self._broker.hand_on(message.topic, message.payload, message.qos, retain=message.retain)
        self.write(b"\x70\x02" + packet_id.to_bytes(2, "big"))

    def _backlog_bytes(self) -> int:
        return self._writer.transport.get_write_buffer_size()

    def _flush(self) -> None:
        if self._gathered:
            self._writer.write(b"".join(self._gathered))
            self._gathered.clear()

    async def _drain(self) -> None:
        self._flush()
        await self._writer.drain()

    async def _go_on_later(self) -> None:
        try:
            await self._drain()
        except ConnectionError:
            return  # what waits is for the next connection
        self._flushing = None
        self._outbox.send_waiting()


class _MendedBroker(Broker):  # type: ignore[misc]
    """amqtt's broker, without what the module says of it; its connections do not outlive it."""

    def __init__(self, config: dict[str, object], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(config, loop)
        self._streams: dict[asyncio.Task[object], tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        self._connections: dict[str, asyncio.Task[object]] = {}  # by client id, until its end is complete
        self._takeovers = WeakValueDictionary[str, asyncio.Lock]()
        self._silent: dict[asyncio.Task[object], asyncio.WriteTransport] = {}  # no CONNECT yet, oldest first
        self._most = _most_connections()
        self._is_full = False
        self._outboxes: dict[str, Outbox] = {}
        self._retained: dict[bytes, tuple[bytes, int]] = {}
        self._subscribers: dict[bytes, list[tuple[Outbox, int]]] = {}  # by topic; what is remembered

    def hand_on(self, topic: bytes, payload: bytes, qos: int, *, retain: bool) -> None:
        """Put a message into the outbox of each session that subscribed to its topic."""
        subscribers = self._subscribers.get(topic)
        if subscribers is None:
            subscribers = self._find_subscribers(topic)
        for outbox, subscribed_qos in subscribers:
            outbox.put(topic, payload, subscribed_qos)
        if retain:
            if payload:
                self._retained[topic] = (payload, qos)
            else:
                self._retained.pop(topic, None)

    async def subscribe(
        self, session: Session, connection: _Connection, packet_id: bytes, filters: list[tuple[str, int]]
    ) -> None:
        """Add subscriptions, answer, and send the retained messages that they match."""
        granted = []
        for topic_filter, qos in filters:
            self._del_subscription(topic_filter, session)  # amqtt would keep the old QoS
            granted.append(await self.add_subscription((topic_filter, qos), session))
        self._subscribers.clear()
        answer = packet_id + bytes(granted)
        connection.write(b"\x90" + variable_integers.encode(len(answer)) + answer)
        outbox = self._outboxes[session.client_id]
        for (topic_filter, _), code in zip(filters, granted, strict=True):
            for topic, (payload, qos) in self._retained.items() if code < 0x80 else ():
                if self._matches(topic.decode(), topic_filter):
                    outbox.put(topic, payload, min(qos, code), retain=True)

    def unsubscribe(self, session: Session, filters: list[str]) -> None:
        """Remove subscriptions."""
        for topic_filter in filters:
            self._del_subscription(topic_filter, session)
        self._subscribers.clear()

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        task = _this_task()
        if not self._has_place():
            writer.transport.abort()
            return
        self._streams[task] = (reader, writer)
        self._silent[task] = writer.transport
        try:
            await self._client_connected(
                listener_name, StreamReaderAdapter(reader), StreamWriterAdapter(writer)
            )
        finally:
            del self._streams[task]
            self._silent.pop(task, None)
            writer.close()

    def _has_place(self) -> bool:
        """Return False for a connection too many. Who has said nothing for longest makes way for it."""
        if len(self._streams) < self._most:
            self._is_full = False
            return True
        oldest = next(iter(self._silent), None)
        if oldest is not None:
            self._silent.pop(oldest).abort()
            return True
        if not self._is_full:
            log.warning("the embedded broker has %d clients and takes no more", len(self._streams))
        self._is_full = True
        return False

    async def _initialize_client_session(
        self, reader: ReaderAdapter, writer: WriterAdapter, remote_address: str, remote_port: int
    ) -> tuple[_Connection, Session]:
        connect = await read_connect(reader, writer)
        self._silent.pop(_this_task(), None)
        _, asking = await BrokerProtocolHandler.init_from_connect(
            BufferReader(connect), writer, self.plugins_manager
        )
        # Before anything of a session that exists is touched: a wrong password must not end it.
        if not await self._authenticate(asking, None):
            await refuse(writer, _NOT_AUTHORISED, "wrong name or password")
        lock = self._takeovers.setdefault(asking.client_id, asyncio.Lock())
        async with lock:
            await self._end_earlier(asking.client_id)
            _, session = await super()._initialize_client_session(
                BufferReader(connect), writer, remote_address, remote_port
            )
            self._connections[session.client_id] = _this_task()
        session.will_retain = asking.will_retain
        session.keep_alive = math.ceil(1.5 * asking.keep_alive)
        outbox = self._outboxes.setdefault(session.client_id, Outbox(session.client_id))
        return _Connection(self, session, outbox, self._streams[_this_task()]), session

    async def _end_earlier(self, client_id: str) -> None:
        """End the connection that `client_id` still has, wholly, so that its end cannot meet the new one."""
        earlier = self._connections.get(client_id)
        if earlier is not None and not earlier.done():
            if earlier in self._streams:
                self._streams[earlier][1].transport.abort()
            _, still = await asyncio.wait({earlier}, timeout=_TAKEOVER_S)
            for task in still:
                task.cancel()

    async def _handle_client_session(
        self,
        reader: ReaderAdapter,
        writer: WriterAdapter,
        session: Session,
        connection: _Connection,
        server: Server,
        listener_name: str,
    ) -> None:
        outbox = self._outboxes[session.client_id]
        session.transitions.connect()
        self._sessions[session.client_id] = (session, connection)
        connection.write(bytes((0x20, 2, session.parent, 0)))
        outbox.connect(connection)
        said_goodbye = False
        try:
            said_goodbye = await connection.serve()
        finally:
            outbox.disconnect()
            if self._connections.get(session.client_id) is _this_task():
                del self._connections[session.client_id]
            session.transitions.disconnect()
            if session.clean_session and self._sessions.get(session.client_id, (None,))[0] is session:
                await self._delete_session(session.client_id)  # there is nothing to come back to
        if not said_goodbye and session.will_flag:
            self._publish_will(session)
        await connection.stop()

    def _publish_will(self, session: Session) -> None:
        topic = session.will_topic.encode()
        try:
            self.hand_on(topic, bytes(session.will_message), session.will_qos, retain=session.will_retain)
        except ValueError as exc:
            log.debug("the will of %s is not published: %s", session.client_id, exc)

    async def _del_all_subscriptions(self, session: Session) -> None:
        """The end of a session, whichever way amqtt comes to it."""
        await super()._del_all_subscriptions(session)
        self._outboxes.pop(session.client_id, None)
        self._subscribers.clear()

    def _find_subscribers(self, topic: bytes) -> list[tuple[Outbox, int]]:
        """Return the sessions with a filter that matches, once each. Raises ValueError for a wrong topic."""
        text = packets.read_topic(topic)
        found: dict[str, int] = {}
        # Only the broker publishes on $SYS.
        for topic_filter, subscriptions in self._subscriptions.items() if text[:5] != "$SYS/" else ():
            if subscriptions and self._matches(text, topic_filter):
                for session, qos in subscriptions:
                    found[session.client_id] = max(qos, found.get(session.client_id, 0))
        if len(self._subscribers) >= _KNOWN_TOPICS:
            self._subscribers.clear()
        subscribers = [(self._outboxes[name], qos) for name, qos in found.items()]
        self._subscribers[topic] = subscribers
        return subscribers

    async def shut_down(self) -> None:
        closing = asyncio.create_task(self.shutdown())
        await asyncio.wait({closing}, timeout=_HANG_UP_S)
        for _, writer in self._streams.values():
            writer.transport.abort()
        await closing


def _most_connections() -> int:
    """Return how many connections leave the rest of the process enough descriptors."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(descriptors - _RESERVED_DESCRIPTORS, descriptors // 4)


def _this_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - it is called by coroutines only
    return task


class EmbeddedBroker:
    """A broker on `host:port`; port 0 is replaced by a free one and then kept over restarts.

    Everyone on this machine may connect to it. On an address that other machines reach it needs
    `username` and `password`; ConfigError otherwise. Stopping it forgets all sessions and messages.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        if username is None:
            check_loopback(host)
        self.host = host
        self.port = port
        self._credentials = {"username": username, "password": password}
        self._thread = LoopThread("broker", self._serving)
        self._broker: Broker | None = None

    @property
    def url(self) -> str:
        """The address for clients; complete once the broker has been started."""
        return f"mqtt://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def thread(self) -> RoleThread | None:
        """The thread that serves, while it is started."""
        return self._thread.thread

    def start(self) -> None:
        """Return once clients can connect. Raises BrokerError, for instance when the port is taken."""
        _silence_amqtt()
        self.port = self.port or free_port(self.host)
        try:
            self._thread.start()
        except BrokerError as exc:
            raise BrokerError(
                f"the embedded broker cannot be started on {self.host}:{self.port}: {_cause(exc)}",
                hint="where a broker runs already, name it as local.url; or give another local.listen",
            ) from exc

    def stop(self) -> None:
        """Disconnect all clients and close the port; `start` opens the same one again."""
        self._thread.stop()

    def subscriptions(self) -> frozenset[str]:
        """The filters that clients are subscribed to at this moment."""
        broker = self._broker
        subscriptions = list(broker.subscriptions.items()) if broker is not None else []
        return frozenset(topic_filter for topic_filter, sessions in subscriptions if sessions)

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        broker = self._broker = _MendedBroker(self._config(), asyncio.get_running_loop())
        asyncio.get_running_loop().set_exception_handler(_note_failure)
        await broker.start()
        try:
            yield
        finally:
            self._broker = None
            await broker.shut_down()

    def _config(self) -> dict[str, object]:
        bind = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return {
            "listeners": {"default": {"type": "tcp", "bind": bind}},
            "session_expiry_interval": _SESSION_EXPIRY_S,
            "plugins": {f"{__name__}.{ConnectionLimit.__name__}": self._credentials},
        }


def _note_failure(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """A task of amqtt that nobody waits for has failed, such as one whose client is gone."""
    log.debug("amqtt: %s: %r", context.get("message"), context.get("exception"))


def _silence_amqtt() -> None:
    # It warns about every client that hangs up and logs failures that start() raises anyway.
    for name in ("amqtt", "transitions"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)


def _cause(error: BaseException) -> str:
    """Return the original error: amqtt wraps the system's errors in its own."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return plain_reason(error)
