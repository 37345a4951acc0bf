"""Turns stored events into the messages that carry them to the cloud: one frame of many, or one each."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from gateway.buffer.reader import Reader
from gateway.buffer.stored_events import StoredEvents
from gateway.cloud.event_runs import EncodedEvents
from gateway.core.events import WireEvent
from gateway.core.topics import check_topic
from gateway.mqtt.bulk_publishes import correlation_data, user_property
from gateway.wire.encoder import Encoder, checked
from gateway.wire.encodings import Encoding, encode_frame
from gateway.wire.event_format import event_envelope, event_properties
from gateway.wire.evidence import event_hashes
from gateway.wire.frame import EventColumns, wire_events
from gateway.wire.short_identity import short_identities
from gateway.wire.uplink_topics import UplinkTopics

Identity = Literal["correlation", "properties", "envelope", "none"]
"""Place for the identity of a single event."""

_PROPERTY_BYTES = 5  # of a user property or correlation data, at most, beside what is in it
_PACKET_BYTES = 16  # of a PUBLISH, beside topic, payload and user properties


class Outgoing(NamedTuple):
    """A message for the cloud and its events. `place` keeps the order of what is sent again: the halves of
    (3,) are (3, 0) and (3, 1)."""

    place: tuple[int, ...]
    topic: str
    payload: bytes
    properties: Sequence[tuple[str, str]]
    events: StoredEvents
    correlation: bytes = b""
    hashes: Sequence[bytes] = ()  # of the events, where they are sealed

    @property
    def size_bytes(self) -> int:
        """Size of the MQTT packet, or a few bytes more."""
        properties = sum(_PROPERTY_BYTES + len(name) + len(value) for name, value in self.properties)
        if self.correlation:
            properties += _PROPERTY_BYTES + len(self.correlation)
        return len(self.payload) + len(self.topic.encode()) + properties + _PACKET_BYTES


class FrameBuilder:
    """Makes the messages of one connection, its shard. Raises DecodeError for a payload that does not
    decompress. `reject` is called with an event of which an encoder makes no message, and the reason. Where
    events are `sealed`, messages carry their hashes: this is when all that is hashed is at hand."""

    def __init__(
        self,
        topics: UplinkTopics,
        shard: int,
        form: Literal["batch", "event"] | Encoder,
        *,
        encoding: Encoding,
        identity: Identity,
        reject: Callable[[StoredEvents, str], object],
        sealed: bool = False,
    ) -> None:
        self._topics = topics
        self._shard = shard
        self._form = form
        self._encoding = encoding
        self._identity = identity
        self._reject = reject
        self._sealed = sealed
        self._packed = 0

    def pack(self, reader: Reader, events: StoredEvents) -> list[Outgoing]:
        """The messages that carry `events`, behind all that were packed before."""
        self._packed += 1
        return self._pack(reader, events, (self._packed,))

    def halves(self, reader: Reader, refused: Outgoing) -> list[Outgoing]:
        """The same events in two messages, in the same place."""
        events, middle = refused.events, len(refused.events.ids) // 2
        parts = events.part(0, middle), events.part(middle, len(events.ids))
        return [
            message
            for number, part in enumerate(parts)
            for message in self._pack(reader, part, (*refused.place, number))
        ]

    def without(self, reader: Reader, message: Outgoing, positions: set[int]) -> list[Outgoing]:
        """The same message without the events at those positions; none when nothing is left."""
        kept = [at for at in range(len(message.events.ids)) if at not in positions]
        return self._pack(reader, message.events.pick(kept), message.place) if kept else []

    def _pack(self, reader: Reader, events: StoredEvents, place: tuple[int, ...]) -> list[Outgoing]:
        columns = reader.columns(events)
        if self._form == "batch":
            frame = encode_frame(
                self._encoding, self._topics.own.gateway_id, uuid.uuid4().bytes, columns, reader.buffer_id
            )
            topic = self._topics.batch(self._shard)
            return [Outgoing(place, topic, frame, (), events, hashes=self._hashes(columns))]
        if self._form != "event":
            return self._encoded(self._form, reader, events, place)
        short, hashes = self._short_identities(columns, reader.buffer_id), self._hashes(columns)
        return [
            Outgoing(
                (*place, at),
                self._topics.event(event.stream),
                self._payload(event, reader.buffer_id),
                self._properties(event, reader.buffer_id),
                events.part(at, at + 1),
                identity,
                hashes[at : at + 1],
            )
            for at, (event, identity) in enumerate(zip(wire_events(columns), short, strict=True))
        ]

    def chunk(self, reader: Reader, source: StoredEvents, start: int, end: int) -> EncodedEvents:
        """Encode events of the event format, for a run: the same messages as `pack` makes of them."""
        columns, buffer_id = reader.columns(source.part(start, end)), reader.buffer_id
        topic_of = {stream: self._topics.event(stream) for stream in {*columns.streams}}
        topics = [topic_of[stream] for stream in columns.streams]
        payloads, hashes = columns.payloads, self._hashes(columns)
        if self._identity == "correlation" and self._topics.names_streams:
            short = self._short_identities(columns, buffer_id)
            properties = [*map(correlation_data, short)]
            return EncodedEvents(source, start, end, topics, payloads, properties, hashes)
        events = wire_events(columns)
        if self._identity == "envelope":
            payloads = [self._payload(event, buffer_id) for event in events]
        short = self._short_identities(columns, buffer_id)
        properties = [
            b"".join(user_property(*each) for each in self._properties(event, buffer_id))
            + (correlation_data(identity) if identity else b"")
            for event, identity in zip(events, short, strict=True)
        ]
        return EncodedEvents(source, start, end, topics, payloads, properties, hashes)

    def _hashes(self, columns: EventColumns) -> Sequence[bytes]:
        return event_hashes(columns) if self._sealed else ()

    def _short_identities(self, columns: EventColumns, buffer_id: str) -> Sequence[bytes]:
        if self._identity == "correlation":
            return short_identities(columns, buffer_id)
        return [b""] * len(columns.streams)

    def _payload(self, event: WireEvent, buffer_id: str) -> bytes:
        return event_envelope(event, buffer_id) if self._identity == "envelope" else event.payload

    def _encoded(
        self, encoder: Encoder, reader: Reader, events: StoredEvents, place: tuple[int, ...]
    ) -> list[Outgoing]:
        wire = wire_events(reader.columns(events))
        try:
            messages = checked(encoder.encode(wire, self._topics), len(wire))
            for message in messages:
                check_topic(message.topic)
        except Exception as exc:  # noqa: BLE001 - an encoder may be foreign code: it may raise anything
            if len(wire) == 1:
                self._reject(events, f"cannot be encoded: {type(exc).__name__}: {exc}")
                return []
            middle = len(wire) // 2
            first = self._encoded(encoder, reader, events.part(0, middle), (*place, 0))
            return first + self._encoded(encoder, reader, events.part(middle, len(wire)), (*place, 1))
        return [
            Outgoing((*place, number), message.topic, message.payload, (), events.pick([*message.events]))
            for number, message in enumerate(messages)
        ]

    def _properties(self, event: WireEvent, buffer_id: str) -> list[tuple[str, str]]:
        if self._identity not in ("properties", "correlation"):
            return []
        properties = event_properties(event, buffer_id) if self._identity == "properties" else []
        return properties if self._topics.names_streams else [*properties, ("stream", event.stream)]
