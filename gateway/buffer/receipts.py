"""Which QoS 1 messages are committed but perhaps not yet acknowledged, across a crash.

A broker redelivers what it has no PUBACK for, marked DUP, under the same packet id. A DUP whose packet id
and content match a receipt was committed before the crash: it is acknowledged and not stored again.

Invariants:
- A receipt is committed in the transaction of its message.
- A receipt is void once its packet id comes back without DUP (the id was reused), or when the broker says
  that there is no session (all ids start anew).
- Only the newest KEPT receipts count. Brokers hand out packet ids in turn, so an id cannot come round
  again within them; and no in-flight window is that large.
"""

from __future__ import annotations

from array import array
from zlib import crc32

KEPT = 32_768  # half of the packet id space

_HASH_BITS = 48
_HASH_MASK = (1 << _HASH_BITS) - 1


def fingerprint(topic: str, payload: bytes) -> int:
    """48 bits that tell apart the messages which one packet id may carry within KEPT messages."""
    return crc32(payload, crc32(topic.encode())) << 16 | len(payload) & 0xFFFF


class Receipts:
    """The receipts in memory. `take_group` gives what the current transaction must store."""

    def __init__(self) -> None:
        self._by_packet_id: dict[int, tuple[int, int]] = {}  # mark, and which receipt it was
        self._group: list[int] = []
        self._noted = 0

    def seen(self, packet_id: int, dup: bool, topic: str, payload: bytes) -> bool:
        """Whether this message was committed before; otherwise note its receipt."""
        mark = fingerprint(topic, payload)
        if dup and self._is_known(packet_id, mark):
            return True
        self._note(packet_id, mark)
        self._group.append(packet_id << _HASH_BITS | mark)
        return False

    def _is_known(self, packet_id: int, mark: int) -> bool:
        known, number = self._by_packet_id.get(packet_id, (None, 0))
        return known == mark and self._noted - number < KEPT

    def _note(self, packet_id: int, mark: int) -> None:
        self._noted += 1
        self._by_packet_id[packet_id] = (mark, self._noted)

    def take_group(self) -> tuple[int, bytes] | None:
        """(count, entries) of the receipts since the last call, for a row of the table; None if none."""
        if not self._group:
            return None
        entries = array("Q", self._group)
        self._group = []
        return len(entries), entries.tobytes()

    def load(self, groups: list[bytes]) -> None:
        """Replace all receipts by those of the stored groups, oldest first."""
        self.clear()
        for entries in groups:
            for entry in array("Q", entries):
                self._note(entry >> _HASH_BITS, entry & _HASH_MASK)

    def clear(self) -> None:
        """Forget all receipts: the broker starts a new session."""
        self._by_packet_id.clear()
        self._group = []
        self._noted = 0
