"""What was shed: so many messages of a stream within a range of time, and why."""

from __future__ import annotations

from typing import NamedTuple

OTHERS = ""
"""In place of a stream: several that are not told apart any more."""


class ShedRange(NamedTuple):
    """So many messages of a stream arrived from `first_ms` to `last_ms`; both 0: nobody knows when."""

    reason: str
    stream: str
    first_ms: int
    last_ms: int
    messages: int

    def joined(self, other: ShedRange) -> ShedRange:
        """One range that covers both."""
        first_ms, last_ms = min(self.first_ms, other.first_ms), max(self.last_ms, other.last_ms)
        return ShedRange(self.reason, self.stream, first_ms, last_ms, self.messages + other.messages)
