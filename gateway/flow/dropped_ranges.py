"""Ranges of dropped messages of a stream within a time, and the reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

OTHERS = ""
"""Placeholder for several streams that are no longer told apart."""


class DroppedRange(NamedTuple):
    """Messages of a stream that arrived from `first_ms` to `last_ms`; both 0: the times are unknown."""

    reason: str
    stream: str
    first_ms: int
    last_ms: int
    messages: int

    def joined(self, other: DroppedRange) -> DroppedRange:
        """Return one range that covers both."""
        first_ms, last_ms = min(self.first_ms, other.first_ms), max(self.last_ms, other.last_ms)
        return DroppedRange(self.reason, self.stream, first_ms, last_ms, self.messages + other.messages)

    def holds(self, other: DroppedRange) -> bool:
        """Return True if this range includes `other`; this range is then longer or stands for several
        streams."""
        alike = self.reason == other.reason and self.stream in (other.stream, OTHERS)
        return alike and self.first_ms <= other.first_ms and other.last_ms <= self.last_ms


def told(known: Iterable[DroppedRange], news: Iterable[DroppedRange]) -> list[DroppedRange]:
    """The ranges that stand once `news` was told too: each in place of those that it holds."""
    standing = [*known]
    for new in news:
        standing = [one for one in standing if not new.holds(one)]
        standing.append(new)
    return standing
