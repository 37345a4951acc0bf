"""A broker of MQTT 3.1.1 and 5 that answers as a test says: any code, or a close, at an exact packet."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from gateway.core.events import WireEvent
from gateway.core.own_topics import parse_uplink_topic
from gateway.wire.event_format import event_from_message
from gateway.wire.frame import decode_batch

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, UNSUBSCRIBE = 1, 2, 3, 4, 8, 9, 10
UNSUBACK, PINGREQ, DISCONNECT = 11, 12, 14
PUBREC, PUBREL, PUBCOMP = 5, 6, 7


class Packet(NamedTuple):
    """One packet from the client. `number` counts those of its kind on the connection, from 1."""

    kind: int
    number: int
    connection: int
    v5: bool
    topic: str = ""
    payload: bytes = b""
    packet_id: int = 0
    qos: int = 0
    retain: bool = False
    user_properties: tuple[tuple[str, str], ...] = ()
    correlation: bytes = b""
    topic_alias: int = 0
    filters: tuple[str, ...] = ()
    client_id: str = ""
    username: str | None = None
    password: str | None = None
    will_topic: str | None = None
    will_retain: bool = False
    size_bytes: int = 0

    @property
    def events(self) -> list[WireEvent]:
        """What the uplink sends in it, in either format."""
        where = parse_uplink_topic("gateway", self.topic) if self.kind == PUBLISH else None
        if where is None or where.form == "audit":
            return []
        if where.form == "batch":
            return list(decode_batch(self.payload).events)
        return [event_from_message(where.rest, self.user_properties, self.payload, self.correlation)]


class Answer(NamedTuple):
    """Bytes for the client, and whether the connection ends behind them."""

    data: bytes = b""
    close: bool = False


CLOSE = Answer(close=True)
SILENCE = Answer()
Rule = Callable[[Packet], Answer | None]
"""What is answered to a packet; None: what a broker without worries would answer."""


def connack(packet: Packet, code: int = 0, properties: bytes = b"") -> Answer:
    """A refusal ends the connection, as the standard demands."""
    tail = bytes([len(properties)]) + properties if packet.v5 else b""
    return Answer(bytes([CONNACK << 4, 2 + len(tail), 0, code]) + tail, close=code != 0)


def puback(packet: Packet, code: int = 0) -> Answer:
    number = struct.pack("!H", packet.packet_id)
    return Answer(b"\x40\x04" + number + bytes([code, 0]) if packet.v5 else b"\x40\x02" + number)


def suback(packet: Packet, *codes: int) -> Answer:
    body = struct.pack("!H", packet.packet_id) + (b"\x00" if packet.v5 else b"") + bytes(codes)
    return Answer(bytes([SUBACK << 4, len(body)]) + body)


def farewell(code: int) -> Answer:
    """A DISCONNECT of MQTT 5, and the end of the connection."""
    return Answer(bytes([DISCONNECT << 4, 2, code, 0]), close=True)


class StubBroker:
    """Takes connections on 127.0.0.1:`port` and remembers every packet. `rule` may be replaced at any time.

    A publish that was answered with a code below 0x80 has been taken: its events are in `events`, in order.
    """

    def __init__(self, rule: Rule = lambda _packet: None) -> None:
        self.rule = rule
        self.packets: list[Packet] = []
        self.events: list[WireEvent] = []
        self.answer_after_s = 0.0  # publishes
        self.most_unanswered = 0  # publishes of one connection; with `answer_after_s`
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def of(self, kind: int, topic_end: str = "") -> list[Packet]:
        """The packets of a kind so far, on topics that end so."""
        return [p for p in list(self.packets) if p.kind == kind and p.topic.endswith(topic_end)]

    def ended(self, connection: int) -> None:
        """Override to be told of the end of a connection."""

    def send_all(self, data: bytes) -> None:
        """Send bytes on every open connection."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.sendall(data)

    def drop_all(self) -> None:
        """Close every connection."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def running(self) -> Iterator[StubBroker]:
        thread = threading.Thread(target=self._accept, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self.drop_all()
            thread.join(5)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                self._sockets.append(accepted)
                self.connections += 1
                serving = threading.Thread(target=self._serve, args=(accepted, self.connections), daemon=True)
                serving.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            self._answer_all(connection, number)
        finally:
            self.ended(number)

    def _answer_all(self, connection: socket.socket, number: int) -> None:
        counts: dict[int, int] = {}
        unanswered: list[int] = []
        v5 = False
        with contextlib.suppress(OSError, EOFError), connection, connection.makefile("rb") as stream:
            while True:
                first, body = _read_packet(stream)
                kind = first >> 4
                counts[kind] = counts.get(kind, 0) + 1
                packet = Packet(kind, counts[kind], number, v5, size_bytes=len(body) + 2)
                packet = _parsed(packet, first, body)
                v5 = packet.v5
                self.packets.append(packet)
                answer = self.rule(packet)
                if answer is None:
                    answer = _usual(packet)
                self._note(packet, answer)
                if kind == PUBLISH and self.answer_after_s and packet.qos and not answer.close:
                    unanswered.append(packet.packet_id)
                    self.most_unanswered = max(self.most_unanswered, len(unanswered))
                    later = (connection, answer.data, unanswered)
                    threading.Timer(self.answer_after_s, _answer_later, later).start()
                elif answer.data:
                    connection.sendall(answer.data)
                if answer.close or kind == DISCONNECT:
                    return

    def _note(self, packet: Packet, answer: Answer) -> None:
        if packet.kind == PUBLISH and answer.data[:1] == b"\x40" and not answer.close:
            code = answer.data[4] if packet.v5 else 0
            if code < 0x80:
                self.events += packet.events


def _answer_later(connection: socket.socket, data: bytes, unanswered: list[int]) -> None:
    unanswered.pop()
    with contextlib.suppress(OSError):
        connection.sendall(data)


def wait_for_events(broker: StubBroker, count: int, patience_s: float = 30.0) -> None:
    """Until so many different events have been taken."""
    deadline_s = time.monotonic() + patience_s
    while len({e.event_id for e in list(broker.events)}) < count:
        assert time.monotonic() < deadline_s, f"{len(broker.events)} of {count} events came"
        time.sleep(0.02)


def _usual(packet: Packet) -> Answer:
    if packet.kind == CONNECT:
        return connack(packet)
    if packet.kind == PUBLISH:
        return puback(packet) if packet.qos else SILENCE
    if packet.kind == SUBSCRIBE:
        return suback(packet, *[1] * len(packet.filters))
    if packet.kind == UNSUBSCRIBE:
        body = struct.pack("!H", packet.packet_id) + (b"\x00\x00" if packet.v5 else b"")
        return Answer(bytes([UNSUBACK << 4, len(body)]) + body)
    return Answer(b"\xd0\x00") if packet.kind == PINGREQ else SILENCE


def _read_packet(stream: Any) -> tuple[int, bytes]:
    first = stream.read(1)
    if not first:
        raise EOFError
    size = shift = 0
    while True:
        digit = _exactly(stream, 1)[0]
        size |= (digit & 127) << shift
        shift += 7
        if not digit & 128:
            return first[0], _exactly(stream, size)


def _exactly(stream: Any, size: int) -> bytes:
    data: bytes = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _parsed(packet: Packet, first: int, body: bytes) -> Packet:
    if packet.kind == CONNECT:
        return _connect(packet, _Fields(body))
    if packet.kind == PUBLISH:
        return _publish(packet, first, _Fields(body))
    if packet.kind in (SUBSCRIBE, UNSUBSCRIBE):
        return _subscribe(packet, _Fields(body))
    if packet.kind in (PUBREC, PUBCOMP):
        return packet._replace(packet_id=int.from_bytes(body[:2], "big"))
    return packet


class _Fields:
    """Reads the fields of a packet one after the other."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0
        self.correlation = b""
        self.topic_alias = 0

    def number(self, size: int) -> int:
        self._at += size
        return int.from_bytes(self._body[self._at - size : self._at], "big")

    def data(self) -> bytes:
        size = self.number(2)
        self._at += size
        return self._body[self._at - size : self._at]

    def text(self) -> str:
        return self.data().decode()

    def varint(self) -> int:
        value = shift = 0
        while True:
            digit = self.number(1)
            value |= (digit & 127) << shift
            shift += 7
            if not digit & 128:
                return value

    def properties(self) -> tuple[tuple[str, str], ...]:
        """Skips the properties; returns the user properties."""
        end = self.varint() + self._at
        found = []
        while self._at < end:
            name = self.number(1)
            if name == 0x26:  # user property
                found.append((self.text(), self.text()))
            elif name in (0x11, 0x27, 0x02, 0x18):
                self.number(4)
            elif name == 0x23:
                self.topic_alias = self.number(2)
            elif name in (0x21, 0x22):
                self.number(2)
            elif name == 0x09:
                self.correlation = self.data()
            elif name in (0x03, 0x08, 0x12, 0x15, 0x16):
                self.data()
            elif name == 0x0B:
                self.varint()
            else:
                self.number(1)
        return tuple(found)

    @property
    def rest(self) -> bytes:
        return self._body[self._at :]


