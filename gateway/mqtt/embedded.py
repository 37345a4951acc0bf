"""An MQTT broker inside this process (amqtt), for `local.url: embedded`, the demo and tests.

It is for trying things out and for light use. What amqtt 0.12 does not do, read from its source:
- it speaks MQTT 3.1.1 only, at about 3000 messages a second, and keeps everything in memory;
- it acknowledges a QoS-1 message before any subscriber has it, so what is on its way when it stops is lost;
- it waits 5 s for a subscriber's PUBACK, then forgets the message; after a reconnect it does not send
  unacknowledged messages again. What was published while a persistent session was away is kept;
- it has no in-flight window and no limit on what it queues for a subscriber;
- a message goes out at the subscription's QoS, and once per matching filter where filters overlap;

What is mended here: a client that comes back while its old connection is open takes its session over;
keepalive is kept to, so that wills of frozen clients come; the first packet must be a CONNECT, and one of
another version is answered (MQTT 3.1 is served); a PUBLISH to a wildcard ends the connection, one to `$x/y`
does not; messages that waited arrive with retain=0; retained ones come with a subscription only.
A deployment that must not lose anything runs Mosquitto (see mosquitto/).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
from collections import deque
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
from amqtt.broker import Broker
from amqtt.contexts import BaseContext
from amqtt.mqtt import packet_class
from amqtt.mqtt.packet import (
    DISCONNECT,
    PINGREQ,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBSCRIBE,
    UNSUBSCRIBE,
    MQTTFixedHeader,
    MQTTPacket,
)
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import ApplicationMessage, Session

from gateway.core.errors import BrokerError, plain_reason
from gateway.core.threads import RoleThread
from gateway.host.ports import free_port
from gateway.mqtt.first_packet import read_connect, refuse
from gateway.mqtt.loop_thread import LoopThread
from gateway.mqtt.loopback import check_loopback

log = logging.getLogger(__name__)

_NOT_AUTHORISED = bytes((0x20, 2, 0, 5))
_HANDLED = {
    PUBLISH: "handle_publish",
    PUBACK: "handle_puback",
    PUBREC: "handle_pubrec",
    PUBREL: "handle_pubrel",
    PUBCOMP: "handle_pubcomp",
    SUBSCRIBE: "handle_subscribe",
    UNSUBSCRIBE: "handle_unsubscribe",
    PINGREQ: "handle_pingreq",
    DISCONNECT: "handle_disconnect",
}
"""Packets that a client may send after its CONNECT."""

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


class _Inbox(asyncio.Queue[ApplicationMessage]):
    """Messages published by one client; `put` returns once the message is on its way to the subscribers."""

    # amqtt acknowledges when `put` returns. In a plain queue nobody has read the message by then, and the
    # queue is thrown away when the session ends: who hangs up right after the last PUBACK would lose
    # acknowledged messages, or see them overtaken by what another client published afterwards.

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[int, asyncio.Event] = {}  # by identity: amqtt's messages cannot be hashed

    async def put(self, message: ApplicationMessage) -> None:
        self._waiting[id(message)] = asyncio.Event()
        try:
            self.put_nowait(message)
            await self._waiting[id(message)].wait()
        finally:
            del self._waiting[id(message)]

    def handed_on(self, message: ApplicationMessage | None) -> None:
        if id(message) in self._waiting:  # else QoS 0, or its connection is gone
            self._waiting[id(message)].set()


class _Handler(BrokerProtocolHandler):  # type: ignore[misc]
    """amqtt's side of one connection: one that breaks the protocol or its keepalive ends it."""

    greeting = True
    """Until what waited for the session has been sent."""
    transport: asyncio.WriteTransport | None = None

    def cut(self) -> None:
        """End the connection as if the network had: the will is published."""
        if self.transport is not None:
            self.transport.abort()

    async def _send_packet(self, packet: MQTTPacket) -> None:
        # Without amqtt's lock, timer and event for each packet: `write` takes a packet whole.
        if self.writer is None:
            return
        try:
            self.writer.write(packet.to_bytes())
            await self.writer.drain()
        except (ConnectionResetError, BrokenPipeError):
            await self.handle_connection_closed()

    async def _reader_loop(self) -> None:
        # amqtt's own goes on after a packet that it cannot read, with whatever bytes follow, and after a
        # silence of any length.
        publications: deque[asyncio.Task[None]] = deque()
        self._reader_ready.set()
        try:
            while await asyncio.wait_for(self._take_packet(publications), self.session.keep_alive or None):
                while publications and publications[0].done():
                    publications.popleft()
        except asyncio.CancelledError:
            pass  # stop() waits for what follows
        except Exception as exc:  # noqa: BLE001 - whatever a client sends, it ends its own connection only
            log.debug("the connection of %s ends: %r", self.session.client_id, exc)
        for task in publications:
            task.cancel()
        await self.handle_connection_closed()
        self._reader_stopped.set()
        await self.stop()

    async def _take_packet(self, publications: deque[asyncio.Task[None]]) -> bool:
        """Read a packet and do what it says; False when it is the last one."""
        header = await MQTTFixedHeader.from_stream(self.reader)
        if header is None:
            return False
        packet = await packet_class(header).from_stream(self.reader, fixed_header=header)
        if header.packet_type == PUBLISH and packet.qos:
            publications.append(asyncio.create_task(self.handle_publish(packet)))  # it waits for the delivery
            return True
        method = _HANDLED.get(header.packet_type)
        if method is None:
            return False
        await getattr(self, method)(packet)
        return bool(header.packet_type != DISCONNECT)


