"""QoS 2 handshakes of one connection, one after the other: PUBREC, PUBREL, PUBCOMP, and then the next PUBREC.

The gateway asks for QoS 1, so only a broker that ignores that delivers QoS 2. Aedes is one, and it confuses
handshakes that overlap: it sends again what was complete, and a receiver cannot tell that from a new message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

PATIENCE_S = 10.0
"""Longest wait for a PUBREL before the next handshake begins."""


class Handshakes:
    """Says which packet id's PUBREC is due. Time comes in as an argument."""

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()
        self._current: int | None = None
        self._began_at_s = 0.0
        self._released: set[int] = set()  # PUBREL came, PUBCOMP was not sent yet

    def add(self, packet_ids: Iterable[int]) -> None:
        """Their messages are on disk."""
        self._waiting.extend(packet_ids)

    def due(self, now_s: float) -> int | None:
        """Begin the next handshake, if it may: return the packet id to send a PUBREC for."""
        if not self._waiting or (self._current is not None and now_s - self._began_at_s < PATIENCE_S):
            return None
        self._current, self._began_at_s = self._waiting.popleft(), now_s
        return self._current

    def released(self, packet_id: int) -> None:
        """The broker sent a PUBREL."""
        self._released.add(packet_id)

    def is_repeated(self, packet_id: int) -> bool:
        """Return True for a message that can only be one again: its packet id is not free before PUBCOMP."""
        return packet_id in self._released

    def completed(self, packet_id: int) -> None:
        """Its PUBCOMP was sent."""
        self._released.discard(packet_id)
        if packet_id == self._current:
            self._current = None
