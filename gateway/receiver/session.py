"""The reference consumer: takes what the bridge sends to the cloud broker and gives it to a sink, once.

Persist, then acknowledge: a message is acknowledged when its events, or its audit's claims, are on disk.
What was not acknowledged comes again after a reconnect or a restart, and the ledger, rebuilt from the sink,
knows it. A gateway that keeps its events until then is told what is on disk, see `confirming`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from gateway.core.errors import DecodeError
from gateway.core.events import Message
from gateway.core.own_topics import OwnTopics, UplinkTopic, parse_uplink_topic
from gateway.core.sequence_sets import Stretch
from gateway.mqtt.link import Link, Session
from gateway.receiver.confirming import CONFIRM_EVERY_S, Confirming
from gateway.receiver.ledger import MERGED, Ledger, Series, identity, series_of
from gateway.receiver.sinks.sink import Received, Sink
from gateway.wire.audit_record import AuditRecord, read_audit
from gateway.wire.encodings import decode_frame
from gateway.wire.event_format import buffer_of_message, event_from_message
from gateway.wire.signatures import read_signed

log = logging.getLogger(__name__)

_REFUSED = 0x80
_NAMED_TOPICS = 100  # that cannot be read; the messages of further ones are counted together

_SHARED_RUNS = 1000  # of a stream; each frame that another member gets leaves a gap
SAVE_EVERY_EVENTS = 1_000_000  # read again after a crash, at most


class Shared(Protocol):
    """An output that several receivers write; see `gateway.receiver.sinks.postgres_shared`."""

    @property
    def group(self) -> str:
        """Name of the shared subscription."""

    def hear(self, record: AuditRecord) -> None:
        """Keep the claims of a record."""

    def present(self, series: Series, wanted: Sequence[Stretch]) -> list[Stretch]:
        """Return those of the numbers `wanted` that are in the output."""


class Merging(Protocol):
    """The merging of partial results; see `gateway.fleet.merging`."""

    def resume(self, ledger: Ledger) -> list[Received]:
        """Return the results of an earlier run that the output does not have."""

    def reconnected(self) -> None:
        """Note that nothing could come for a while."""

    def take(self, received: Sequence[Received]) -> list[Received]:
        """Merge the parts among new events; returns the results, to be written with them."""

    def pass_time(self) -> list[Received]:
        """Return the results that are due because time has passed."""


class Receiver(Session):
    """The session of the receiving connection. When it cannot go on, `failure` says why, and `done` is set.

    `prefix` is the gateways' topic prefix, `gateway_id` one of them or `+` for all. With `shared` it is one
    of several receivers: the ledger then knows only a part of each stream.
    """

    def __init__(
        self,
        prefix: str,
        gateway_id: str,
        sink: Sink,
        ledger: Ledger,
        confirm_every_s: float = CONFIRM_EVERY_S,
        shared: Shared | None = None,
        merging: Merging | None = None,
    ) -> None:
        self.messages = 0
        self.written = 0
        self.rejected = 0
        self.unreadable: dict[str, int] = {}
        """Messages by topic, of topics that no gateway sends to: a broker has rewritten them."""
        self.audits = 0
        self.listening = False
        """True once the broker has granted the subscriptions of a connection."""
        self._quiet_since_s = time.monotonic()
        self._is_taking = False
        self.done = threading.Event()
        self.failure: Exception | None = None
        self._prefix = prefix
        group = "" if shared is None else f"$share/{shared.group}/"
        self.filters = [group + name for name in OwnTopics(prefix, gateway_id).uplink_filters]
        self.lock = threading.Lock()
        """Held by whoever uses the sink or the ledger: with a group, several links bring messages."""
        self._shared = shared
        self._merging = merging
        self._sink = sink
        self._ledger = ledger
        self._unsaved = 0
        look_up = None if shared is None else shared.present
        self.confirming = Confirming(prefix, ledger, confirm_every_s, look_up)

    @property
    def is_shared(self) -> bool:
        """True for one of several receivers."""
        return self._shared is not None

    def resume(self) -> None:
        """Write the results that the last run has left. Call before there is a connection."""
        if self._merging is not None:
            self._write_results(self._merging.resume(self._ledger))

    def _write_results(self, results: Sequence[Received]) -> None:
        if results:
            self._sink.write(results)

    def connected(self, link: Link, session_present: bool) -> None:
        if self._merging is not None:
            with self.lock:
                self._merging.reconnected()
        link.subscribe([(topic_filter, 1) for topic_filter in self.filters])

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        super().subscribed(link, codes)
        taken = [topic_filter for topic_filter, code in codes.items() if code < _REFUSED]
        self._quiet_since_s = time.monotonic()
        self.listening = True
        if taken:
            log.info("subscribed to %s", ", ".join(taken))

    def published(self, link: Link, packet_id: int, reason_code: int) -> None:
        with self.lock:
            self.confirming.answered(link, packet_id, reason_code)

    def disconnected(self, link: Link) -> None:
        self.listening = False
        with self.lock:
            self.confirming.disconnected()

    def work(self, link: Link) -> float:
        with self.lock:
            if self.failure is None and self._merging is not None:
                with self._failing():
                    self._write_results(self._merging.pass_time())
            return self.confirming.work(link) if self.failure is None else 1.0

    def leaving(self, link: Link) -> None:
        with self.lock:
            if self.failure is None:
                self.confirming.tell_all(link)

    def quiet_s(self) -> float:
        """Return for how long nothing has come: 0 while something is being written."""
        return 0.0 if self._is_taking else time.monotonic() - self._quiet_since_s

    def received(self, link: Link, messages: list[Message]) -> None:
        with self.lock:
            self._receive(link, messages)

    def _receive(self, link: Link, messages: list[Message]) -> None:
        if self.failure is not None:  # of a new connection: they are in the ledger, but not on the disk
            return
        self._is_taking = True
        with self._failing():
            news = self._take(messages)
        for message in messages:
            link.ack(message)
        if news:  # gateways repeat their claims for ever
            self._quiet_since_s = time.monotonic()
        self._is_taking = False

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """End the receiver when anything goes wrong: the ledger has counted what is not on the disk, and to
        acknowledge anything from here on could lose it. The next run rebuilds the ledger from the sink."""
        try:
            yield
        except Exception as exc:
            self.failure = exc
            self.done.set()
            raise

    def wants_to_read(self) -> bool:
        return self.failure is None

    def finish(self) -> None:
        """Save the state after the link has stopped, unless it is not what the sink holds."""
        if self.failure is None:
            self._save()

    def _take(self, messages: list[Message]) -> bool:
        """Store the messages; whether they say anything new."""
        events: list[Received] = []
        audits: list[AuditRecord] = []
        signed: list[bytes] = []
        for message in messages:
            try:
                self._decode(message, events, audits, signed)
            except DecodeError as exc:
                self.rejected += 1
                log.warning("%s: rejected: %s", message.topic, exc)
                self._sink.reject(message, exc)
        take = self._ledger.take
        new = [each for each in events if take(identity(*each))]
        merged = [] if self._merging is None else self._merging.take(new)
        stored = self._sink.write([*new, *merged]) - len(merged)
        self.confirming.stored(new)
        self._ledger.duplicates += len(new) - stored
        self.messages += len(messages)
        if stored and not self.written:
            first = new[0]
            log.info("first event: %s of %s", first.event.stream, first.gateway_id)
        self.written += stored
        self._unsaved += stored
        if signed:
            self._sink.keep_records(signed)
        news = [self._ledger.hear(record) for record in audits]
        for record in audits:
            if self._shared is not None:
                self._shared.hear(record)
            self.confirming.heard(record)
        if self._shared is not None:
            self._ledger.bound({series_of(identity(*each)) for each in new}, _SHARED_RUNS)
        self.audits += len(audits)
        if audits or self._unsaved >= SAVE_EVERY_EVENTS:
            self._save()
        return any(news) or len(audits) < len(messages)

    def _count_unreadable(self, topic: str) -> None:
        if topic not in self.unreadable and len(self.unreadable) >= _NAMED_TOPICS:
            topic = "others"
        self.unreadable[topic] = self.unreadable.get(topic, 0) + 1

    def _save(self) -> None:
        self._sink.save(self._ledger.dump())
        self._unsaved = 0

    def _decode(
        self, message: Message, events: list[Received], audits: list[AuditRecord], signed: list[bytes]
    ) -> None:
        topic = parse_uplink_topic(self._prefix, message.topic)
        if topic is None:
            self._count_unreadable(message.topic)
            raise DecodeError("a topic that no gateway sends to: did the broker rewrite it?", reason="topic")
        if topic.form == "audit":
            record = read_audit(message.payload)
            _check_sender(record.gateway_id, record.buffer_id, topic)
            audits.append(record)
            if read_signed(message.payload) is not None:
                signed.append(message.payload)
        elif topic.form == "event":
            parts = message.properties, message.payload, message.correlation
            event, buffer_id = event_from_message(topic.rest, *parts), buffer_of_message(*parts)
            _check_sender(topic.gateway_id, buffer_id, topic)
            events.append(Received(topic.gateway_id, event, buffer_id))
        else:
            batch = decode_frame(message.payload)
            _check_sender(batch.gateway_id, batch.buffer_id, topic)
            events += [Received(batch.gateway_id, event, batch.buffer_id) for event in batch.events]


def _check_sender(gateway_id: str, buffer_id: str, topic: UplinkTopic) -> None:
    if buffer_id == MERGED:
        raise DecodeError(f"the buffer `{MERGED}` is the receiver's own", reason="gateway")
    if gateway_id != topic.gateway_id:
        raise DecodeError(f"a message of {gateway_id} on another gateway's topic", reason="gateway")