class _GatheringWriter(StreamWriterAdapter):  # type: ignore[misc]
    """Sends what is written within one turn of the event loop at once: a system call for many packets."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        super().__init__(writer)
        self._gathered: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._flush)
        self._gathered.append(data)

    async def close(self) -> None:
        self._flush()
        await super().close()

    def _flush(self) -> None:
        if self._gathered:
            super().write(b"".join(self._gathered))
            self._gathered.clear()


class _MendedBroker(Broker):  # type: ignore[misc]
    """amqtt's broker, without what the module says of it; its connections do not outlive it."""

    def __init__(self, config: dict[str, object], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(config, loop)
        self._transports: dict[asyncio.Task[object], asyncio.WriteTransport] = {}
        self._connections: dict[str, asyncio.Task[object]] = {}  # by client id, until its end is complete
        self._takeovers = WeakValueDictionary[str, asyncio.Lock]()

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        task = _this_task()
        self._transports[task] = writer.transport
        try:
            await self._client_connected(listener_name, StreamReaderAdapter(reader), _GatheringWriter(writer))
        finally:
            del self._transports[task]
            writer.close()

    async def _initialize_client_session(
        self, reader: ReaderAdapter, writer: WriterAdapter, remote_address: str, remote_port: int
    ) -> tuple[BrokerProtocolHandler, Session]:
        connect = await read_connect(reader, writer)
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
        if not isinstance(session.delivered_message_queue, _Inbox):  # a session that came back has one
            session.delivered_message_queue = _Inbox()
        handler = _Handler(self.plugins_manager)
        handler.transport = self._transports[_this_task()]
        return handler, session

    async def _end_earlier(self, client_id: str) -> None:
        """End the connection that `client_id` still has, wholly, so that its end cannot meet the new one."""
        earlier = self._connections.pop(client_id, None)
        if earlier is not None and not earlier.done():
            if earlier in self._transports:
                self._transports[earlier].abort()
            _, still = await asyncio.wait({earlier}, timeout=_TAKEOVER_S)
            for task in still:
                task.cancel()
        session = self.sessions.get(client_id, (None, None))[0]
        if session is not None and session.clean_session:
            await self._delete_session(client_id)  # what a clean session leaves is nothing to come back to

    async def _client_message_loop(self, session: Session, handler: BrokerProtocolHandler) -> None:
        handler.greeting = False
        await super()._client_message_loop(session, handler)

    async def _publish_session_retained_messages(self, session: Session) -> None:
        """Send what waited: as ordinary messages, not as retained ones, in order."""
        handler = self._get_handler(session)
        waiting = session.retained_messages
        sent = []
        while handler is not None and not waiting.empty():
            one = waiting.get_nowait()
            sent.append(
                asyncio.ensure_future(handler.mqtt_publish(one.topic, one.data, one.qos, retain=False))
            )
        await asyncio.gather(*sent, return_exceptions=True)

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        handler = self._get_handler(session)
        if handler is None or not handler.greeting:  # a session that comes back has had them
            await super()._publish_retained_messages_for_subscription(subscription, session)

    async def _handle_message_delivery(
        self,
        session: Session,
        handler: _Handler,
        taken: asyncio.Future[ApplicationMessage | None],
    ) -> bool:
        message = taken.result()
        if message is not None and message.topic.startswith("$") and not {*message.topic} & {*"+#"}:
            # Only the broker publishes on $SYS; any other topic with $ is not matched by wildcards.
            if not message.topic.startswith("$SYS/"):
                await self._broadcast_message(session, message.topic, message.data)
        elif not await super()._handle_message_delivery(session, handler, taken):
            handler.cut()  # amqtt would leave it open and never look at it again
            return True
        session.delivered_message_queue.handed_on(message)
        return True

    async def _broadcast_loop(self) -> None:
        """Send each message to its subscribers; amqtt's own makes a task and a wait of each."""
        this, sending = _this_task(), self._tasks_queue
        self._broadcast_shutdown_waiter.add_done_callback(lambda _: this.cancel())
        try:
            while True:
                try:
                    await self._run_broadcast(sending)
                except Exception as exc:  # noqa: BLE001 - one message; the others go on
                    log.warning("a message was not handed on: %r", exc)
                while sending and sending[0].done():
                    done = sending.popleft()
                    if not done.cancelled() and done.exception() is not None:
                        log.debug("a message was not taken: %r", done.exception())
        finally:
            for task in sending:
                task.cancel()

    async def shut_down(self) -> None:
        closing = asyncio.create_task(self.shutdown())
        await asyncio.wait({closing}, timeout=_HANG_UP_S)
        for transport in self._transports.values():
            transport.abort()
        await closing


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
