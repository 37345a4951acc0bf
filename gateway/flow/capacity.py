"""Pressure on the gateway, and the measures against it: `check_capacity`.

Each load becomes a pressure from 0 to 1, between the mark where it begins to hurt and the one where it is
too much; the largest counts. The pressure moves a level between 0 and 3, slowly up and slowly down, so that
nothing flaps and a burst passes unnoticed:

    level   what is done                     formula
    0 .. 1  acknowledgements are delayed     delay_ms = MAX_DELAY_MS * level
    1 .. 2  and routes that allow it sample  sample_rate = 10 ** -(level - 1)
    2 .. 3  and low priority is rejected

A full buffer rejects low priority by itself, whatever the level. Above 1 the level rises only while more
comes in than is taken: a busy processor alone (it may be draining a backlog) sheds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gateway.core.events import Priority

MAX_DELAY_MS = 1000
FULL_LEVEL = 3.0
SECONDS_PER_LEVEL = 30.0
"""Time at full pressure from one level to the next, and in calm from one level to the one below."""

BEGIN_LEVEL = 0.1  # three seconds of full pressure: shorter peaks are ignored
FEWEST = 0.1  # of ten messages one is kept at least
BEHIND_PRESSURE = 0.5
_BEHIND_FILL = 0.9
_REJECT_ABOVE, _REJECT_UNTIL = 0.80, 0.75
_SMOOTHING = 0.3

# Where each load begins to press, and where the pressure is full.
MARKS = {
    "cpu": (0.90, 1.0),
    "queue": (0.5, 1.0),
    "commit": (0.5, 2.0),
    "memory": (0.85, 1.0),
}


@dataclass(frozen=True, slots=True)
class Load:
    """Measured load. Fills are shares from 0 to 1.

    `cpu` is what the gateway uses of the one core that Python has. `queue` is how full the ingest
    queue is, `window` how much of what the broker may send unacknowledged is out, `intake` which share of
    the messages had to wait until they were read. `buffer` is how full the buffer is, `memory` what is used
    of the budget, `commit_s` how long a commit takes.
    """

    cpu: float = 0.0
    queue: float = 0.0
    window: float = 0.0
    intake: float = 0.0
    buffer: float = 0.0
    memory: float = 0.0
    commit_s: float = 0.0


class Action(Enum):
    """The measure that devices and operators are told of."""

    NONE = "NONE"
    SLOW_DOWN = "SLOW_DOWN"
    REJECT_LOW_PRIORITY = "REJECT_LOW_PRIORITY"


@dataclass(frozen=True, slots=True)
class Signal:
    """The answer of `check_capacity`. `priority_threshold`: this priority and those below it are rejected;
    None: nothing is. `reasons` names the loads that press."""

    action: Action = Action.NONE
    level: float = 0.0
    delay_ms: int = 0
    sample_rate: float = 1.0
    priority_threshold: Priority | None = None
    reasons: tuple[str, ...] = ()


class CapacityCheck:
    """Remembers what hysteresis needs between two checks."""

    def __init__(self) -> None:
        self._level = 0.0
        self._began = False
        self._buffer_full = False
        self._smoothed: dict[str, float] = {}

    def check_capacity(self, load: Load, elapsed_s: float) -> Signal:
        """Weigh `load`, `elapsed_s` after the last check; once a second is often enough."""
        pressures = self._pressures(load)
        self._move_level(max(pressures.values()), load, elapsed_s)
        self._buffer_full = load.buffer > (_REJECT_UNTIL if self._buffer_full else _REJECT_ABOVE)
        self._began = self._level > (0.0 if self._began else BEGIN_LEVEL)
        reasons = [name for name, pressure in pressures.items() if pressure > 0]
        if self._buffer_full:
            reasons.append("buffer")
        return self._signal(self._level if self._began else 0.0, tuple(reasons))

    def _pressures(self, load: Load) -> dict[str, float]:
        loads = {"cpu": load.cpu, "queue": load.queue, "commit": load.commit_s, "memory": load.memory}
        pressures = {}
        for name, value in loads.items():
            smoothed = self._smoothed.get(name, 0.0)
            smoothed += _SMOOTHING * (value - smoothed)
            self._smoothed[name] = smoothed
            begin, full = MARKS[name]
            pressures[name] = min(1.0, max(0.0, (smoothed - begin) / (full - begin)))
        return pressures

    def _move_level(self, pressure: float, load: Load, elapsed_s: float) -> None:
        behind = max(load.window, load.queue, load.intake) > _BEHIND_FILL
        if behind and self._level > 0:
            # Delayed acknowledgements take the pressure off, but more is still waiting outside.
            pressure = max(pressure, BEHIND_PRESSURE)
        top = FULL_LEVEL if behind else 1.0
        step = elapsed_s / SECONDS_PER_LEVEL
        if pressure > 0 and self._level < top:
            self._level = min(top, self._level + pressure * step)
        elif pressure == 0 or self._level > top:
            self._level = max(0.0, self._level - step)

    def _signal(self, level: float, reasons: tuple[str, ...]) -> Signal:
        rejects = self._buffer_full or level > 2
        action = Action.REJECT_LOW_PRIORITY if rejects else Action.SLOW_DOWN if level else Action.NONE
        return Signal(
            action,
            round(level, 3),
            round(MAX_DELAY_MS * min(1.0, level)),
            sample_rate(level),
            Priority.LOW if rejects else None,
            reasons,
        )


def sample_rate(level: float) -> float:
    """The share of messages that sampling routes keep, from 1 to FEWEST."""
    return round(max(FEWEST, 10 ** -max(0.0, min(1.0, level - 1))), 4)


def ack_delay_s(level: float, window: int, rate_per_s: float) -> float:
    """Return the delay of acknowledgements that leaves four fifths of the measured rate at level 1 and above.

    With `window` messages in flight and `rate_per_s`, one message takes window / rate; a quarter more of
    that slows the broker down by a fifth.
    """
    return min(1.0, level) * 0.25 * window / rate_per_s if rate_per_s > 0 else 0.0
