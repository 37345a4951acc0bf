"""What comes before the time is known waits, and is dated by the machine's uptime afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Hold:
    """Whether messages have to wait, and the clock that dates them: the uptime since the boot `boot`."""

    waits: Callable[[], bool]
    uptime_ms: Callable[[], int]
    boot: str


def never() -> Hold:
    """Nothing waits: the system clock is right, or nobody wants to wait for it."""
    return Hold(lambda: False, lambda: 0, "")
