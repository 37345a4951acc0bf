"""Packets of MQTT 3.1.1 as the embedded broker reads and writes them: many at once, out of one read.

Everything here raises ValueError for what breaks the protocol; the connection that sent it then ends.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.core.errors import TopicError
from gateway.core.topics import check_topic
from gateway.mqtt import variable_integers

MOST_BYTES = 1179648
"""Longest packet, as `max_packet_size` in mosquitto/local.conf."""

PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 3, 4, 5, 6, 7
SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT = 8, 10, 12, 14
PINGRESP = b"\xd0\x00"


class Published(NamedTuple):
    """A message of a client; `topic` and `payload` as they came."""

    topic: bytes
    payload: bytes
    qos: int
    retain: bool
    packet_id: bytes


def split(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Return the whole packets that `data` begins with, each as its first byte and body, and the rest."""
    packets = []
    at, end = 0, len(data)
    while at + 1 < end:
        size, start = data[at + 1], at + 2
        if size > 127:
            found = variable_integers.read(data, at + 1)
            if found is None:
                if end - at > variable_integers.MOST_BYTES:
                    raise ValueError("the length of a packet has more than four bytes")
                break
            size, start = found
            if size > MOST_BYTES:
                raise ValueError("a packet is too long")
        stop = start + size
        if stop > end:
            break
        packets.append((data[at], data[start:stop]))
        at = stop
    return packets, data[at:]


def read_publish(head: int, body: bytes) -> Published:
    """Return the message of a PUBLISH. Its topic may still be one that nobody may publish on."""
    qos = head >> 1 & 3
    after_topic = 2 + (body[0] << 8 | body[1]) if len(body) > 1 else 2
    start = after_topic + 2 if qos else after_topic
    if qos == 3 or start > len(body) or (head & 8 and not qos):  # DUP is for QoS 1 and 2
        raise ValueError("a malformed PUBLISH")
    packet_id = body[after_topic:start]
    if packet_id == b"\0\0":
        raise ValueError("a PUBLISH with packet id 0")
    return Published(body[2:after_topic], body[start:], qos, bool(head & 1), packet_id)


def read_topic(topic: bytes) -> str:
    """Return a topic that a client may publish on."""
    text = topic.decode()
    try:
        check_topic(text)
    except TopicError as exc:
        raise ValueError(str(exc)) from exc
    return text


def read_subscribe(head: int, body: bytes) -> tuple[bytes, list[tuple[str, int]]]:
    """Return the packet id of a SUBSCRIBE, and its filters with the QoS of each."""
    packet_id, found, at = _after_packet_id(head, body)
    while at < len(body):
        text, at = _read_text(body, at)
        if at >= len(body) or body[at] > 2:
            raise ValueError("a malformed SUBSCRIBE")
        found.append((text, body[at]))
        at += 1
    if not found:
        raise ValueError("a SUBSCRIBE without a filter")
    return packet_id, found


def read_unsubscribe(head: int, body: bytes) -> tuple[bytes, list[str]]:
    """Return the packet id of an UNSUBSCRIBE, and its filters."""
    packet_id, _, at = _after_packet_id(head, body)
    found = []
    while at < len(body):
        text, at = _read_text(body, at)
        found.append(text)
    if not found:
        raise ValueError("an UNSUBSCRIBE without a filter")
    return packet_id, found


def _after_packet_id(head: int, body: bytes) -> tuple[bytes, list[tuple[str, int]], int]:
    if head & 15 != 2 or len(body) < 2 or body[:2] == b"\0\0":
        raise ValueError("a malformed SUBSCRIBE or UNSUBSCRIBE")
    return body[:2], [], 2


def _read_text(body: bytes, at: int) -> tuple[str, int]:
    stop = at + 2 + int.from_bytes(body[at : at + 2], "big")
    if at + 2 >= stop or stop > len(body):
        raise ValueError("a malformed filter")
    return body[at + 2 : stop].decode(), stop


def read_packet_id(body: bytes) -> int:
    """Return the packet id that a PUBACK, PUBREC, PUBREL or PUBCOMP is for."""
    if len(body) != 2:
        raise ValueError("a malformed acknowledgement")
    return body[0] << 8 | body[1]


def publish(topic: bytes, payload: bytes, flags: int, packet_id: bytes = b"") -> bytes:
    """Return a PUBLISH; `flags` has DUP, QoS and RETAIN, and `packet_id` is for QoS 1 and 2."""
    size = 2 + len(topic) + len(packet_id) + len(payload)
    length = bytes((size,)) if size < 128 else variable_integers.encode(size)
    return b"".join(
        (bytes((PUBLISH << 4 | flags,)), length, len(topic).to_bytes(2, "big"), topic, packet_id, payload)
    )
