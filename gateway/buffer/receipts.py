"""Receipts of committed messages whose acknowledgement may be lost in a crash.

A broker redelivers what it has no PUBACK for, marked DUP, under the same packet id. A DUP whose packet id
and content match a receipt was committed before the crash: it is acknowledged and not stored again.

With QoS 2 the mark is not needed: until its PUBREL a packet id belongs to one message. Aedes sets none.

Invariants:
- A receipt is committed in the transaction of its message.
- A receipt is void once its packet id comes back without DUP (the id was reused), or when the broker says
  that there is no session (all ids start anew).
- A message of QoS 2 is open from its commit until that of its PUBREL. PUBCOMP, after which the broker may
  give the packet id to another message, comes behind both.
- Only the newest KEPT receipts count. Brokers hand out packet ids in turn, so an id cannot come round
  again within them; and no in-flight window is that large.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from zlib import crc32

import apsw

from gateway.core.events import Message

KEPT = 32_768  # half of the packet id space

_HASH_BITS = 48
_HASH_MASK = (1 << _HASH_BITS) - 1
# Entries of packet id 0, which no message has: the packet id in the low bits was opened, or released.
_OPENED, _RELEASED = 1 << 16, 2 << 16
_ID_MASK = 0xFFFF
_EXACTLY_ONCE = 2


def fingerprint(topic: str, payload: bytes) -> int:
    """48 bits that tell apart the messages which one packet id may carry within KEPT messages."""
    return crc32(payload, crc32(topic.encode())) << 16 | len(payload) & 0xFFFF


class Receipts:
    """The receipts in memory. `take_group` gives what the current transaction must store."""

    def __init__(self) -> None:
        self._by_packet_id: dict[int, tuple[int, int]] = {}  # mark, and which receipt it was
        # Of QoS 2: marks by packet id, the oldest first. Only Aedes has more than one message of the same id.
        self._open: dict[int, list[int]] = {}
        self._group: list[int] = []
        self._noted = 0

    def seen(self, packet_id: int, dup: bool, topic: str, payload: bytes, qos: int = 1) -> bool:
        """Return True if this message was committed before; otherwise store its receipt."""
        mark = fingerprint(topic, payload)
        if dup and self._is_known(packet_id, mark):
            return True
        if qos == _EXACTLY_ONCE and mark in self._open.get(packet_id, ()):
            return True
        self._note(packet_id, mark)
        self._group.append(packet_id << _HASH_BITS | mark)
        if qos == _EXACTLY_ONCE:
            self._open.setdefault(packet_id, []).append(mark)
            self._group.append(_OPENED | packet_id)
        return False

    def unseen(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages that were not committed before, and store their receipts; `seen` for many."""
        fresh, by_packet_id, group = [], self._by_packet_id, self._group
        for message in messages:
            topic, payload, qos, _, dup, packet_id, *_ = message
            if dup or qos != 1:
                if not qos or not self.seen(packet_id, dup, topic, payload, qos):
                    fresh.append(message)
                continue
            mark = crc32(payload, crc32(topic.encode())) << 16 | len(payload) & 0xFFFF  # `fingerprint`
            self._noted = number = self._noted + 1
            by_packet_id[packet_id] = (mark, number)
            group.append(packet_id << _HASH_BITS | mark)
            fresh.append(message)
        return fresh

    def release(self, packet_id: int) -> None:
        """The broker has sent the PUBREL of this packet id: what comes under it next is another message."""
        if packet_id in self._open:
            self._close(packet_id)
            self._group.append(_RELEASED | packet_id)

    def _is_known(self, packet_id: int, mark: int) -> bool:
        known, number = self._by_packet_id.get(packet_id, (None, 0))
        return known == mark and self._noted - number < KEPT

    def _close(self, packet_id: int) -> None:
        marks = self._open[packet_id]
        marks.pop(0)
        if not marks:
            del self._open[packet_id]

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
                packet_id = entry >> _HASH_BITS
                if packet_id:
                    self._note(packet_id, entry & _HASH_MASK)
                elif entry & _OPENED:
                    mark, _ = self._by_packet_id.get(entry & _ID_MASK, (0, 0))
                    self._open.setdefault(entry & _ID_MASK, []).append(mark)
                elif entry & _ID_MASK in self._open:
                    self._close(entry & _ID_MASK)

    def clear(self) -> None:
        """Forget all receipts: the broker starts a new session."""
        self._by_packet_id.clear()
        self._open.clear()
        self._group = []
        self._noted = 0


class ReceiptTable:
    """The receipts of one buffer on disk: a row for each commit. For the writer's thread."""

    def __init__(self, connection: apsw.Connection, receipts: Receipts) -> None:
        self._connection = connection
        self._receipts = receipts
        self._stored = 0

    def load(self) -> None:
        """Know the committed receipts and no others."""
        groups: list[tuple[bytes, int]] = self._connection.execute(
            "SELECT entries, count FROM receipts ORDER BY id"
        ).fetchall()  # type: ignore[assignment]
        self._receipts.load([entries for entries, _ in groups])
        self._stored = sum(count for _, count in groups)

    def save(self) -> None:
        """Store the receipts of this transaction, at its end."""
        group = self._receipts.take_group()
        if group is not None:
            self._connection.execute("INSERT INTO receipts (count, entries) VALUES (?, ?)", group)
            self._stored += group[0]
        if self._stored >= 2 * KEPT:  # seldom: it looks at each group
            self._prune()

    def forget(self) -> None:
        """Forget them all: the broker started a new session, in which its packet ids mean nothing."""
        self._receipts.clear()
        self._connection.execute("DELETE FROM receipts")
        self._stored = 0

    def _prune(self) -> None:
        """Delete the groups of which no receipt is among the newest KEPT."""
        self._connection.execute(
            "DELETE FROM receipts WHERE id IN (SELECT id FROM"
            " (SELECT id, sum(count) OVER (ORDER BY id DESC) - count AS newer FROM receipts)"
            " WHERE newer >= ?)",
            (KEPT,),
        )
        ((self._stored,),) = self._connection.execute("SELECT coalesce(sum(count), 0) FROM receipts")
