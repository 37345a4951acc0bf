"""Finds keys that have been silent for longer than a time to live, without looking at those that have not."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from gateway.windows.plugin_runner import Key
from gateway.windows.watermark import NEVER, silent_since_ms

K = TypeVar("K", bound=Key)


class Expiry(Generic[K]):
    """Each key has one entry; how long it has really been silent is looked up when the entry comes due."""

    def __init__(self, ttl_ms: int) -> None:
        self._ttl_ms = ttl_ms
        self._due: list[tuple[int, str]] = []
        self._watched: set[str] = set()
        self._awake_ms = NEVER

    def watch(self, key: str, from_ms: int) -> None:
        """Look at the key again when it could have been silent for long enough since `from_ms`."""
        if key not in self._watched:
            self._watched.add(key)
            heappush(self._due, (from_ms + self._ttl_ms, key))

    def resume(self, now_ms: int) -> None:
        """The silence until now was not the keys' own: count from now."""
        self._awake_ms = now_ms
        latest_ms = now_ms + self._ttl_ms  # later, if processing time was set back
        self._due = [(min(due_ms, latest_ms), name) for due_ms, name in self._due]
        heapify(self._due)

    def tick(self, now_ms: int, find: Callable[[str], K | None]) -> list[K]:
        """The keys that have outlived their time, by name. They are no longer watched."""
        expired = {}
        while self._due and self._due[0][0] <= now_ms:
            name = heappop(self._due)[1]
            self._watched.remove(name)
            key = find(name)
            if key is None:
                continue
            heard_ms = silent_since_ms(key.heard_ms, self._awake_ms, now_ms)
            if heard_ms + self._ttl_ms > now_ms:
                self.watch(key.name, heard_ms)
            else:
                expired[key.name] = key
        return [expired[name] for name in sorted(expired)]
