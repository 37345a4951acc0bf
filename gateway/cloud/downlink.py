"""Brings commands from the cloud broker to the local one: two sessions, each on a link of its own.

Its connections are not those of the bridge and of ingest: those live and die with their packet ids and
windows, and a command must not wait behind a backlog, nor a slow local broker hold up the drain. Where a
service allows only one connection it shares the bridge's, which never stops reading: a flood of commands is
then bounded here.

Invariants:
- A command is acknowledged to the cloud broker after the local broker's PUBACK, or once it is refused.
- A refused filter stops no other one. It is named, and asked for again every REFUSED_RETRY_S.
- What the cloud broker sends again, because its connection ended in between, is recognised by packet id and
  content, and not published twice; after a restart of the gateway it is.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict, deque

from gateway.core.events import Message
from gateway.mqtt.link import Link, Session
from gateway.wire.command_topics import SENDER, Downlink

log = logging.getLogger(__name__)

WAITING = 1000  # commands; above it the cloud broker has to keep them
REFUSED_RETRY_S = 60.0
_IN_FLIGHT = 20
_REFUSED = 0x80


class DownlinkMetrics:
    """Plain numbers, written by the two links' threads, read by any."""

    def __init__(self) -> None:
        self.forwarded = 0
        self.rejected: Counter[str] = Counter()
        """Rejected commands by reason."""
        self.refused_filters: dict[str, int] = {}
        """Reason codes of the subscriptions that the cloud broker refuses."""


class _Command:
    """A message on its way down."""

    __slots__ = ("message", "qos", "settled", "topic")

    def __init__(self, message: Message, topic: str, qos: int) -> None:
        self.message = message
        self.topic = topic
        self.qos = qos
        self.settled = False


class CloudSide(Session):
    """The session of `gateway.downlink`: takes commands, decides on them, acknowledges them at the end."""

    def __init__(self, downlink: Downlink) -> None:
        self.metrics = DownlinkMetrics()
        self.local = LocalSide(self, downlink.gateway_id)
        self._downlink = downlink
        self._open: dict[int, _Command] = {}  # by packet id: what the broker has no acknowledgement of
        self._settled: deque[_Command] = deque()  # bounded by what is open
        self._unanswered: set[str] = set()  # filters
        self._retry_at_s = 0.0
        self._link: Link | None = None

    # --- on its link's thread ---

    def connected(self, link: Link, session_present: bool) -> None:
        self._link = link
        self._unanswered.clear()
        if not session_present:
            self._open.clear()  # its packet ids start anew
        self._subscribe(link, {name for name, _ in self._downlink.filters()})

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        self._unanswered.difference_update(codes)
        refused = self.metrics.refused_filters
        for name, code in codes.items():
            if code < _REFUSED:
                if refused.pop(name, None) is not None:
                    log.info("the cloud broker now grants the subscription to %s", name)
            elif refused.get(name) != code:
                refused[name] = code
                log.error(
                    "no commands on %s: %s refuses the subscription: 0x%02x; asked again every %g s",
                    *(name, link.endpoint.place, code, REFUSED_RETRY_S),
                )

    def received(self, link: Link, messages: list[Message]) -> None:
        for message in messages:
            again = self._open.get(message.packet_id) if message.dup and message.qos else None
            if again is not None and _same(again.message, message):
                again.message = message  # it is this delivery that is acknowledged in the end
                self._acknowledge(link, again)
            else:
                self._take(link, message)

    def wants_to_read(self) -> bool:
        return self.local.waiting < WAITING

    def work(self, link: Link) -> float:
        while self._settled:
            command = self._settled.popleft()
            command.settled = True
            self._acknowledge(link, command)
        missing = self._unanswered.union(self.metrics.refused_filters)
        if missing and time.monotonic() >= self._retry_at_s:
            self._subscribe(link, missing)
        return 1.0

    # --- on the local link's thread ---

    def settle(self, command: _Command) -> None:
        """The local broker has it, or will never take it."""
        self._settled.append(command)
        if self._link is not None:
            self._link.wake()

    # --- inside ---

    def _subscribe(self, link: Link, names: set[str]) -> None:
        for name in sorted(self._unanswered & names):
            log.warning("%s has not answered the subscription to %s; asked again", link.endpoint.place, name)
        self._unanswered = set(names)
        self._retry_at_s = time.monotonic() + REFUSED_RETRY_S
        link.subscribe([each for each in self._downlink.filters() if each[0] in names])

    def _take(self, link: Link, message: Message) -> None:
        if self.local.waiting >= 2 * WAITING:
            self.metrics.rejected["too_many"] += 1  # of QoS 1 it comes again with the next connection
            return
        destination = self._downlink.destination(message)
        if isinstance(destination, str):
            self.metrics.rejected[destination] += 1
            log.warning("a command on %r is rejected: %s", message.topic, destination)
            link.ack(message)
            return
        rule, topic = destination
        command = _Command(message, topic, min(rule.qos, message.qos))
        if message.qos:
            self._open[message.packet_id] = command
        self.local.submit(command)

    def _acknowledge(self, link: Link, command: _Command) -> None:
        message = command.message
        if command.settled and message.qos and message.epoch == link.epoch:
            link.ack(message)
            if self._open.get(message.packet_id) is command:
                del self._open[message.packet_id]


class LocalSide(Session):
    """The session of `gateway.downlink-local`: publishes commands, in their order."""

    def __init__(self, cloud: CloudSide, gateway_id: str) -> None:
        self._cloud = cloud
        self._sender = ((SENDER, gateway_id),)
        self._waiting: deque[_Command] = deque()  # bounded: the cloud side stops reading at WAITING
        self._in_flight: OrderedDict[int, _Command] = OrderedDict()
        self._link: Link | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    # --- on the cloud link's thread ---

    def submit(self, command: _Command) -> None:
        self._waiting.append(command)
        if self._link is not None:
            self._link.wake()

    # --- on its link's thread ---

    def connected(self, link: Link, session_present: bool) -> None:
        self._link = link

    def disconnected(self, link: Link) -> None:
        """Prepare to publish messages without a PUBACK again, before later ones."""
        self._waiting.extendleft(reversed(self._in_flight.values()))
        self._in_flight.clear()

    def published(self, link: Link, packet_id: int, reason_code: int) -> None:
        command = self._in_flight.pop(packet_id, None)
        if command is None:
            return
        if reason_code >= _REFUSED:
            self._cloud.metrics.rejected["refused"] += 1
            log.warning("the local broker refused a command on %r: 0x%02x", command.topic, reason_code)
        else:
            self._cloud.metrics.forwarded += 1
        self._cloud.settle(command)

    def work(self, link: Link) -> float:
        while self._waiting and len(self._in_flight) < _IN_FLIGHT and not link.congested:
            command = self._waiting[0]
            payload, qos = command.message.payload, command.qos
            packet_id = link.publish(command.topic, payload, qos=qos, properties=self._sender)
            self._waiting.popleft()
            if qos:
                self._in_flight[packet_id] = command
            else:
                self._cloud.metrics.forwarded += 1
                self._cloud.settle(command)
        return 1.0


def _same(one: Message, other: Message) -> bool:
    return (one.topic, one.payload) == (other.topic, other.payload)
