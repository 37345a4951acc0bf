"""What was shed: so many messages of a stream within a range of time, and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

OTHERS = ""
"""In place of a stream: several that are not told apart any more."""


class DroppedRange(NamedTuple):
    """So many messages of a stream arrived from `first_ms` to `last_ms`; both 0: nobody knows when."""

    reason: str
    stream: str
    first_ms: int
    last_ms: int
    messages: int

    def joined(self, other: DroppedRange) -> DroppedRange:
        """One range that covers both."""
        first_ms, last_ms = min(self.first_ms, other.first_ms), max(self.last_ms, other.last_ms)
        return DroppedRange(self.reason, self.stream, first_ms, last_ms, self.messages + other.messages)

    def holds(self, other: DroppedRange) -> bool:
        """Whether `other` went into this range, which has become longer or stands for several streams."""
        alike = self.reason == other.reason and self.stream in (other.stream, OTHERS)
        return alike and self.first_ms <= other.first_ms and other.last_ms <= self.last_ms


def told(known: Iterable[DroppedRange], news: Iterable[DroppedRange]) -> list[DroppedRange]:
    """The ranges that stand once `news` was told too: each in place of those that it holds."""
    standing = [*known]
    for new in news:
        standing = [one for one in standing if not new.holds(one)]
        standing.append(new)
    return standing
