"""Finds keys that have been silent for longer than a time to live, without looking at those that have not."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Generic, TypeVar

from gateway.windows.border import Key
from gateway.windows.watermark import NEVER

K = TypeVar("K", bound=Key)


class Expiry(Generic[K]):
    """Each key has one entry; how long it has really been silent is looked up when the entry comes due."""

    def __init__(self, ttl_ms: int) -> None:
        self._ttl_ms = ttl_ms
        self._due: list[tuple[int, int, K]] = []
        self._awake_ms = NEVER
        self._serial = 0

    def watch(self, key: K, from_ms: int) -> None:
        """Look at the key again when it could have been silent for long enough since `from_ms`."""
        self._serial += 1
        heappush(self._due, (from_ms + self._ttl_ms, self._serial, key))

    def resume(self, now_ms: int) -> None:
        """The silence until now was not the keys' own: count from now."""
        self._awake_ms = now_ms

    def tick(self, now_ms: int) -> list[K]:
        """The keys that have outlived their time, by name. They are no longer watched."""
        expired = []
        while self._due and self._due[0][0] <= now_ms:
            key = heappop(self._due)[2]
            heard_ms = max(key.heard_ms, self._awake_ms)
            if key.gone:
                continue
            if heard_ms + self._ttl_ms > now_ms:
                self.watch(key, heard_ms)
            else:
                expired.append(key)
        return sorted(expired, key=lambda key: key.name)
