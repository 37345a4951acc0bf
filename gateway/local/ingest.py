"""Takes messages from the local broker to the writer, and acknowledges them once they are on disk."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from gateway.buffer.store import Store
from gateway.buffer.writer import Command, Do, Writer
from gateway.core.events import Message
from gateway.decode.presence import Presence
from gateway.local.subscriptions import Subscriptions
from gateway.mqtt.link import Link, Session

log = logging.getLogger(__name__)

_STOCK_WINDOW = 20  # Mosquitto's, unless it is configured

Acknowledge = Callable[[Sequence[Message]], None]
GiveBack = Callable[[Sequence[Message], Exception], None]
MakeAppend = Callable[[Sequence[Message], Acknowledge, GiveBack], Command]
"""Makes the command that stores messages; it calls the first function once they are on disk, and the second
when they cannot be stored at all."""


class Release(Command):
    """Forgets that a packet id is a QoS 2 message's; calls `then` after the commit."""

    urgent = True  # the next message waits for it

    def __init__(self, packet_id: int, then: Callable[[], None]) -> None:
        self._packet_id = packet_id
        self._then = then

    def apply(self, store: Store) -> None:
        store.receipts.release(self._packet_id)

    def committed(self) -> None:
        self._then()


class Ingest(Session):
    """The session of `gateway.ingest`. It decodes nothing and never touches the database.

    Backpressure: while the writer has a full backlog nothing is read, so the broker's in-flight window
    fills and the broker queues.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        make_append: MakeAppend,
        writer: Writer,
        receive_maximum: int | None = None,
        presence: Presence | None = None,
    ) -> None:
        self._presence = presence or Presence()
        self.ack_delay_s = 0.0  # flow control sets it
        self._subscriptions = subscriptions
        self._make_append = make_append
        self._writer = writer
        self._committed: deque[tuple[float, Sequence[Message]]] = deque()  # bounded by what was submitted
        self._completed: deque[tuple[int, int]] = deque()  # (epoch, packet id), as many as were released
        self._received = self._released = 0
        self._window = receive_maximum or _STOCK_WINDOW
        self._window_is_known = receive_maximum is not None
        self._most_unacknowledged = 0
        self._link: Link | None = None

    # --- from any thread ---

    @property
    def unacknowledged(self) -> int:
        """Number of messages from the broker that wait for their acknowledgement."""
        return self._received - self._released

    @property
    def window(self) -> int:
        """Number of messages that the broker lets wait. MQTT 3.1.1 does not say it: then the most seen so
        far."""
        return self._window

    @property
    def read(self) -> tuple[int, int]:
        """Messages since the start, and how many of them had to wait until they were read."""
        return (self._link.metrics.messages, self._link.metrics.waited) if self._link is not None else (0, 0)

    # --- on the link's thread ---

    def connected(self, link: Link, session_present: bool) -> None:
        self._link = link
        if not session_present:
            # The broker starts a new session: its packet ids have nothing to do with the old ones.
            self._writer.submit(Do(Store.forget_receipts))
        self._subscriptions.connected(link, session_present)
        self._presence.hears = True

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        self._subscriptions.answered(link, codes)

    def unsubscribed(self, link: Link, filters: Sequence[str]) -> None:
        self._subscriptions.ended(filters)

    def received(self, link: Link, messages: list[Message]) -> None:
        if self._subscriptions.sifts:
            messages = self._sifted(link, messages)
        self._received += len(messages)
        if not self._window_is_known:
            self._window = max(self._window, self.unacknowledged)
        if messages:
            self._submit(messages)

    def released(self, link: Link, packet_id: int) -> None:
        """Forget a QoS 2 message on disk, too, before its packet id may be another's."""
        self._writer.submit(Release(packet_id, partial(self._complete, link.epoch, packet_id)))

    def disconnected(self, link: Link) -> None:
        self._presence.hears = False
        """Forget messages without an acknowledgement: they come again, marked DUP, and receipts tell which
        are stored."""
        self._subscriptions.disconnected()

    def wants_to_read(self) -> bool:
        return self._writer.has_room

    def work(self, link: Link) -> float:
        self._subscriptions.work(link)
        while self._completed:
            epoch, packet_id = self._completed.popleft()
            if epoch == link.epoch:
                link.complete(packet_id)
        now_s = time.monotonic()
        while self._committed:
            due_s, messages = self._committed[0]
            if due_s > now_s:
                return due_s - now_s
            self._committed.popleft()
            self._released += len(messages)
            link.ack(*messages)
        return 1.0

    def _sifted(self, link: Link, messages: list[Message]) -> list[Message]:
        """Return the messages to take in. The others are acknowledged, without any trace in the buffer."""
        due = []
        for message in messages:
            if self._subscriptions.is_due(message.topic, message.subscriptions):
                due.append(message)
            else:
                link.ack(message)
        return due

    # --- on the writer's thread ---

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Let the link acknowledge messages that are on disk."""
        self._committed.append((time.monotonic() + self.ack_delay_s, messages))
        if self._link is not None:
            self._link.wake()

    def _complete(self, epoch: int, packet_id: int) -> None:
        self._completed.append((epoch, packet_id))
        if self._link is not None:
            self._link.wake()

    def retry(self, messages: Sequence[Message], error: Exception) -> None:
        """The batch cannot be applied: try its messages one by one, and give up on the one at fault."""
        if len(messages) > 1:
            for message in messages:
                self._submit([message])
            return
        log.error("a message on %r cannot be taken in and is rejected: %s", messages[0].topic, error)
        self._writer.submit(Do(partial(_count_poison, messages[0])))
        self.acknowledge(messages)

    def _submit(self, messages: Sequence[Message]) -> None:
        command = self._make_append(messages, self.acknowledge, self.retry)
        # As many as ever waited: perhaps that is all that the broker sends before the next acknowledgement.
        command.urgent = self.unacknowledged >= self._most_unacknowledged
        self._most_unacknowledged = max(self._most_unacknowledged, self.unacknowledged)
        self._writer.submit(command)


def _count_poison(message: Message, store: Store) -> None:
    store.count("outcome", "rejected")
    store.count("rejected", "poison")
    store.dropped.note("poison", message.topic, message.arrival_ms)
