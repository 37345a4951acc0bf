"""Numbers of one stream that go again because a receiver misses them: how often, and when once more.

Invariants:
- Brokers may lose an event often: it goes again, but less and less often, and MOST_TIMES in all. What no
  receiver has then, none can read, or not from here: it stays in the buffer, and a new start tries again.
- It goes only if the receiver's word is younger than the last time: else it may still be on its way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.core.sequence_sets import Stretch, Stretches, size_of, without

AT_ONCE = 5  # times that an event goes again without a wait; a receiver may reject what goes more often
_FIRST_WAIT_MS = 60_000  # and twice as long after each time
_LONGEST_WAIT_MS = 24 * 60 * 60 * 1000
MOST_TIMES = 20  # five days


class _Level:
    """Numbers that went again equally often."""

    def __init__(self, now_ms: int) -> None:
        self.numbers = Stretches()
        self.oldest_ms = self.newest_ms = now_ms


class Resends:
    """The numbers of one stream that went again and have not arrived since."""

    def __init__(self) -> None:
        self._levels: dict[int, _Level] = {}

    def __bool__(self) -> bool:
        return bool(self._levels)

    @property
    def refused(self) -> int:
        """Count the numbers that no receiver has although they went again more than AT_ONCE times."""
        return sum(size_of(level.numbers) for times, level in self._levels.items() if times > AT_ONCE)

    def due(self, missing: Sequence[Stretch], audit_ms: int) -> list[Stretch]:
        """Return those of `missing` that may go, when a receiver misses them as of `audit_ms`."""
        held = (
            level.numbers
            for times, level in self._levels.items()
            if times >= MOST_TIMES or audit_ms <= max(level.newest_ms, level.oldest_ms + _wait_ms(times))
        )
        return [*without(missing, *held)]

    def sent(self, numbers: Stretches, now_ms: int) -> int:
        """Note that they go now; returns how many of them go more often than AT_ONCE times."""
        fresh = [*without(numbers, *(level.numbers for level in self._levels.values()))]
        often = 0
        for times, level in sorted(self._levels.items(), reverse=True):
            again = [*without(numbers, without(numbers, level.numbers))]
            if again:
                self._take(times, again)
                self._put(min(times + 1, MOST_TIMES), again, now_ms)
                often += size_of(again) if times >= AT_ONCE else 0
        if fresh:
            self._put(1, fresh, now_ms)
        return often

    def forget(self, numbers: Sequence[Stretch]) -> None:
        """Note that these are at the receiver, or gone."""
        for times in [*self._levels]:
            self._take(times, numbers)

    def _take(self, times: int, numbers: Iterable[Stretch]) -> None:
        level = self._levels[times]
        level.numbers = Stretches(without(level.numbers, numbers))
        if level.numbers.first is None:
            del self._levels[times]

    def _put(self, times: int, numbers: Iterable[Stretch], now_ms: int) -> None:
        level = self._levels.setdefault(times, _Level(now_ms))
        level.numbers = level.numbers.united(numbers)
        level.newest_ms = now_ms


def _wait_ms(times: int) -> int:
    return min(_FIRST_WAIT_MS * 2 ** (times - AT_ONCE), _LONGEST_WAIT_MS) if times >= AT_ONCE else 0
