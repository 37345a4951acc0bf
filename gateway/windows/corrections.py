"""Timing of corrections: at once, gathered for a while, or not at all.

A key that owes corrections is noted with the processing time at which they are due: the arrival of the first
late reading plus `every`. That time is part of the key's state, so a replay after a crash owes what was owed.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush


class OwedCorrections:
    """The keys that owe corrections, by the processing time at which they are due."""

    def __init__(self, every_ms: int) -> None:
        self._every_ms = every_ms
        self._due: list[tuple[int, str]] = []

    def owe(self, key: str, arrival_ms: int) -> int:
        """Note a key that owes a correction since `arrival_ms`; returns when it is due."""
        due_ms = arrival_ms + self._every_ms
        self.restore(key, due_ms)
        return due_ms

    def restore(self, key: str, due_ms: int) -> None:
        """Note a key as a checkpoint has it."""
        heappush(self._due, (due_ms, key))

    def resume(self, now_ms: int) -> None:
        """Processing time may have been set back: wait no longer than `every` from now."""
        self._due = [(min(due_ms, now_ms + self._every_ms), key) for due_ms, key in self._due]
        heapify(self._due)

    def tick(self, now_ms: int) -> list[str]:
        """The keys whose corrections are due, by name."""
        due = set()
        while self._due and self._due[0][0] <= now_ms:
            due.add(heappop(self._due)[1])
        return sorted(due)
