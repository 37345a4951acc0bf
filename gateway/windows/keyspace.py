"""The keys of one window: those in memory, and those whose state lies in the checkpoint until it is needed.

A key can be chilled only when the checkpoint has its state as it is. What stays in memory of a cold key is
its name; timers know keys by their names too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from gateway.windows.border import Key
from gateway.windows.counters import Counters

K = TypeVar("K", bound=Key)


class Keyspace(Generic[K]):
    """`dirty` has the keys whose state differs from the checkpoint's, in the order in which they changed."""

    def __init__(self, counters: Counters) -> None:
        self.hot: dict[str, K] = {}
        self.cold: set[str] = set()
        self.dirty: list[K] = []
        self.thaw: Callable[[str], K | None] | None = None
        """Reads a cold key from the checkpoint; None when it cannot be read any more."""
        self._counters = counters

    def __len__(self) -> int:
        return len(self.hot) + len(self.cold)

    def find(self, name: str) -> K | None:
        """The key of that name, read back if it is cold."""
        key = self.hot.get(name)
        if key is None and name in self.cold and self.thaw is not None:
            self.cold.remove(name)
            key = self.thaw(name)
            self._counters.keys, self._counters.cold_keys = len(self), len(self.cold)
        return key

    def each(self) -> Iterator[K]:
        """All keys by name, cold ones read back one by one."""
        for name in sorted([*self.hot, *self.cold]):
            key = self.find(name)
            if key is not None:
                yield key

    def touch(self, key: K) -> None:
        """Note that the key's state differs from the last checkpoint's."""
        if not key.dirty:
            key.dirty = True
            self.dirty.append(key)

    def add(self, key: K) -> None:
        """Take in a new key, or one that was read back."""
        self.hot[key.name] = key
        self._counters.keys = len(self)

    def remove(self, key: K) -> None:
        """Forget a key; the next checkpoint deletes its state."""
        self.touch(key)
        key.gone = True
        del self.hot[key.name]
        self._counters.keys = len(self)

    def chill(self, most: int) -> None:
        """Keep at most so many keys in memory; those that were used longest ago go first."""
        idle = (key for key in self.hot.values() if not key.dirty)
        for key in [key for key, _ in zip(idle, range(len(self.hot) - most), strict=False)]:
            key.gone = True  # whoever still holds the object has to look again
            del self.hot[key.name]
            self.cold.add(key.name)
        self._counters.cold_keys = len(self.cold)
