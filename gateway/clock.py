"""Where time comes from. Logic takes times as arguments; only the edges hold a Clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for stamping and ordering, monotonic time for durations and deadlines."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC, as this gateway believes them."""

    def monotonic_s(self) -> float:
        """Seconds on a clock that never jumps and never goes back."""


class SystemClock:
    """The operating system's clocks, unchanged."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()
