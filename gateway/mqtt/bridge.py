"""Sends what the buffer holds to the cloud broker; its PUBACK, and nothing else, makes an event SYNCED.

Invariants:
- The packet id → events map belongs to this thread. Claims and settlements are commands to the writer.
- Nothing is published while disconnected, and paho never resends: when a connection ends, what was in
  flight on it failed, goes back to PENDING, and is claimed again in the same order.
- An overdue PUBACK ends the connection: half-open links are found by progress, not by the socket.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from gateway.buffer.reading import Reader, StoredEvents
from gateway.buffer.store import Store
from gateway.buffer.writer import Command, Writer
from gateway.codec import encode_columns, wire_events
from gateway.delivery import Backoff, Happening
from gateway.events import Status
from gateway.flow.bandwidth import TokenBucket
from gateway.mqtt.connection import Link, Session
from gateway.uplink import batch_topic, event_envelope, event_properties, event_topic

log = logging.getLogger(__name__)

# A claim waits for the commit of a whole group: under load one frame per claim would fall behind the intake.
FRAMES_PER_CLAIM = 4
LINGER_S = 0.05  # how long a small batch may wait for company
FRAME_BYTES = 1024 * 1024  # of payloads in one frame, before compression
_FRAME_OVERHEAD_BYTES = 4096  # what else is in a frame of a broker that limits the size of a packet
_EVENTS_IN_FLIGHT = 20  # of the event format: paho's publish slows down with a larger window (measured)
_REFUSED = 0x80


@dataclass(frozen=True)
class BridgeSpec:
    """The parameters of the bridge."""

    prefix: str
    gateway_id: str
    format: Literal["batch", "event"] = "batch"
    connections: int = 1
    batch_events: int = 1000
    in_flight: int = 8
    ack_timeout_s: float = 30.0
    bandwidth_bytes_per_s: int | None = None
    backoff: Backoff = field(default_factory=Backoff)


class _Outgoing(NamedTuple):
    """One message for the cloud and the events that it carries."""

    topic: str
    payload: bytes
    properties: Sequence[tuple[str, str]]
    ids: list[int]


class _Sent(NamedTuple):
    ids: list[int]
    at_s: float


class BridgeMetrics:
    """Plain numbers, written by the bridge's thread, read by any."""

    def __init__(self) -> None:
        self.frames = 0
        self.events_sent = 0
        self.events_acked = 0
        self.refused = 0
        self.payload_bytes = 0


