"""Event ids: UUID version 7 for raw events, version 5 for what can be computed again (RFC 9562)."""

from __future__ import annotations

import os
import uuid
from hashlib import sha1

AGGREGATE_NAMESPACE = uuid.UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")  # RFC 9562's OID namespace
_NAMESPACE = AGGREGATE_NAMESPACE.bytes

_RANDOM_BYTES = 8
_POOL_IDS = 512


class EventIds:
    """Makes UUIDv7 values that never go back, even when the clock does. For one thread.

    The 12 bits behind the milliseconds count up within one millisecond; when they overflow, the
    timestamp runs ahead of the clock (RFC 9562, section 6.2, method 1).
    """

    def __init__(self) -> None:
        self._ticks = 0  # milliseconds * 4096 + counter
        self._pool = b""
        self._used = 0

    def next(self, now_ms: int) -> bytes:
        """A new id of 16 bytes for an event that arrived at `now_ms`."""
        ticks = max(now_ms << 12, self._ticks + 1)
        self._ticks = ticks
        head = (ticks >> 12) << 16 | 0x7000 | (ticks & 0xFFF)
        tail = int.from_bytes(self._random(), "big") & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000
        return (head << 64 | tail).to_bytes(16, "big")

    def _random(self) -> bytes:
        if self._used >= len(self._pool):
            self._pool, self._used = os.urandom(_RANDOM_BYTES * _POOL_IDS), 0  # one system call for many ids
        self._used += _RANDOM_BYTES
        return self._pool[self._used - _RANDOM_BYTES : self._used]


def split_ids(packed: bytes) -> list[bytes]:
    """The ids of 16 bytes that stand in `packed` one behind the other."""
    return [packed[at : at + 16] for at in range(0, len(packed), 16)]


def aggregate_id(gateway_id: str, identity: str) -> bytes:
    """The id of an aggregate: equal whenever gateway, window, key, bounds and revision are equal."""
    digest = bytearray(sha1(_NAMESPACE + f"{gateway_id}/{identity}".encode(), usedforsecurity=False).digest())
    digest[6] = digest[6] & 0x0F | 0x50  # as uuid.uuid5 does, without the object
    digest[8] = digest[8] & 0x3F | 0x80
    return bytes(digest[:16])
