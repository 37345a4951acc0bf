"""Hold for messages that come before the time is known; they are dated by the machine's uptime afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Hold:
    """State of the hold, and the clock that dates waiting messages: the uptime since the boot `boot`."""

    waits: Callable[[], bool]
    uptime_ms: Callable[[], int]
    boot: str


def never() -> Hold:
    """Return a hold that is never on: the system clock is right, or waiting is not configured."""
    return Hold(lambda: False, lambda: 0, "")
