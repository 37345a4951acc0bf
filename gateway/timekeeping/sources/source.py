"""Interface of every source of time."""

from __future__ import annotations

import select
import time
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from gateway.core.clock import LinearClock, uptime_ns
from gateway.timekeeping.estimate import OffsetSample


class Measured(NamedTuple):
    """A sample and the source that it is of: `ntp:pool.ntp.org`."""

    source: str
    sample: OffsetSample


class TimeSource(Protocol):
    """A server, receiver or clock. All methods run on the timekeeper's thread and do not block for long."""

    name: str
    problem: str
    """Reason why it gives no time right now; empty when it does."""

    @property
    def socket_number(self) -> int | None:
        """Socket to wait on for an answer; None when there is nothing to wait for."""

    @property
    def due_s(self) -> float:
        """Time of the next call of `turn`, on the uptime clock, if nothing arrives before."""

    def turn(self, now_s: float) -> Iterable[Measured]:
        """Read what has arrived and ask what is due. Raises OSError when the peer cannot be reached."""

    def close(self) -> None: ...


def readable(descriptors: Iterable[int], timeout_s: float) -> set[int]:
    """Return those of `descriptors` that can be read, as soon as there is one.

    Not by select(2): it refuses descriptors from 1,024 on.
    """
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(timeout_s * 1000)}


class Reference:
    """The scale that samples are measured against: uptime plus a constant. It never jumps."""

    def __init__(self, line: LinearClock) -> None:
        self._ahead_ns = line.time_ns - line.raw_ns

    def now_ns(self) -> int:
        return uptime_ns() + self._ahead_ns

    def wall_offset_s(self) -> float:
        """Return how far the system clock is ahead of the reference. Read between two reads of the uptime,
        because the process may lose the processor in between."""
        best_ns, offset_ns = 1 << 62, 0
        for _ in range(3):
            before_ns = uptime_ns()
            wall_ns = time.time_ns()
            after_ns = uptime_ns()
            if after_ns - before_ns < best_ns:
                best_ns = after_ns - before_ns
                offset_ns = wall_ns - (before_ns + after_ns) // 2 - self._ahead_ns
        return offset_ns / 1e9
