"""Sends what the buffer holds to the cloud broker; its PUBACK, and nothing else, makes an event SYNCED.

Invariants:
- The packet id → events map belongs to this thread. Claims and settlements are commands to the writer.
- Nothing is published while disconnected, and paho never resends: when a connection ends, what was in
  flight on it failed, goes back to PENDING, and is claimed again in the same order.
- An overdue PUBACK ends the connection: half-open links are found by progress, not by the socket.
- Events of the event format go in runs while all goes well (`gateway.cloud.event_runs`), and one by one
  otherwise; never both at a time.
- A refusal costs neither the connection nor the others: the refused message goes again in halves until the
  one event is found that is meant. `gateway.delivery.refusals` says what then becomes of it.
- A message that the broker answers by ending the connection stops itself and nothing else: see
  `gateway.delivery.suspicion`.
"""

from __future__ import annotations

import logging
import random
import time
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from gateway.buffer.stored_events import StoredEvents
from gateway.buffer.writer import Writer
from gateway.cloud.bridge_spec import BridgeMetrics, BridgeSpec
from gateway.cloud.claim_prefetcher import IDLE_S, LINGER_S, ClaimPrefetcher
from gateway.cloud.commands import FailEvents, RefuseEvents, SettleEvents
from gateway.cloud.delivered_hashes import DeliveredHashes
from gateway.cloud.event_runs import EncodedEvents, EventRuns
from gateway.cloud.frame_builder import FrameBuilder, Outgoing
from gateway.cloud.notices import Notices
from gateway.cloud.shared_bucket import SharedBucket
from gateway.cloud.subscribers import NO_SUBSCRIBER, Subscribers
from gateway.core.events import Message
from gateway.delivery.pacing import Flight, Pace
from gateway.delivery.refusals import (
    RECEIVE_MAXIMUM,
    REFUSED,
    TOO_LARGE,
    RefusalVerdict,
    close_text,
    close_verdict,
    reason_text,
    verdict,
)
from gateway.delivery.states import Backoff, DeliveryEvent
from gateway.delivery.suspicion import Finding, Suspects
from gateway.local.republish import status_payload
from gateway.mqtt.link import Link, Session
from gateway.mqtt.paho_client import is_refusal
from gateway.wire.sparkplug_node import Announcement

log = logging.getLogger(__name__)

_REFUSALS_IN_A_ROW = 16  # more than it takes to find one event in a frame: then it is the broker
_EVENTS_IN_FLIGHT = 100  # of formats with a message for each stream
_RUNS_IN_FLIGHT = 1000  # of the event format, one message each
_LEAST_RUN = 4  # part of the window: what is shorter waits for more answers
_CHUNK_EVENTS = 500  # encoded at a time
_CHANCE = random.Random()  # of its own, whatever else seeds `random` here
_SEARCHES = 12  # closes in a row that cost no long pause, because each tells more: halvings of a frame
# A lone event that may have ended a connection, or that found no subscriber, gives way to others for so
# long; no attempt is counted.
_ASIDE = Backoff(min_ms=1_000, max_ms=30_000, max_attempts=2**31 - 1)


class _Sent(NamedTuple):
    number: int
    message: Outgoing
    flight: Flight


