"""An MQTT broker inside this process (amqtt), for `local.url: embedded`, the demo and tests.

It is for trying things out and for light use. What amqtt 0.12 does not do, read from its source:
- it speaks MQTT 3.1.1 only, at about 3000 messages a second, and keeps everything in memory;
- it acknowledges a QoS-1 message before any subscriber has it, so what is on its way when it stops is lost;
- what arrives at QoS 0 just before its publisher disconnects may be lost;
- it waits 5 s for a subscriber's PUBACK, then forgets the message; after a reconnect it does not send
  unacknowledged messages again. What was published while a persistent session was away is kept;
- it has no in-flight window and no limit on what it queues for a subscriber;
- a message goes out at the subscription's QoS, and once per matching filter where filters overlap;
- on every connect it sends retained messages on the filters of all its clients, not only the new one's:
  a subscriber must ignore topics that it did not ask for.
A deployment that must not lose anything runs Mosquitto (see mosquitto/).
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from amqtt.adapters import ReaderAdapter, WriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import BaseContext
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import ApplicationMessage, Session

from gateway.core.errors import BrokerError, ConfigError, plain_reason
from gateway.core.threads import RoleThread
from gateway.mqtt.loop_thread import LoopThread, free_port

_SESSION_EXPIRY_S = 3600  # amqtt keeps a vanished client's messages in memory, without any other bound
_HANG_UP_S = 1.0  # then connections are cut: a peer that does not read must not keep the broker from stopping


class ConnectionLimit(BaseAuthPlugin):  # type: ignore[misc]  # amqtt is not typed for others
    """Lets in who knows the configured name and password, or everyone where none is configured.

    amqtt's own plugin for anonymous clients marks their sessions, and the broker then throws away
    everything that arrives for such a client while it reconnects.
    """

    @dataclass
    class Config:
        """What amqtt fills in from the broker's configuration."""

        username: str | None = None
        password: str | None = None

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._expected = (context.config.username, context.config.password)

    async def authenticate(self, *, session: Session) -> bool:
        """Whether the client of `session` may connect."""
        if self._expected[0] is None:
            return True
        given = (session.username, session.password)
        return all(
            hmac.compare_digest((one or "").encode(), (other or "").encode())
            for one, other in zip(given, self._expected, strict=True)
        )


class _Inbox(asyncio.Queue[ApplicationMessage]):
    """What one client published; `put` returns once the message is on its way to the subscribers."""

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


class _CuttableBroker(Broker):  # type: ignore[misc]
    """amqtt's broker, whose connections do not outlive it, and which hands on before it acknowledges."""

    def __init__(self, config: dict[str, object], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(config, loop)
        self._writers: set[asyncio.StreamWriter] = set()

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        self._writers.add(writer)
        try:
            await super().stream_connected(reader, writer, listener_name)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _initialize_client_session(
        self, reader: ReaderAdapter, writer: WriterAdapter, remote_address: str, remote_port: int
    ) -> tuple[BrokerProtocolHandler, Session]:
        handler, session = await super()._initialize_client_session(
            reader, writer, remote_address, remote_port
        )
        if not isinstance(session.delivered_message_queue, _Inbox):  # a session that came back has one
            session.delivered_message_queue = _Inbox()
        return handler, session

    async def _handle_message_delivery(
        self,
        session: Session,
        handler: BrokerProtocolHandler,
        taken: asyncio.Future[ApplicationMessage | None],
    ) -> bool:
        accepted: bool = await super()._handle_message_delivery(session, handler, taken)
        if accepted:
            session.delivered_message_queue.handed_on(taken.result())
        return accepted

    async def shut_down(self) -> None:
        closing = asyncio.create_task(self.shutdown())
        await asyncio.wait({closing}, timeout=_HANG_UP_S)
        for writer in self._writers:
            writer.transport.abort()
        await closing


class EmbeddedBroker:
    """A broker on `host:port`; port 0 is replaced by a free one and then kept over restarts.

    Everybody on this machine may connect to it. On an address that other machines reach it needs
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
        """Where clients connect; complete once the broker has been started."""
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
        """Disconnect everybody and close the port; `start` opens the same one again."""
        self._thread.stop()

    def subscriptions(self) -> frozenset[str]:
        """The filters that somebody subscribes to at this moment."""
        broker = self._broker
        subscriptions = list(broker.subscriptions.items()) if broker is not None else []
        return frozenset(topic_filter for topic_filter, sessions in subscriptions if sessions)

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        broker = self._broker = _CuttableBroker(self._config(), asyncio.get_running_loop())
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


def check_loopback(host: str) -> None:
    """Raise ConfigError when others reach `host`: without a password a broker is for this machine only."""
    if not _is_loopback(host):
        raise ConfigError(
            f"the embedded broker would be open to everyone who reaches {host}",
            hint="listen on 127.0.0.1, or give it a username and a password",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _silence_amqtt() -> None:
    # It warns about every client that hangs up and logs failures that start() raises anyway.
    for name in ("amqtt", "transitions"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)


def _cause(error: BaseException) -> str:
    """What began it: amqtt wraps the system's errors in its own."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return plain_reason(error)
