"""Jumps of the system clock, seen by comparing it with two clocks that nobody can set."""

from __future__ import annotations

from collections import Counter
from typing import Literal, NamedTuple

JumpKind = Literal["forward", "backward", "suspended", "frozen", "drifting"]

JUMP_S = 0.25  # less can be the wait between two reads on a busy machine
SUSPEND_S = 0.25
STEP_MS = 1000  # as far as the gateway's own time is slewed; see `discipline.STEP_S`
DRIFT_OVER_S = 60.0
DRIFT_PPM = 20.0  # a smeared leap second is 12 to 70 ppm; a healthy system clock differs by none at all


class ClockReading(NamedTuple):
    """The three clocks at one instant, in ns: the system's, the uptime with and without suspended time."""

    wall_ns: int
    boot_ns: int
    monotonic_ns: int


class Jump(NamedTuple):
    """A jump. `by_s`: how far it went, how long it slept, or (drifting) seconds per second."""

    kind: JumpKind
    by_s: float

    def __str__(self) -> str:
        match self.kind:
            case "suspended":
                return f"the machine was suspended for {self.by_s:.1f} s"
            case "frozen":
                return "the system clock stands still"
            case "drifting":
                return f"the system clock drifts by {self.by_s * 1e6:+.0f} ppm (a smeared leap second?)"
        return f"the system clock was set {self.kind} by {abs(self.by_s):.3f} s"


class JumpWatch:
    """Call `look` about once a second."""

    def __init__(self, first: ClockReading) -> None:
        self.counts: Counter[JumpKind] = Counter()
        self._last = self._moved = first  # `_moved`: when the system clock was last seen to move
        self._start = first  # of the stretch over which the drift is measured
        self._stood = 0  # looks in a row at which it had not moved
        self._drifting = False

    @property
    def stands(self) -> bool:
        """True if the system clock has not moved since the last look."""
        return self._stood > 0

    def look(self, now: ClockReading) -> list[Jump]:
        """Return the jumps since the last look."""
        last, self._last = self._last, now
        slept_s = ((now.boot_ns - last.boot_ns) - (now.monotonic_ns - last.monotonic_ns)) / 1e9
        jumps = [Jump("suspended", slept_s)] if slept_s > SUSPEND_S else []
        jumps += self._wall(now)
        self.counts.update(jump.kind for jump in jumps)
        return jumps

    def _wall(self, now: ClockReading) -> list[Jump]:
        if now.wall_ns == self._moved.wall_ns:
            self._stood += 1  # once may be a chance: set back by exactly what has passed since
            return [Jump("frozen", 0.0)] if self._stood == 2 else []
        moved, self._moved, self._stood = self._moved, now, 0
        by_s = (now.wall_ns - moved.wall_ns - (now.boot_ns - moved.boot_ns)) / 1e9
        if abs(by_s) > JUMP_S:
            self._start = now
            return [Jump("forward" if by_s > 0 else "backward", by_s)]
        return self._drift(now)

    def _drift(self, now: ClockReading) -> list[Jump]:
        elapsed_s = (now.boot_ns - self._start.boot_ns) / 1e9
        if elapsed_s < DRIFT_OVER_S:
            return []
        drift = (now.wall_ns - self._start.wall_ns) / 1e9 / elapsed_s - 1
        self._start = now
        was, self._drifting = self._drifting, abs(drift) * 1e6 > DRIFT_PPM
        return [Jump("drifting", drift)] if self._drifting and not was else []


class StepWatch:
    """Sees that a clock was set, or that the machine slept, by a clock that neither does."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None

    def stepped(self, now_ms: int, monotonic_s: float) -> bool:
        """Return True if the clock has jumped by itself since the last call."""
        last, self._last = self._last, (now_ms, monotonic_s)
        return last is not None and abs(now_ms - last[0] - (monotonic_s - last[1]) * 1000) > STEP_MS