class Bridge(Session):
    """The session of `gateway.bridge-N`: one cloud connection and the streams that hash to it."""

    def __init__(
        self,
        spec: BridgeSpec,
        shard: int,
        path: Path,
        writer: Writer,
        now_ms: Callable[[], int],
        bucket: SharedBucket,
        alert: Callable[[str, str], object] = lambda _name, _message: None,
        hashes: DeliveredHashes | None = None,
    ) -> None:
        self.metrics = BridgeMetrics()
        self._hashes = hashes  # of what the broker has taken, where it is sealed
        self._spec = spec
        self._shard = shard
        self._writer = writer
        self._now_ms = now_ms
        self._bucket = bucket
        self._pace = Pace(bucket.share_bytes_per_s(spec.connections))
        self._supply = ClaimPrefetcher(spec, shard, path, writer, now_ms, self._pace, self._wake)
        self._packer: FrameBuilder | None = None
        self._ready: StoredEvents | None = None  # one claim, up to `_packed_to` packed
        self._packed_to = 0
        self._outgoing: list[Outgoing] = []  # packed, or refused; in the order of their places
        self._in_flight: OrderedDict[int, _Sent] = OrderedDict()
        self._sent = self._newest_acked = 0  # numbers of messages
        self._last_ack_s = 0.0
        self._acked: list[int] = []
        self._refusals = 0  # in a row
        self._paused_until_s = 0.0
        self._most_in_flight = _EVENTS_IN_FLIGHT if spec.topic_per_stream else spec.in_flight
        if spec.format == "event":
            self._most_in_flight = _RUNS_IN_FLIGHT
        self._runs = EventRuns(self._pace)
        self._chunk: EncodedEvents | None = None  # of `_ready`, encoded
        self._window = self._most_in_flight  # messages; one after trouble, and twice as many with each answer
        self._suspects = Suspects()
        self.subscribers = Subscribers(spec.no_subscriber, writer, alert)
        self.notices = Notices(spec.status_topic if shard == 0 else "", spec.retain)
        self._searches = _SEARCHES
        self._gave_up = False  # this connection, rather than that the broker ended it
        self._counted_bytes = self._prepaid_bytes = 0
        self._idle = True
        self._link: Link | None = None

    # --- on the link's thread ---

    def connected(self, link: Link, session_present: bool) -> None:
        self._link = link
        self._suspects.connected()
        self.subscribers.recall(self._supply.reader)
        self._gave_up = False
        self._packer = FrameBuilder(
            *(self._spec.uplink, self._shard, self._spec.new_form()),
            encoding=self._spec.encoding,
            identity=self._spec.identity(link.endpoint.protocol),
            reject=self._fail_unencoded,
            sealed=self._hashes is not None,
        )
        if self._spec.node is not None:
            self._announce(link, self._spec.node.connected(self._now_ms()))
            link.subscribe([(self._spec.node.topic("NCMD"), 0)])
        self.notices.connected(link, status_payload("online"))

    def leaving(self, link: Link) -> None:
        self.notices.leaving(link, status_payload("offline"))
        if self._spec.node is not None:
            link.publish(self._spec.node.topic("NDEATH"), self._spec.node.death())

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        if any(map(is_refusal, codes.values())):
            log.warning(
                "bridge-%d: %s refuses %s: no host can ask for births",
                *(self._shard, link.endpoint.place, ", ".join(codes)),
            )

    def received(self, link: Link, messages: list[Message]) -> None:
        node = self._spec.node
        if node is not None and any(node.asks_for_rebirth(each.topic, each.payload) for each in messages):
            self._announce(link, node.reborn(self._now_ms()))

    def published(self, link: Link, packet_id: int, reason_code: int) -> None:
        sent = self._in_flight.pop(packet_id, None)
        if sent is None:
            self.notices.answered(packet_id)
            return  # our own; paho has left out what the broker acknowledges twice, or without having it
        now_s = self._last_ack_s = time.monotonic()
        self._pace.answered(sent.flight, now_s, taken=reason_code < REFUSED)
        self._newest_acked = max(self._newest_acked, sent.number)
        link.progressed()
        if reason_code >= REFUSED:
            self._refused(link, sent.message, reason_code)
            return
        if reason_code == NO_SUBSCRIBER:
            self.metrics.without_subscriber += 1
            if self.subscribers.nobody(sent.message.topic):
                self._wait_for_subscriber(sent.message)
                return
        elif link.endpoint.protocol == "5":  # on 3.1.1 an answer says nothing about it
            self.subscribers.found(sent.message.topic)
        events, hashes = sent.message.events, sent.message.hashes
        if self._hashes is not None and hashes:
            self._hashes.add(events.stream_ids, events.sequence_nums, hashes)
        self._taken(events.ids)

    def published_many(self, link: Link, packet_ids: Sequence[int], reason_code: int) -> None:
        now_s = self._last_ack_s = time.monotonic()
        highest, found = self._runs.answered(packet_ids, now_s, taken=reason_code < REFUSED)
        self._newest_acked = max(self._newest_acked, highest)
        link.progressed()
        for chunk, positions in found:
            if reason_code >= REFUSED:
                for at in positions:
                    self._refused(link, self._alone(chunk.source, at), reason_code)
            else:
                self._taken_of(link, chunk, positions, reason_code)

    def _taken_of(self, link: Link, chunk: EncodedEvents, positions: Sequence[int], reason_code: int) -> None:
        """The broker took these events of a run."""
        topics = {chunk.topics[at - chunk.start] for at in positions}
        if reason_code == NO_SUBSCRIBER:
            self.metrics.without_subscriber += len(positions)
            waits = {topic for topic in topics if self.subscribers.nobody(topic)}
            if waits:
                here = [at for at in positions if chunk.topics[at - chunk.start] in waits]
                for at in here:
                    self._wait_for_subscriber(self._alone(chunk.source, at))
                positions = sorted({*positions} - {*here})
        elif link.endpoint.protocol == "5":
            self.subscribers.found_all(topics)
        if positions:
            ids = chunk.source.ids
            if self._hashes is not None:
                self._hashes.add(*_hashes_at(chunk, positions))
            self._taken([ids[at] for at in positions])

    def _taken(self, ids: Sequence[int]) -> None:
        """The broker took these events, and they need not wait for a subscriber."""
        self._refusals, self.metrics.refusal = 0, ""
        self._window = min(2 * self._window, self._most_in_flight)
        self._suspects.taken(ids)
        self._searches = _SEARCHES
        self.metrics.events_acked += len(ids)
        self._acked += ids

    def _alone(self, source: StoredEvents, at: int) -> Outgoing:
        """An event of a run as a message of its own, behind all that were packed before."""
        return self._require_packer().pack(self._supply.reader, source.part(at, at + 1))[0]

    def disconnected(self, link: Link) -> None:
        """Mark everything on this connection without a PUBACK as failed."""
        self._settle()
        self.notices.disconnected()
        for packet_id, number, run in self._runs.waiting():
            message = self._alone(run.chunk.source, run.position(number))
            self._in_flight[packet_id] = _Sent(number, message, run.flight)
        self._runs.clear()
        self._chunk = None
        if self._in_flight and (self._gave_up or not link.ended_by_us):
            self._note_close(link, link.farewell_code)
        lost = [i for sent in self._in_flight.values() for i in sent.message.events.ids]
        lost += [i for outgoing in self._outgoing for i in outgoing.events.ids]
        if self._ready is not None:
            lost += self._ready.ids[self._packed_to :]
        lost += self._supply.abandon()
        if self._in_flight:
            self._window = 1
        self._in_flight.clear()
        self._outgoing.clear()
        self._ready = None
        self._pace.lost()
        if lost:
            self._writer.submit(SettleEvents(lost, DeliveryEvent.FAILURE))

    def work(self, link: Link) -> float:
        self._settle()
        now_s = time.monotonic()
        self._check_overdue(link, now_s)
        self._count_wire(link)
        self.notices.work(link)
        if now_s < self._paused_until_s:
            return min(self._paused_until_s - now_s, 1.0)
        if self._ready is None:
            self._ready, self._packed_to = self._supply.take(now_s), 0
        wait_s = self._send(link, now_s)
        if self._ready is None and not self._outgoing:
            self._idle = True  # before the look, so that no commit slips through between it and the sleep
            ask_again_s = self._supply.ask(now_s)
            self._idle = ask_again_s >= IDLE_S
            wait_s = min(wait_s, ask_again_s)
            if not self._in_flight and not self._runs and not self._writer.pending_events:
                self._suspects.idle()
        return wait_s

    def finish(self) -> None:
        """Close what this session opened, after the link has stopped."""
        self._supply.close()

    def tell_status(self, payload: bytes) -> None:
        """Renew the retained status. On any thread."""
        self.notices.put_status(payload)
        self._wake()

    def tell(self, topic: str, payload: bytes) -> None:
        """Publish a message about the gateway itself, unretained. On any thread."""
        self.notices.put(topic, payload)
        self._wake()

    def stored(self) -> None:
        """Note that a commit has stored events. Called on the writer's thread."""
        if self._idle:
            self._wake()

    def _wake(self) -> None:
        """Wake the bridge to send. On any thread."""
        if self._link is not None:
            self._link.wake()

    # --- sending ---

    def _send(self, link: Link, now_s: float) -> float:
        """Publish what is ready, as far as window and bandwidth allow; returns how long to wait."""
        if self._goes_in_runs(link):
            return self._send_runs(link, now_s)
        if self._runs:
            return IDLE_S  # its answers come first
        window = 1 if self._suspects.careful else min(self._window, link.receive_maximum)
        while len(self._in_flight) < window and not link.congested:
            if not self._outgoing and not self._pack_next(link):
                self._pace.idle()
                break
            message = self._outgoing[0]
            if self._must_wait_alone(message.events.ids[0]):
                break
            if not self._pace.room_for(message.size_bytes):
                return LINGER_S
            delay_s = self._bucket.delay_s(now_s)
            if delay_s > 0:
                return delay_s
            self._publish(link, message, now_s)
            del self._outgoing[0]
        return IDLE_S

    def _goes_in_runs(self, link: Link) -> bool:
        """Return True while events go in runs: nothing is refused, suspicious or limited in number."""
        return (
            self._spec.format == "event"
            and link.bulk_maximum > 0
            and self._window == self._most_in_flight
            and not (self._outgoing or self._in_flight or self._suspects.any or self._suspects.careful)
            and not self._bucket.counts_messages
        )

    def _send_runs(self, link: Link, now_s: float) -> float:
        """Publish what is ready in runs, as far as window and bandwidth allow; returns how long to wait."""
        window = min(self._most_in_flight, link.bulk_maximum)
        while not link.congested:
            if self._ready is None:
                self._ready, self._packed_to = self._supply.take(now_s), 0
            if self._ready is None:
                self._pace.idle()
                break
            room = window - len(self._runs)
            if room < min(-(-window // _LEAST_RUN), len(self._ready.ids) - self._packed_to):
                break
            delay_s = self._bucket.delay_s(now_s)
            if delay_s > 0:
                return delay_s
            at_most = self._pace.run_events(room)
            if not at_most:
                return LINGER_S
            if not self._send_run(link, self._ready, at_most, now_s):
                break
        return IDLE_S

    def _send_run(self, link: Link, ready: StoredEvents, at_most: int, now_s: float) -> bool:
        """Publish the next run; return False where the next event needs a message of its own."""
        chunk, at = self._chunk, self._packed_to
        if chunk is None or chunk.source is not ready or not chunk.start <= at < chunk.end:
            end = ready.fitting(at, min(at + _CHUNK_EVENTS, len(ready.ids)), self._spec.frame_bytes)
            chunk = self._chunk = self._require_packer().chunk(self._supply.reader, ready, at, end)
        asked = min(at_most, chunk.end - at)
        count, size_bytes = self._runs.send(link, chunk, at, asked, self._sent + 1, now_s)
        self._sent += count
        self._bucket.spend(size_bytes)
        self._prepaid_bytes += size_bytes
        self.metrics.frames += count
        self.metrics.events_sent += count
        self.metrics.payload_bytes += sum(
            map(len, chunk.payloads[at - chunk.start : at - chunk.start + count])
        )
        self._pass(ready, at + count)
        if count == asked:
            return True
        part = ready.part(at + count, at + count + 1)
        self._pass(ready, at + count + 1)
        for message in self._require_packer().pack(self._supply.reader, part):
            self._put_up(link, message)
        return False

    def _pass(self, ready: StoredEvents, end: int) -> None:
        """The events of `ready` before position `end` have been packed."""
        self._packed_to = end
        if end == len(ready.ids):
            self._ready = self._chunk = None

    def _pack_next(self, link: Link) -> bool:
        """Make the next messages of what was claimed; whether there is something to send now."""
        while self._ready is not None and not self._outgoing:
            if self._must_wait_alone(self._ready.ids[self._packed_to]):
                break  # the answers to frames in flight decide what goes next
            self._put_witness_first(self._ready)
            limit = self._pace.events(self._spec.batch_events)
            start, end = self._packed_to, len(self._ready.ids)
            end = self._ready.fitting(start, min(start + limit, end), self._spec.frame_bytes)
            end = self._suspects.end(self._ready.ids, start, end)
            part = self._ready.part(start, end)
            self._pass(self._ready, end)
            for message in self._require_packer().pack(self._supply.reader, part):
                self._pace.packed(len(message.events.ids), message.size_bytes)
                self._put_up(link, message)
        return bool(self._outgoing)

    def _must_wait_alone(self, first_id: int) -> bool:
        """Return True if the message that begins with this event must wait for another answer."""
        if not self._suspects.any or not self._in_flight:
            return False
        oldest = next(iter(self._in_flight.values()))
        return self._suspects.suspicious(first_id) or self._suspects.suspicious(oldest.message.events.ids[0])

    def _put_witness_first(self, ready: StoredEvents) -> None:
        """Let one event go before a suspect, to see whether this connection takes anything at all."""
        at = self._suspects.witness(ready.ids, ready.stream_ids, self._packed_to)
        if at is not None:
            order = [at, *(each for each in range(self._packed_to, len(ready.ids)) if each != at)]
            self._ready, self._packed_to = ready.pick(order), 0

    def _put_up(self, link: Link, message: Outgoing) -> None:
        """Queue a message, in parts if the broker takes no packet of this size, as it said or as we found."""
        single = len(message.events.ids) == 1
        announced_bytes = link.max_packet_bytes or self._spec.max_packet_bytes or message.size_bytes
        learnt_bytes = message.size_bytes if single else self._pace.limit_bytes or message.size_bytes
        if message.size_bytes <= min(announced_bytes, learnt_bytes):
            insort(self._outgoing, message, key=_place)
        elif single:
            self._reject(message, TOO_LARGE)
        else:
            for half in self._require_packer().halves(self._supply.reader, message):
                self._put_up(link, half)

    def _publish(self, link: Link, message: Outgoing, now_s: float) -> None:
        payload = message.payload
        if self._spec.node is not None:
            *before, (_, payload) = self._spec.node.stamped(message.topic, payload, self._now_ms())
            self._announce(link, before)
        packet_id = link.publish(
            message.topic, payload, properties=message.properties, correlation=message.correlation
        )
        self._sent += 1
        self._in_flight[packet_id] = _Sent(self._sent, message, self._pace.sent(message.size_bytes, now_s))
        self._bucket.spend(message.size_bytes)
        self._bucket.count_message(now_s)
        self._prepaid_bytes += message.size_bytes
        self.metrics.frames += 1
        self.metrics.events_sent += len(message.events.ids)
        self.metrics.payload_bytes += len(message.payload)

    def _announce(self, link: Link, announcements: Sequence[Announcement]) -> None:
        for each in announcements:
            link.publish(each.topic, each.payload, qos=0)

    def _count_wire(self, link: Link) -> None:
        """Correct what was spent at each publish to what has really gone to the network since."""
        gone_bytes = link.wire_bytes - self._counted_bytes
        self._bucket.spend(gone_bytes - self._prepaid_bytes)
        self._counted_bytes += gone_bytes
        self._prepaid_bytes = 0
        self.metrics.wire_bytes = self._counted_bytes

    # --- answers ---

    def _settle(self) -> None:
        if self._acked:
            acked, self._acked = self._acked, []
            self._writer.submit(SettleEvents(acked, DeliveryEvent.PUBACK))
            self.subscribers.remember()

    def _refused(self, link: Link, message: Outgoing, reason_code: int) -> None:
        """The broker answered this message with a refusal; see `gateway.delivery.refusals`."""
        self.metrics.refused += 1
        self.metrics.refusal = reason_text(reason_code)
        found = verdict(reason_code, own_topic=self._spec.topic_per_stream)
        if found is RefusalVerdict.SPLIT:
            self._pace.too_large(message.size_bytes)
        self._refusals += 1
        self._window = 1  # so that what is behind it does not go before it
        if found is RefusalVerdict.WAIT or self._refusals > _REFUSALS_IN_A_ROW:
            self._pause()
        if found is RefusalVerdict.WAIT:
            insort(self._outgoing, message, key=_place)
        elif len(message.events.ids) > 1:
            for half in self._require_packer().halves(self._supply.reader, message):
                self._put_up(link, half)
        elif found is RefusalVerdict.RETRY:
            self._hold(message, reason_code, self._spec.backoff)
        else:
            self._reject(message, reason_code)

    def _wait_for_subscriber(self, message: Outgoing) -> None:
        """The topic has lost its subscriber: it alone waits where it is one of many, else everything does."""
        self.metrics.refusal = reason_text(NO_SUBSCRIBER)
        self._refusals += 1
        self._window = 1
        if self._spec.topic_per_stream and len(message.events.ids) == 1:
            self._hold(message, NO_SUBSCRIBER, _ASIDE)
        else:
            self._pause(_ASIDE)
            insort(self._outgoing, message, key=_place)

    def _pause(self, backoff: Backoff | None = None) -> None:
        pause_ms = (backoff or self._spec.backoff).pause_ms(self._refusals, _CHANCE.random())
        self._paused_until_s = max(self._paused_until_s, time.monotonic() + pause_ms / 1000)
        log.warning(
            "bridge-%d: the cloud broker refuses: %s; a pause of %.1f s",
            *(self._shard, self.metrics.refusal, pause_ms / 1000),
        )

    def _fail_unencoded(self, events: StoredEvents, reason: str) -> None:
        self.metrics.refused += 1
        self._suspects.forget(events.ids)
        self._writer.submit(FailEvents(events.ids, reason))

    def _reject(self, message: Outgoing, reason_code: int) -> None:
        self._suspects.forget(message.events.ids)
        self._writer.submit(FailEvents(message.events.ids, reason_text(reason_code)))

    def _hold(self, message: Outgoing, reason_code: int, backoff: Backoff) -> None:
        """Put a refused event back for a later retry, together with the events of its stream that wait
        here."""
        events = message.events
        arguments = backoff, self._now_ms(), _CHANCE.random()
        self._writer.submit(RefuseEvents(events.ids, reason_text(reason_code), *arguments))
        self._supply.hold(events.stream_ids[0], events.priorities[0])
        held: list[int] = []
        kept: list[Outgoing] = []
        for waiting in self._outgoing:
            positions = waiting.events.positions_of(events.stream_ids[0], events.priorities[0])
            held += [waiting.events.ids[at] for at in positions]
            packer = self._require_packer()
            kept += packer.without(self._supply.reader, waiting, positions) if positions else [waiting]
        self._outgoing = kept
        if self._ready is not None:
            rest = self._ready.part(self._packed_to, len(self._ready.ids))
            positions = rest.positions_of(events.stream_ids[0], events.priorities[0])
            held += [rest.ids[at] for at in positions]
            left = [at for at in range(len(rest.ids)) if at not in positions]
            self._ready, self._packed_to = (rest.pick(left) if left else None), 0
        if held:
            self._writer.submit(SettleEvents(held, DeliveryEvent.FAILURE))

    def _note_close(self, link: Link, reason_code: int | None) -> None:
        """The connection ended, perhaps over the message that the broker read last: the oldest without an
        answer."""
        packet_id, sent = next(iter(self._in_flight.items()))
        message = sent.message
        if self._gave_up:
            reason_code, found = None, RefusalVerdict.RETRY
        else:
            found = close_verdict(reason_code, own_topic=self._spec.topic_per_stream)
        if found is RefusalVerdict.WAIT:
            self.metrics.refusal = reason_text(reason_code or 0)
            self._refusals += 1
            if reason_code == RECEIVE_MAXIMUM:
                self._most_in_flight = max(1, len(self._in_flight) // 2)
            self._pause()
            return
        if found is RefusalVerdict.SPLIT and len(message.events.ids) > 1:
            self._pace.too_large(message.size_bytes)
        in_flight = [each.message.events.ids for each in self._in_flight.values()]
        named = found is not RefusalVerdict.RETRY
        overtaken = self._gave_up and sent.number < self._newest_acked
        finding = self._suspects.closed(in_flight, named=named, overtaken=overtaken)
        reason = reason_text(reason_code) if named and reason_code else close_text(reason_code)
        if self._gave_up:
            reason = f"no answer within {self._spec.ack_timeout_s:g} s"
        log.warning(
            "bridge-%d: the connection ended with %d events on %s unanswered, and %d behind them: %s",
            *(self._shard, len(message.events.ids), message.topic),
            *(sum(map(len, in_flight)) - len(message.events.ids), reason),
        )
        if finding is Finding.AGAIN:
            if self._searches and self._suspects.suspicious(message.events.ids[0]):
                self._searches -= 1
                link.progressed()  # each of these closes halves the frame
            return
        self.metrics.refused += 1
        self.metrics.refusal = reason
        if finding is Finding.FAIL:
            self._pace.not_the_size()
            del self._in_flight[packet_id]
            self._writer.submit(FailEvents(message.events.ids, reason))
        elif not self._gave_up:
            del self._in_flight[packet_id]
            arguments = _ASIDE, self._now_ms(), _CHANCE.random()
            self._writer.submit(RefuseEvents(message.events.ids, reason, *arguments))

    def _check_overdue(self, link: Link, now_s: float) -> None:
        """Over a slow link an answer may take long as long as others come; one that later messages have had
        before it will not come any more."""
        first = next(iter(self._in_flight.values()), None)
        oldest = (first.number, first.flight.sent_s) if first is not None else self._runs.oldest
        if oldest is None:
            return
        number, sent_s = oldest
        since_s = sent_s if number < self._newest_acked else max(sent_s, self._last_ack_s)
        if now_s - since_s > self._spec.ack_timeout_s:
            self._gave_up = True
            link.reset(f"no PUBACK from the cloud broker for {self._spec.ack_timeout_s:g} s")

    def _require_packer(self) -> FrameBuilder:
        assert self._packer is not None  # noqa: S101 - made with each connection
        return self._packer


def _hashes_at(chunk: EncodedEvents, positions: Sequence[int]) -> tuple[list[int], list[int], list[bytes]]:
    """Return streams, numbers and hashes of some events of a chunk."""
    streams, numbers = chunk.source.stream_ids, chunk.source.sequence_nums
    hashes = [chunk.hashes[at - chunk.start] for at in positions]
    return [streams[at] for at in positions], [numbers[at] for at in positions], hashes


def _place(message: Outgoing) -> tuple[int, ...]:
    return message.place
