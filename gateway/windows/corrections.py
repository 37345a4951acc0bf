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
        self._due: list[tuple[int, str]] = []  # what is not in `_when` as well is out of date
        self._when: dict[str, int] = {}

    def owe(self, key: str, arrival_ms: int) -> int:
        """Note a key that owes a correction since `arrival_ms`; returns when it is due."""
        due_ms = arrival_ms + self._every_ms
        self._note(key, due_ms)
        return due_ms

    def restore(self, key: str, due_ms: int) -> None:
        """Note a key as a checkpoint has it, unless it only was out of memory and is known."""
        if key not in self._when:
            self._note(key, due_ms)

    def _note(self, key: str, due_ms: int) -> None:
        self._when[key] = due_ms
        heappush(self._due, (due_ms, key))

    def resume(self, now_ms: int) -> None:
        """Processing time may have been set back: wait no longer than `every` from now."""
        self._when = {key: min(due_ms, now_ms + self._every_ms) for key, due_ms in self._when.items()}
        self._due = [(due_ms, key) for key, due_ms in self._when.items()]
        heapify(self._due)

    def tick(self, now_ms: int) -> list[str]:
        """The keys whose corrections are due, by name."""
        due = []
        while self._due and self._due[0][0] <= now_ms:
            due_ms, key = heappop(self._due)
            if self._when.get(key) == due_ms:
                del self._when[key]
                due.append(key)
        return sorted(due)
