"""Publishes aggregates, late reports and the gateway's status on the local broker.

It follows the buffer with a cursor instead of a queue: an outage of the broker costs no memory, and what a
crash left unpublished is published after the restart (at least once, at QoS 1).

A result of an older window than the newest published one is marked as superseded and never retained.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import orjson

from gateway import __version__
from gateway.buffer.reader import Reader
from gateway.buffer.writer import Writer
from gateway.core.events import Kind, Message
from gateway.local.leftovers import Leftovers
from gateway.local.newest import Newest
from gateway.mqtt.link import Link, Session
from gateway.mqtt.paho_client import is_refusal
from gateway.wire.alarms import AlarmState
from gateway.wire.home_assistant import Discovery, DiscoveryMessage
from gateway.wire.standing import Standing, standing, superseded

log = logging.getLogger(__name__)

IN_FLIGHT = 100  # a subscriber's queue in a stock Mosquitto has room for 1000
CHUNK = 200
SAVE_EVERY = 500
MAX_COMMANDS = 1000
MAX_NOTICES = 50


class _Waiting(NamedTuple):
    """A message to publish. `standing` is that of an aggregate of a window with bounds."""

    buffer_id: int
    topic: str
    payload: bytes
    stream: int = 0
    standing: Standing | None = None


class Republish(Session):
    """The session of `gateway.republish`. The windows `in_arrival_order` have no order but that of their
    results: none of these is superseded."""

    def __init__(
        self,
        path: Path,
        writer: Writer,
        status_topic: str,
        backpressure_topic: str,
        retained: Callable[[str], bool],
        republished_id: int,
        discovery: Discovery | None = None,
        alarm_state: Callable[[str, bytes, int], AlarmState | None] = lambda *_: None,
        in_arrival_order: frozenset[str] = frozenset(),
        leftovers: Leftovers | None = None,
    ) -> None:
        self._path = path
        self._writer = writer
        self._status_topic = status_topic
        self._backpressure_topic = backpressure_topic
        self._backpressure: bytes | None = None  # what is to be said of it
        self._told = b""
        self._status = b""  # the newest, b"" before the first
        self._notices: deque[tuple[str, bytes]] = deque(maxlen=MAX_NOTICES)
        self._commands: deque[tuple[str, bytes]] = deque(maxlen=MAX_COMMANDS)
        self._retained = retained
        self._discovery = discovery
        self._announcements: deque[DiscoveryMessage] = deque()  # for Home Assistant, which has started
        self._alarm_state = alarm_state
        self._alarm_id = 0  # of the last event that changed an alarm
        self._in_arrival_order = in_arrival_order
        self._leftovers = leftovers
        self._newest = Newest(lambda streams: self._opened().newest_of(streams))
        self._cursor = republished_id  # the last id that was handed to the broker
        self._settled = self._saved = republished_id
        self._sent = republished_id  # the last id of which a message went to the broker
        self._waiting: deque[_Waiting] = deque()  # of at most CHUNK events
        self._in_flight: OrderedDict[int, int] = OrderedDict()  # packet id → buffer id
        self._single: set[int] = set()  # packet ids in flight of what did not go in bulk
        self._reader: Reader | None = None
        self._link: Link | None = None
        self._news = True

    # --- on the writer's thread ---

    def wake(self) -> None:
        """A commit may have brought aggregates."""
        self._news = True
        if self._link is not None:
            self._link.wake()

    def announce(self, backpressure: bytes) -> None:
        """Publish this as the state of backpressure, retained."""
        self._told = self._backpressure = backpressure
        if self._link is not None:
            self._link.wake()

    def tell_status(self, payload: bytes) -> None:
        """Renew the retained status. On any thread."""
        self._status = payload
        self.tell(self._status_topic, b"")

    def tell(self, topic: str, payload: bytes) -> None:
        """Publish a message about the gateway itself, unretained, if there is a connection. On any thread."""
        if self._link is not None:
            self._notices.append((topic, payload))
            self._link.wake()

    def command(self, topic: str, payload: bytes) -> None:
        """Publish this to a device at QoS 0, if there is a connection; a device that needs it asks again."""
        if self._link is not None:
            self._commands.append((topic, payload))
            self._link.wake()

    # --- on the link's thread ---

    def connected(self, link: Link, session_present: bool) -> None:
        self._link = link
        link.publish(self._status_topic, self._status or status_payload("online"), qos=1, retain=True)
        self._backpressure = self._told or None
        self._news = True
        if self._discovery is not None:
            link.subscribe([(self._discovery.filter, 1), (self._discovery.birth, 1)])
            for announcement in self._discovery.connected():
                _announce(link, announcement)
        if self._leftovers is not None:
            self._leftovers.connected(link)

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        """Without a subscription only announcements of windows that are gone stay, and the start of Home
        Assistant is not heard."""
        if self._leftovers is not None:
            self._leftovers.subscribed(link, codes)
        for name, code in codes.items():
            if is_refusal(code):
                log.warning(
                    "%s refused the subscription to %s with reason 0x%02x: announcements of windows that "
                    "are gone are not removed",
                    *(link.endpoint.place, name, code),
                )

    def received(self, link: Link, messages: list[Message]) -> None:
        """Take retained messages of ours: announcements and leftovers; and our own, sent back."""
        for message in messages:
            if self._leftovers is None or not self._leftovers.received(link, message):
                self._look_at_announcement(link, message)
            link.ack(message)

    def _look_at_announcement(self, link: Link, message: Message) -> None:
        if self._discovery is None:
            return
        if message.topic == self._discovery.birth:
            if message.payload == b"online" and not message.retain:
                self._announcements = deque(self._discovery.again())
        elif message.retain:
            stale = self._discovery.kept(message.topic, message.payload, time.monotonic())
            if stale is not None:
                _announce(link, stale)

    def published(self, link: Link, packet_id: int, reason_code: int) -> None:
        self.published_many(link, (packet_id,), reason_code)

    def published_many(self, link: Link, packet_ids: Sequence[int], reason_code: int) -> None:
        in_flight = self._in_flight
        answered = [in_flight.pop(packet_id) for packet_id in packet_ids if packet_id in in_flight]
        if not answered:
            return
        self._single.difference_update(packet_ids)
        if reason_code >= 0x80:
            log.warning("the local broker refused %d results: reason code 0x%02x", len(answered), reason_code)
        oldest = next(iter(in_flight.values()), None)
        # Answers to messages sent in bulk may overtake those to others.
        self._settled = self._sent if oldest is None else max(self._settled, oldest - 1)
        # An alarm says each change once: that it is published is known as soon as it is.
        if self._settled - self._saved >= SAVE_EVERY or self._saved < self._alarm_id <= self._settled:
            self._save()

    def disconnected(self, link: Link) -> None:
        """Put messages without an acknowledgement back, to publish them again."""
        self._cursor = self._settled
        self._in_flight.clear()
        self._single.clear()
        self._waiting.clear()
        self._commands.clear()
        self._notices.clear()
        self._announcements.clear()

    def leaving(self, link: Link) -> None:
        """Publish the offline status: after a clean DISCONNECT the broker does not publish the will."""
        link.publish(self._status_topic, status_payload("offline"), qos=1, retain=True)

    def work(self, link: Link) -> float:
        told, self._backpressure = self._backpressure, None
        if told is not None:
            link.publish(self._backpressure_topic, told, qos=1, retain=True)
        if self._leftovers is not None:
            self._leftovers.work(link)
        while self._notices and not link.congested:
            topic, payload = self._notices.popleft()
            link.publish(topic, payload or self._status, qos=1, retain=topic == self._status_topic)
        while self._commands and not link.congested:
            link.publish(*self._commands.popleft(), qos=0)
        self._work_for_home_assistant(link)
        if not self._waiting and self._news:
            self._load()
        while self._waiting and not link.congested and self._publish_next(link):
            pass
        return 1.0 if not self._news else 0.05

    def _work_for_home_assistant(self, link: Link) -> None:
        if self._discovery is None:
            return
        while self._announcements and not link.congested:
            _announce(link, self._announcements.popleft())
        for message in self._discovery.expired(time.monotonic()):
            _announce(link, message)

    def finish(self) -> None:
        """Save how far it got. After the link has stopped, before the writer does."""
        self._save()
        if self._reader is not None:
            self._reader.close()

    def _publish_next(self, link: Link) -> bool:
        """Publish what comes next; False where nothing more may be in flight. In bulk as far as that goes,
        but not before those that went by themselves are answered: it would overtake them."""
        room = min(IN_FLIGHT, link.bulk_maximum or IN_FLIGHT) - len(self._in_flight)
        if room <= 0:
            return False
        run = self._next_run(room) if link.bulk_maximum and not self._single else []
        if run:
            ids, topics, payloads = zip(*run, strict=True)
            packet_ids, _ = link.publish_many(topics, payloads, [b""] * len(run))
            self._in_flight.update(zip(packet_ids, ids, strict=False))
            for _ in packet_ids:
                self._sent = self._waiting.popleft().buffer_id
            if len(packet_ids) == len(run):
                return True
        self._publish(link, self._waiting.popleft())
        return True

    def _next_run(self, most: int) -> list[tuple[int, str, bytes]]:
        """The next messages (event, topic, payload), up to one that is retained or for Home Assistant."""
        run: list[tuple[int, str, bytes]] = []
        for buffer_id, topic, payload, stream, stands in islice(self._waiting, most):
            if self._retained(topic) or (self._discovery is not None and self._discovery.shows(topic)):
                break
            is_old = stands is not None and self._newest.is_superseded(stream, stands)
            run.append((buffer_id, topic, superseded(payload) if is_old else payload))
        return run

    def _publish(self, link: Link, waiting: _Waiting) -> None:
        buffer_id, topic, payload, stream, stands = waiting
        retain = self._retained(topic)
        if stands is not None and self._newest.is_superseded(stream, stands):
            payload, retain = superseded(payload), False
        elif self._discovery is not None:
            alarm = self._discovery.alarm(topic)
            for message in [alarm] if alarm else self._discovery.result(topic, payload, time.monotonic()):
                _announce(link, message)
        packet_id = link.publish(topic, payload, qos=1, retain=retain)
        self._in_flight[packet_id] = self._sent = buffer_id
        self._single.add(packet_id)

    def _opened(self) -> Reader:
        if self._reader is None:
            self._reader = Reader(self._path)
        return self._reader

    def _load(self) -> None:
        self._news = False
        reader = self._opened()
        events = reader.derived_after(self._cursor, CHUNK)
        if not events.ids:
            return
        self._news = True  # there may be more behind these
        self._cursor = events.ids[-1]
        events, _ = reader.without_corrupt(events)
        names, payloads = reader.names(events.stream_ids), reader.payloads(events)
        columns = (events.kinds, events.ids, names, payloads, events.stream_ids, events.event_times_ms)
        for kind, buffer_id, topic, payload, stream, time_ms in zip(*columns, strict=True):
            if kind == Kind.AGGREGATE:
                stands = self._standing(payload)
                self._waiting.append(_Waiting(buffer_id, topic, payload, stream, stands))
            else:
                self._wait(_Waiting(buffer_id, topic, payload), time_ms)
        self._newest.look_up(one.stream for one in self._waiting if one.standing is not None)

    def _standing(self, payload: bytes) -> Standing | None:
        aggregate = orjson.loads(payload)
        return None if aggregate["window"] in self._in_arrival_order else standing(aggregate)

    def _wait(self, waiting: _Waiting, time_ms: int) -> None:
        """Put an event last in line, and behind it the alarm that it changes: both settle it, or neither."""
        buffer_id = waiting.buffer_id
        alarm = self._alarm_state(waiting.topic, waiting.payload, time_ms)
        if alarm is None:
            self._waiting.append(waiting)
            return
        self._alarm_id = buffer_id
        self._waiting.append(waiting._replace(buffer_id=buffer_id - 1))
        self._waiting.append(_Waiting(buffer_id, alarm.topic, alarm.payload))

    def _save(self) -> None:
        self._saved = self._settled
        self._writer.submit(self._newest.save(self._settled))


def _announce(link: Link, announcement: DiscoveryMessage) -> None:
    link.publish(announcement.topic, announcement.payload, qos=1, retain=True)


def status_payload(state: str) -> bytes:
    """The retained status message; design 5.1."""
    return orjson.dumps({"state": state, "version": __version__})
