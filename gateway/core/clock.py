"""Sources of time. Logic takes times as arguments; only the edges hold a Clock."""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol

# Uptime including suspended time, where there is such a clock: it neither jumps nor sleeps.
_UPTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


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


class LinearClock(NamedTuple):
    """Time as a straight line over the uptime: `time_ns` at `raw_ns`, and from there 1 + `rate` per ns."""

    raw_ns: int
    time_ns: int
    rate: float = 0.0

    def at(self, raw_ns: int) -> int:
        """Nanoseconds since the Unix epoch at an uptime."""
        elapsed_ns = raw_ns - self.raw_ns
        return self.time_ns + elapsed_ns + round(elapsed_ns * self.rate)


class SteadyClock:
    """The gateway's own time: the machine's uptime plus a correction that it carries itself.

    The system clock is read once, as a first guess; setting it later does not move this clock. Only
    `gateway.timekeeper` does, by replacing `line`.
    """

    def __init__(self) -> None:
        raw_ns, wall_ns = uptime_ns(), time.time_ns()
        self.reference = self.line = LinearClock(raw_ns, wall_ns)
        """`reference` never changes: what sources measure is measured against it."""

    def now_ms(self) -> int:
        return self.line.at(uptime_ns()) // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()


def processor_ns() -> int:
    """Return the processor time of the calling thread: waiting, even for the interpreter, does not count."""
    return time.thread_time_ns()


def uptime_ns() -> int:
    """Nanoseconds since the machine was booted, suspended time included."""
    return time.clock_gettime_ns(_UPTIME)
