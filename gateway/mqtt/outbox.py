"""Messages of the embedded broker for one session: in flight, or waiting for room or for the client.

Invariants:
- Messages go out in the order in which they came; after a reconnect first those that were in flight, with
  DUP and the same packet id.
- A message of QoS 1 or 2 leaves only when the client has acknowledged it, or was never taken in.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import NamedTuple, Protocol

from gateway.mqtt import packets

log = logging.getLogger(__name__)

# As `max_inflight_messages` in mosquitto/local.conf; the queue is shorter, because it is in this process.
_MOST_IN_FLIGHT = 4000
_MOST_WAITING = 100_000
_MOST_WAITING_BYTES = 64 * 1024 * 1024

_DUP = 8


class ClientLine(Protocol):
    """The connection of the session's client."""

    def write(self, data: bytes) -> None:
        """Send `data`, now or soon."""

    def has_room(self) -> bool:
        """Return False while the client does not read; the line then calls `send_waiting` later."""


class _Message(NamedTuple):
    topic: bytes
    payload: bytes
    flags: int  # QoS and RETAIN, as in the packet

    def packet(self, packet_id: int, *, again: bool = False) -> bytes:
        flags = self.flags | _DUP if again else self.flags
        return packets.publish(self.topic, self.payload, flags, packet_id.to_bytes(2, "big"))


class Outbox:
    """The messages for the session of `client_id`, which outlive its connections."""

    def __init__(self, client_id: str) -> None:
        self._client_id = client_id
        self._line: ClientLine | None = None
        self._waiting = deque[_Message]()
        self._waiting_bytes = 0
        self._dropped = 0  # since the queue was last empty
        self._in_flight: dict[int, _Message] = {}
        self._released: dict[int, None] = {}  # QoS 2, between PUBREC and PUBCOMP, in order
        self._packet_id = 0

    def connect(self, line: ClientLine) -> None:
        """Send on `line`, beginning with what the client has not acknowledged."""
        self._line = line
        for packet_id in self._released:
            line.write(_pubrel(packet_id))
        for packet_id, message in self._in_flight.items():
            line.write(message.packet(packet_id, again=True))
        self.send_waiting()

    def disconnect(self) -> None:
        """Keep what comes from now on, except QoS 0."""
        self._line = None

    def put(self, topic: bytes, payload: bytes, qos: int, *, retain: bool = False) -> None:
        """Send a message as soon as there is room. QoS 0 is for a client that is there."""
        if self._line is None and not qos:
            return
        message = _Message(topic, payload, qos << 1 | retain)
        if not self._waiting and self._may_send(message):
            self._send(message)
        else:
            self._wait(message)

    def acknowledged(self, packet_id: int) -> None:
        """PUBACK or PUBCOMP."""
        if self._in_flight.pop(packet_id, None) is None:
            self._released.pop(packet_id, None)
        if self._waiting:
            self.send_waiting()

    def received(self, packet_id: int) -> None:
        """PUBREC: release it, also when it is not known (any more)."""
        if self._in_flight.pop(packet_id, None) is not None:
            self._released[packet_id] = None
        if self._line is not None:
            self._line.write(_pubrel(packet_id))

    def send_waiting(self) -> None:
        """Send what waits, as far as there is room."""
        waiting = self._waiting
        while waiting and self._may_send(waiting[0]):
            message = waiting.popleft()
            self._waiting_bytes -= len(message.payload)
            self._send(message)
        if self._dropped and not waiting:
            log.warning("the embedded broker dropped %d messages for %r", self._dropped, self._client_id)
            self._dropped = 0

    def _may_send(self, message: _Message) -> bool:
        line = self._line
        if line is None or not line.has_room():
            return False
        return message.flags < 2 or len(self._in_flight) + len(self._released) < _MOST_IN_FLIGHT

    def _send(self, message: _Message) -> None:
        line = self._line
        if line is None:
            return
        if message.flags < 2:
            line.write(packets.publish(message.topic, message.payload, message.flags))
            return
        packet_id = self._free_packet_id()
        self._in_flight[packet_id] = message
        line.write(message.packet(packet_id))

    def _wait(self, message: _Message) -> None:
        if len(self._waiting) >= _MOST_WAITING or self._waiting_bytes >= _MOST_WAITING_BYTES:
            if not self._dropped:
                log.warning("the embedded broker drops messages for %r: too many wait", self._client_id)
            self._dropped += 1
            return
        self._waiting.append(message)
        self._waiting_bytes += len(message.payload)

    def _free_packet_id(self) -> int:
        while True:
            self._packet_id = self._packet_id % 65535 + 1
            if self._packet_id not in self._in_flight and self._packet_id not in self._released:
                return self._packet_id


def _pubrel(packet_id: int) -> bytes:
    return b"\x62\x02" + packet_id.to_bytes(2, "big")
