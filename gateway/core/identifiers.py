"""Event ids: UUID version 7 for raw events, version 5 for what can be computed again (RFC 9562)."""

from __future__ import annotations

import os
import uuid
from array import array
from collections.abc import Sequence
from hashlib import sha1
from struct import Struct

AGGREGATE_NAMESPACE = uuid.UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")  # RFC 9562's OID namespace
_NAMESPACE = AGGREGATE_NAMESPACE.bytes

_TAIL_BITS, _VARIANT = 0x3FFF_FFFF_FFFF_FFFF, 0x8000_0000_0000_0000
_VERSION_7, _VERSION_5 = 0x7000, 0x5000
_BELOW_VERSION = 0xFFFF_FFFF_FFFF_0FFF
_HALVES = Struct(">QQ")
_FIRST_HALVES = Struct(">QQ4x").unpack  # of a digest of 20 bytes


class EventIds:
    """Makes UUIDv7 values that never go back, even when the clock does. For one thread.

    The 12 bits behind the milliseconds count up within one millisecond; when they overflow, the
    timestamp runs ahead of the clock (RFC 9562, section 6.2, method 1).
    """

    def __init__(self) -> None:
        self._ticks = 0  # milliseconds * 4096 + counter

    def next(self, now_ms: int) -> bytes:
        """A new id of 16 bytes for an event that arrived at `now_ms`."""
        return self.many([now_ms])[0]

    def many(self, times_ms: Sequence[int]) -> list[bytes]:
        """Return a new id of 16 bytes for each time of arrival; one system call for all of them."""
        ids, ticks, pack = [], self._ticks, _HALVES.pack
        for now_ms, tail in zip(times_ms, array("Q", os.urandom(8 * len(times_ms))), strict=True):
            now = now_ms << 12
            ticks = now if now > ticks else ticks + 1
            head = (ticks >> 12) << 16 | _VERSION_7 | ticks & 0xFFF
            ids.append(pack(head, tail & _TAIL_BITS | _VARIANT))
        self._ticks = ticks
        return ids


def split_ids(packed: bytes) -> list[bytes]:
    """The ids of 16 bytes that stand in `packed` one behind the other."""
    return [packed[at : at + 16] for at in range(0, len(packed), 16)]


class AggregateIds:
    """Makes the ids of a gateway's aggregates: equal whenever gateway, window, key, bounds and revision are
    equal."""

    def __init__(self, gateway_id: str) -> None:
        self._begun = sha1(_NAMESPACE + f"{gateway_id}/".encode(), usedforsecurity=False)

    def of(self, identity: str) -> bytes:
        """The UUID of version 5 of an aggregate, 16 bytes."""
        digest = self._begun.copy()
        digest.update(identity.encode())
        head, tail = _FIRST_HALVES(digest.digest())
        return _HALVES.pack(head & _BELOW_VERSION | _VERSION_5, tail & _TAIL_BITS | _VARIANT)