def _connect(packet: Packet, fields: _Fields) -> Packet:
    fields.text()
    v5 = fields.number(1) == 5
    flags = fields.number(1)
    fields.number(2)
    if v5:
        fields.properties()
    packet = packet._replace(v5=v5, client_id=fields.text())
    if flags & 0x04:
        if v5:
            fields.properties()
        packet = packet._replace(will_topic=fields.text(), will_retain=bool(flags & 0x20))
        fields.data()
    if flags & 0x80:
        packet = packet._replace(username=fields.text())
    return packet._replace(password=fields.text()) if flags & 0x40 else packet


def _publish(packet: Packet, first: int, fields: _Fields) -> Packet:
    qos = (first >> 1) & 3
    topic = fields.text()
    packet_id = fields.number(2) if qos else 0
    user = fields.properties() if packet.v5 else ()
    return packet._replace(
        correlation=fields.correlation,
        topic_alias=fields.topic_alias,
        topic=topic,
        packet_id=packet_id,
        qos=qos,
        retain=bool(first & 1),
        user_properties=user,
        payload=fields.rest,
    )


def _subscribe(packet: Packet, fields: _Fields) -> Packet:
    packet_id = fields.number(2)
    if packet.v5:
        fields.properties()
    filters = []
    while fields.rest:
        filters.append(fields.text())
        if packet.kind == SUBSCRIBE:
            fields.number(1)
    return packet._replace(packet_id=packet_id, filters=tuple(filters))
