"""The keys of one window: those in memory, and those whose state lies in the checkpoint until it is needed.

A key can leave memory only when the checkpoint has its state as it is. What stays of a cold key is its
name; timers know keys by their names too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Generic, TypeVar

from gateway.windows.counters import Counters
from gateway.windows.plugin_runner import Key
from gateway.windows.spec import WindowSpec

K = TypeVar("K", bound=Key)


class Keyspace(Generic[K]):
    """`dirty` has the keys whose state differs from the checkpoint's, in the order in which they changed."""

    def __init__(self, spec: WindowSpec, counters: Counters) -> None:
        self.hot: dict[str, K] = {}
        self.cold: set[str] = set()
        self.dirty: list[K] = []
        self.removed = 0
        """Number of `dirty` keys to delete; they take memory until the checkpoint knows it."""
        self.load: Callable[[str], K | None] | None = None
        """Reads a cold key from the checkpoint; None when it cannot be read any more."""
        self._most = spec.max_keys
        self._samples = spec.max_keys_policy == "sample"
        self._counters = counters

    def __len__(self) -> int:
        return len(self.hot) + len(self.cold)

    def find(self, name: str) -> K | None:
        """The key of that name, read back if it is cold."""
        key = self.hot.get(name)
        if key is None and name in self.cold and self.load is not None:
            self.cold.remove(name)
            key = self.load(name)
            self._counters.keys, self._counters.cold_keys = len(self), len(self.cold)
        return key

    def each(self) -> Iterator[K]:
        """Yield all keys by name, cold ones read back one by one."""
        for name in sorted([*self.hot, *self.cold]):
            key = self.find(name)
            if key is not None:
                yield key

    def touch(self, key: K) -> None:
        """Note that the key's state differs from the last checkpoint's."""
        if not key.dirty:
            key.dirty = True
            self.dirty.append(key)

    def admits(self, name: str) -> bool:
        """Return True if there is space for a new key; otherwise count its reading as rejected."""
        if self._most is not None and self._samples:
            self._thin(self._most)
        is_full = self._most is not None and len(self) >= self._most
        if is_full or _hash(name) % (1 << self._counters.key_sample_level):
            self._counters.keys_rejected += 1
            return False
        return True

    def _thin(self, most: int) -> None:
        """Keep every second key while full: by hash, so the same ones in whatever order they come."""
        while len(self) >= most:
            self._counters.key_sample_level += 1
            kept = 1 << self._counters.key_sample_level
            for key in [key for key in self.each() if _hash(key.name) % kept]:
                self._counters.keys_forgotten += 1
                self.remove(key)

    def add(self, key: K) -> None:
        """Take in a new key, or one that was read back."""
        self.hot[key.name] = key
        self._counters.keys = len(self)

    def remove(self, key: K) -> None:
        """Forget a key; the next checkpoint deletes its state."""
        self.touch(key)
        key.gone = True
        key.look_again()
        self.removed += 1
        del self.hot[key.name]
        self._counters.keys = len(self)
        self._counters.open_windows -= key.window_count()
        if not len(self):
            self._counters.key_sample_level = 0

    def evict(self, most: int) -> None:
        """Keep at most so many keys in memory; those that were used longest ago go first."""
        idle = (key for key in self.hot.values() if not key.dirty)
        for key in [key for key, _ in zip(idle, range(len(self.hot) - most), strict=False)]:
            key.gone = True  # code that still holds the object has to look again
            del self.hot[key.name]
            self.cold.add(key.name)
        self._counters.cold_keys = len(self.cold)


def _hash(name: str) -> int:
    """Equal in every process, unlike hash()."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")