class Bridge(Session):
    """The session of `gateway.bridge-N`: one cloud connection and the streams that hash to it."""

    def __init__(
        self, spec: BridgeSpec, lane: int, path: Path, writer: Writer, now_ms: Callable[[], int]
    ) -> None:
        self.metrics = BridgeMetrics()
        self._spec = spec
        self._lane = lane
        self._path = path
        self._writer = writer
        self._now_ms = now_ms
        self._reader: Reader | None = None
        self._bucket = TokenBucket(spec.bandwidth_bytes_per_s)
        self._claimed: deque[list[int]] = deque()  # filled on the writer's thread, at most one list
        self._ready: deque[StoredEvents] = deque()  # parts of one claim, each small enough for a frame
        self._outgoing: deque[_Outgoing] = deque()  # one part, packed
        self._claiming = False
        self._epoch = 0  # of the connection: claims of an earlier one are given back
        self._next_claim_s = 0.0
        self._in_flight: OrderedDict[int, _Sent] = OrderedDict()
        self._acked: list[int] = []
        self._link: Link | None = None

    # --- on the link's thread ---

    def connected(self, link: Link, session_present: bool) -> None:
        self._link = link

    def published(self, link: Link, packet_id: int, reason_code: int) -> None:
        sent = self._in_flight.pop(packet_id, None)
        if sent is None:
            return  # a broker that acknowledges what we never sent, or twice, settles nothing
        if reason_code >= _REFUSED:
            self._refuse(link, sent, reason_code)
        self.metrics.events_acked += len(sent.ids)
        self._acked += sent.ids

    def disconnected(self, link: Link) -> None:
        """Everything on this connection that has no PUBACK failed."""
        self._settle()
        lost = [i for sent in self._in_flight.values() for i in sent.ids]
        lost += [i for outgoing in self._outgoing for i in outgoing.ids]
        lost += [i for events in self._ready for i in events.ids]
        self._epoch += 1  # what is being claimed right now goes back too: behind these it would overtake them
        while self._claimed:
            lost += self._claimed.popleft()
        self._in_flight.clear()
        self._outgoing.clear()
        self._ready.clear()
        if lost:
            self._writer.submit(Settle(lost, Happening.FAILURE))

    def work(self, link: Link) -> float:
        self._settle()
        self._check_overdue(link)
        now_s = time.monotonic()
        while self._claimed:
            self._prepare(link, self._claimed.popleft())
        wait_s = self._send(link, now_s)
        self._claim_more(now_s)
        return min(wait_s, LINGER_S)

    def finish(self) -> None:
        """After the link has stopped: close what this session opened."""
        if self._reader is not None:
            self._reader.close()

    # --- inside ---

    def _claim_more(self, now_s: float) -> None:
        if self._claiming or self._ready or self._outgoing or now_s < self._next_claim_s:
            return
        pending = self._writer.pending_events
        if pending == 0:
            return
        self._claiming = True
        # A full batch goes at once and is followed by the next; a small one waits for company first.
        self._next_claim_s = now_s if pending >= self._spec.batch_events else now_s + LINGER_S
        self._writer.submit(Claim(self, self._epoch))

    def claimed(self, ids: list[int], epoch: int) -> None:
        """On the writer's thread: these events are SYNCING now, for the connection of that epoch."""
        if ids and epoch != self._epoch:
            self._writer.submit(Settle(ids, Happening.FAILURE))
        elif ids:
            self._claimed.append(ids)
        self._claiming = False
        if ids and self._link is not None:
            self._link.wake()

    def claim(self, store: Store) -> list[int]:
        """On the writer's thread, inside the transaction."""
        limit = FRAMES_PER_CLAIM * self._spec.batch_events
        return store.claim(limit, self._lane, self._spec.connections, self._now_ms())

    def _prepare(self, link: Link, ids: list[int]) -> None:
        """Read claimed events and put them up for sending."""
        if self._reader is None:
            self._reader = Reader(self._path)
        events, corrupt = self._reader.without_corrupt(self._reader.by_ids(ids))
        if corrupt:
            log.error("%d events have a wrong checksum; they are kept and not sent", len(corrupt))
            self._writer.submit(Settle(corrupt, Happening.MISMATCH))
        limit = min(FRAME_BYTES, (link.max_packet_bytes or 2**31) - _FRAME_OVERHEAD_BYTES)
        self._ready.extend(events.split(self._spec.batch_events, limit))

    def _send(self, link: Link, now_s: float) -> float:
        """Publish what is ready, as far as window and bandwidth allow; returns how long to wait."""
        window = self._spec.in_flight if self._spec.format == "batch" else _EVENTS_IN_FLIGHT
        while len(self._in_flight) < window and not link.congested:
            if not self._outgoing:
                if not self._ready:
                    break
                self._outgoing.extend(self._pack(link, self._ready[0]))
                self._ready.popleft()
            delay_s = self._bucket.delay_s(now_s)
            if delay_s > 0:
                return delay_s
            self._publish(link, self._outgoing[0], now_s)
            self._outgoing.popleft()
        return LINGER_S

    def _publish(self, link: Link, outgoing: _Outgoing, now_s: float) -> None:
        packet_id = link.publish(outgoing.topic, outgoing.payload, properties=outgoing.properties)
        self._in_flight[packet_id] = _Sent(outgoing.ids, now_s)
        self._bucket.spend(len(outgoing.payload))
        self.metrics.frames += 1
        self.metrics.events_sent += len(outgoing.ids)
        self.metrics.payload_bytes += len(outgoing.payload)

    def _pack(self, link: Link, events: StoredEvents) -> list[_Outgoing]:
        """The messages that carry `events`: one frame, or one message for each."""
        assert self._reader is not None  # noqa: S101 - it has read `events`
        spec, columns = self._spec, self._reader.columns(events)
        if spec.format == "batch":
            frame = encode_columns(spec.gateway_id, uuid.uuid4().bytes, columns)
            return [_Outgoing(batch_topic(spec.prefix, spec.gateway_id, self._lane), frame, (), events.ids)]
        as_envelope = link.endpoint.protocol != "5"
        return [
            _Outgoing(
                event_topic(spec.prefix, spec.gateway_id, event.stream),
                event_envelope(event) if as_envelope else event.payload,
                () if as_envelope else event_properties(event),
                [buffer_id],
            )
            for buffer_id, event in zip(events.ids, wire_events(columns), strict=True)
        ]

    def _settle(self) -> None:
        if self._acked:
            acked, self._acked = self._acked, []
            self._writer.submit(Settle(acked, Happening.PUBACK))

    def _refuse(self, link: Link, sent: _Sent, reason_code: int) -> None:
        """A refusal fails the frame and, to keep the order per stream, the connection with it."""
        self.metrics.refused += 1
        self._writer.submit(Refuse(sent.ids, self._spec.backoff, self._now_ms(), random.random()))
        link.reset(f"the cloud broker refused a publish: reason code 0x{reason_code:02x}")

    def _check_overdue(self, link: Link) -> None:
        oldest = next(iter(self._in_flight.values()), None)
        if oldest is not None and time.monotonic() - oldest.at_s > self._spec.ack_timeout_s:
            link.reset(f"no PUBACK from the cloud broker for {self._spec.ack_timeout_s:g} s")


class Claim(Command):
    """Claims a batch for one connection."""

    def __init__(self, bridge: Bridge, epoch: int) -> None:
        self._bridge = bridge
        self._epoch = epoch
        self._ids: list[int] = []

    def apply(self, store: Store) -> None:
        self._ids = self._bridge.claim(store)

    def committed(self) -> None:
        self._bridge.claimed(self._ids, self._epoch)

    def failed(self, error: Exception) -> None:
        super().failed(error)
        self._bridge.claimed([], self._epoch)


class Settle(Command):
    """Moves SYNCING events on. If it fails they stay SYNCING until a restart puts them back: sent twice
    perhaps, lost never."""

    def __init__(self, ids: Sequence[int], happening: Happening) -> None:
        self._ids = ids
        self._happening = happening

    def apply(self, store: Store) -> None:
        store.move(self._ids, Status.SYNCING, self._happening)


class Refuse(Command):
    """For events that the cloud broker refused: they go back and their streams wait; those without attempts
    left become FAILED.

    Lost connections count as attempts too, but it takes as many refusals in a row: an outage, however long,
    fails nothing.
    """

    def __init__(self, ids: Sequence[int], backoff: Backoff, now_ms: int, chance: float) -> None:
        self._arguments = ids, backoff, now_ms, chance
        self._failed = 0

    def apply(self, store: Store) -> None:
        self._failed = store.refuse(*self._arguments)

    def committed(self) -> None:
        if self._failed:
            log.error("%d events were refused too often and are kept as failed", self._failed)
