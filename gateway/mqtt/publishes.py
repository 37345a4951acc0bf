"""PUBLISH packets of QoS 0 and 1, split straight out of the receive buffer, and their acknowledgements.

Nearly everything that a gateway reads is such a packet, and paho spends more time on one than all the rest of
the gateway. paho goes on reading everything else.

Invariants:
- A packet is taken only if it is whole and paho would make the same message of it. In any doubt it stays in
  the buffer with all that follows, for paho to read: what is malformed, and what comes of it, paho decides.
- No byte behind a packet's own end is ever looked at for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

from paho.mqtt import MQTTException
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gateway.core.events import Message
from gateway.mqtt import variable_integers

_KNOWN_BLOCKS = 1024
_PUBACK = b"\x40\x02"  # the packet id follows


class Kept(NamedTuple):
    """The MQTT 5 properties that a message keeps."""

    user: tuple[tuple[str, str], ...] = ()
    subscriptions: tuple[int, ...] = ()
    correlation: bytes = b""

    @classmethod
    def of(cls, properties: Properties | None) -> Kept:
        if properties is None:
            return _NOTHING
        found: Any = properties
        return cls(
            tuple(getattr(found, "UserProperty", ())),
            tuple(getattr(found, "SubscriptionIdentifier", ())),
            bytes(getattr(found, "CorrelationData", b"")),
        )


_NOTHING = Kept()


class Splitter:
    """Takes what it can from the receive buffer of one connection."""

    def __init__(self, *, v5: bool, epoch: int) -> None:
        self._v5 = v5
        self._epoch = epoch
        self._known: dict[bytes, Kept | None] = {}  # by block of properties: most messages have the same

    def split(self, data: bytes, at: int, most: int, now_ms: int) -> tuple[list[Message], int]:
        """The messages of the packets that stand at `at`, at most `most`, and where the first other thing
        begins."""
        messages: list[Message] = []
        end, v5, epoch = len(data), self._v5, self._epoch
        while at + 1 < end and len(messages) < most:
            head = data[at]
            if head & 0xF4 != 0x30:
                break  # no PUBLISH, or one of QoS 2 or 3
            size, start = data[at + 1], at + 2
            if size > 127:
                length = variable_integers.read(data, at + 1)
                if length is None:
                    break  # it is cut, or malformed
                size, start = length
            stop = start + size
            if stop > end or size < 2:
                break
            body = start + 2 + (data[start] << 8 | data[start + 1])
            qos = head >> 1 & 1
            payload_at = body + 2 * qos
            if payload_at + v5 > stop:
                break
            packet_id = data[body] << 8 | data[body + 1] if qos else 0
            kept = _NOTHING
            if v5:
                block_at, payload_at = payload_at, payload_at + 1 + data[payload_at]
                if payload_at > block_at + 1:
                    found = self._kept(data[block_at:payload_at]) if payload_at <= stop else None
                    if found is None:
                        break
                    kept = found
            try:
                topic = data[start + 2 : body].decode()
            except UnicodeDecodeError:
                break
            if not topic:
                break
            messages.append(
                Message(
                    topic,
                    data[payload_at:stop],
                    qos,
                    head & 1 == 1,
                    head & 8 == 8,
                    packet_id,
                    epoch,
                    now_ms,
                    *kept,
                )
            )
            at = stop
        return messages, at

    def _kept(self, block: bytes) -> Kept | None:
        """Parse a block of properties, its length included; None where paho should see it."""
        if block not in self._known:
            if len(self._known) >= _KNOWN_BLOCKS:
                self._known.clear()
            self._known[block] = _read(block)
        return self._known[block]


def acknowledgements(messages: Iterable[Message], epoch: int) -> bytes:
    """The packets that acknowledge `messages` of QoS 1, in order. Not those that came on another connection:
    their packet ids may be other messages' now."""
    return b"".join(
        [
            _PUBACK + message.packet_id.to_bytes(2, "big")
            for message in messages
            if message.qos == 1 and message.epoch == epoch
        ]
    )


def _read(block: bytes) -> Kept | None:
    if block[0] > 127:
        return None  # its length takes several bytes
    properties = Properties(PacketTypes.PUBLISH)
    try:
        properties.unpack(block)
    except (MQTTException, ValueError, LookupError, struct.error):
        return None
    return Kept.of(properties)
