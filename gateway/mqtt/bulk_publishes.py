"""PUBLISH packets of QoS 1 as bytes, many at a time, and the answers to them, many at a time.

Invariants:
- Packet ids from FIRST_ID on belong to these messages, those below to paho's. None is given to a message
  while another of that id has no answer.
- A topic alias means the same topic as long as the connection lasts. After a refusal every alias is
  introduced again with its topic, since the broker may not have taken note of it.
- What cannot be sent as it is (too large a packet, a topic that is none) is left to the caller, and nothing
  behind it is sent.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from gateway.core.errors import TopicError
from gateway.core.topics import check_topic
from gateway.mqtt import variable_integers

FIRST_ID = 32_768  # the ids below are paho's
_LAST_ID = 65_535
_LEAST_RECEIVE_MAXIMUM = 10
_MOST = 16_384  # half of these ids, so that a free one is found at once
_KNOWN_TOPICS = 65_536
_REFUSED = 0x80
_PUBACK = 0x40
_USER_PROPERTY, _CORRELATION_DATA, _TOPIC_ALIAS = b"\x26", b"\x09", b"\x23"  # MQTT 5, 2.2.2.2
_NO_TOPIC = b"\x00\x00"


def user_property(name: str, value: str) -> bytes:
    return _USER_PROPERTY + _text(name.encode()) + _text(value.encode())


def correlation_data(data: bytes) -> bytes:
    return _CORRELATION_DATA + _text(data)


class BulkPublishes:
    """The messages that one connection sends in bulk. `send` takes whole packets."""

    def __init__(self, send: Callable[[bytes], object], *, v5: bool) -> None:
        self._send = send
        self._v5 = v5
        self._most = 0
        self._most_aliases = 0
        self._aliases: dict[str, int] = {}
        self._known: dict[str, tuple[bytes, bytes]] = {}  # topic and alias as they go into a packet
        self._unanswered: set[int] = set()
        self._next_id = FIRST_ID

    def accepted(self, receive_maximum: int, topic_alias_maximum: int) -> None:
        """The broker took the connection. One place under its Receive Maximum stays free for paho; where it
        is small, it is left to paho as a whole."""
        self._most = min(receive_maximum - 1, _MOST) if receive_maximum >= _LEAST_RECEIVE_MAXIMUM else 0
        self._most_aliases = topic_alias_maximum

    @property
    def most(self) -> int:
        """Number of messages that may be unanswered at a time."""
        return self._most

    @property
    def unanswered(self) -> int:
        """Number of messages without an answer."""
        return len(self._unanswered)

    @property
    def uses_aliases(self) -> bool:
        return bool(self._aliases)

    def publish(
        self,
        topics: Sequence[str],
        payloads: Sequence[bytes],
        properties: Sequence[bytes],
        limit_bytes: int | None = None,
    ) -> tuple[list[int], int]:
        """Send messages up to the first that cannot go as it is. Returns the packet ids of those sent, and
        the size of all packets. `properties` are as they stand in a packet, without their length; MQTT 3.1.1
        has none."""
        ids = self._ids(len(topics))
        packets: list[bytes] = []
        known, v5 = self._known, self._v5
        for topic, payload, own, packet_id in zip(topics, payloads, properties, ids, strict=True):
            head = known.get(topic)
            later = None
            if head is None:
                met = self._meet(topic)
                if met is None:
                    break
                head, later = met
            (name, alias), block = head, b""
            if v5:
                size = len(alias) + len(own)
                block = b"%s%s%s" % (
                    bytes((size,)) if size < 128 else variable_integers.encode(size),
                    alias,
                    own,
                )
            size = len(name) + 2 + len(block) + len(payload)
            if size < 128:
                length = bytes((size,))
            elif size < 16_384:
                length = bytes((size & 127 | 128, size >> 7))
            else:
                length = variable_integers.encode(size)
            if limit_bytes is not None and 1 + len(length) + size > limit_bytes:
                break
            if later is not None:
                known[topic] = later
            packets.append(b"\x32%s%s%s%s%s" % (length, name, packet_id.to_bytes(2, "big"), block, payload))
        del ids[len(packets) :]
        self._unanswered.update(ids)
        data = b"".join(packets)
        self._send(data)
        return ids, len(data)

    def _ids(self, count: int) -> list[int]:
        """The next free packet ids."""
        ids = [*range(self._next_id, min(self._next_id + count, _LAST_ID + 1))]
        ids += range(FIRST_ID, FIRST_ID + count - len(ids))
        while not self._unanswered.isdisjoint(ids):
            ids = [each for each in ids if each not in self._unanswered]
            following = ids[-1] if ids else self._next_id
            while len(ids) < count:
                following = following + 1 if following < _LAST_ID else FIRST_ID
                ids.append(following)
        self._next_id = ids[-1] + 1 if ids and ids[-1] < _LAST_ID else FIRST_ID
        return ids

    def _meet(self, topic: str) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]] | None:
        """Return how to send `topic` the first time and from then on; None where it is no topic."""
        try:
            check_topic(topic)
            name = topic.encode()
        except (TopicError, UnicodeEncodeError):
            return None
        if len(self._known) >= _KNOWN_TOPICS:
            self._known.clear()
        number = self._aliases.get(topic)
        if number is None and len(self._aliases) < self._most_aliases:
            number = self._aliases[topic] = len(self._aliases) + 1
        if number is None:
            return (_text(name), b""), (_text(name), b"")
        alias = _TOPIC_ALIAS + number.to_bytes(2, "big")
        return (_text(name), alias), (_NO_TOPIC, alias)

    def answered(self, ids: Sequence[int], reason_code: int) -> Sequence[int]:
        """Take note of answers; return the ids among them that waited for one, each once."""
        if reason_code >= _REFUSED and self._aliases:
            self._known.clear()
        unanswered, before = self._unanswered, len(self._unanswered)
        if not unanswered.issuperset(ids):
            ids = [each for each in dict.fromkeys(ids) if each in unanswered]
        unanswered.difference_update(ids)
        return ids if before - len(unanswered) == len(ids) else [*dict.fromkeys(ids)]


def split_answers(data: bytes, at: int) -> tuple[list[tuple[list[int], int]], int]:
    """The whole PUBACKs that stand at `at` and are answers to messages sent in bulk: packet ids, grouped by
    reason code, in order; and where the first other thing begins."""
    groups: list[tuple[list[int], int]] = []
    end = len(data)
    while at + 4 <= end and data[at] == _PUBACK:
        size = data[at + 1]
        width = size + 2
        count = (end - at) // width
        if size < 2 or size > 127 or not count:
            break  # malformed, or long, or not whole: paho reads it
        count = _alike(data, at, width, count)
        ids = [each for (each,) in struct.iter_unpack(f">2xH{size - 2}x", data[at : at + count * width])]
        if min(ids) < FIRST_ID:
            del ids[next(place for place, each in enumerate(ids) if each < FIRST_ID) :]
            if ids:
                groups.append((ids, data[at + 4] if size > 2 else 0))
            return groups, at + len(ids) * width
        groups.append((ids, data[at + 4] if size > 2 else 0))
        at += count * width
    return groups, at


def _alike(data: bytes, at: int, width: int, count: int) -> int:
    """Return how many packets in a row differ in nothing but their packet id, of `count` at most."""
    first = data[at : at + width]
    fixed = [place for place in range(width) if place not in (2, 3)]
    end = at + count * width
    if all(data[at + place : end : width].count(first[place]) == count for place in fixed):
        return count
    alike = 1
    while alike < count:
        there = data[at + alike * width : at + (alike + 1) * width]
        if there[:2] != first[:2] or there[4:] != first[4:]:
            break
        alike += 1
    return alike


def _text(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
