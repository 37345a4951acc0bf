"""The thread that keeps the gateway's time: it asks the sources, watches the system clock, and steers."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.core.clock import LinearClock, SteadyClock, uptime_ns
from gateway.core.threads import RoleThread
from gateway.timekeeping.discipline import SYSTEM, Change, Discipline, SourceStatus, State, steer
from gateway.timekeeping.estimate import OffsetSample
from gateway.timekeeping.jumps import ClockReading, JumpKind, JumpWatch
from gateway.timekeeping.sources.source import Measured, Reference, TimeSource, readable

log = logging.getLogger(__name__)

_YEAR_MS = 31_557_600_000
EARLIEST_MS = 1_735_689_600_000  # 2025-01-01: this software is younger than that, so it cannot be earlier
LATEST_MS = EARLIEST_MS + 30 * 365 * 86_400_000  # a counter that wrapped, or a receiver that lost its week
STANDSTILL_MS = 60_000  # a clock that is only a little behind the last known time is just a little wrong
LOOK_EVERY_S = 1.0
START_S = 10.0  # while nothing has been stamped that counts, the time is set instead of slewed
_SYSTEM_UNCERTAINTY_S = 0.005


class ClockStatus(NamedTuple):
    """State of the gateway's own time. Offsets are what was corrected: true time − system clock."""

    state: State
    certain: bool
    source: str | None
    now_ms: int
    uncertainty_s: float | None
    drift_ppm: float | None
    system_offset_s: float
    steps: int
    switches: int
    jumps: dict[JumpKind, int]
    sources: list[SourceStatus]
    problems: dict[str, str]
    """Reason why a source gives no time, by name."""


class Timekeeper:
    """Runs `gateway.timekeeper`. It never sets the system clock and never touches the database: whatever an
    operator should know goes to `announce`, which must not block.
    """

    def __init__(
        self,
        clock: SteadyClock,
        make_sources: Callable[[Reference], Sequence[TimeSource]],
        announce: Callable[[Change], None],
        known_ms: int = 0,
    ) -> None:
        """`known_ms`: a time that has certainly passed."""
        self.steps = 0
        self._earliest_ms = max(EARLIEST_MS, known_ms - STANDSTILL_MS)
        self._clock = clock
        self._reference = Reference(clock.reference)
        self._sources = make_sources(self._reference)
        self._announce = announce
        self._discipline = Discipline(plausible=self._is_believable(clock.reference.time_ns))
        self.unset = self._discipline.state == "unset"
        """True while the time is unknown; it turns only after the clock was brought to it."""
        self._impossible: dict[str, str] = {}
        self._watch = JumpWatch(read_clocks())
        self._started_s = uptime_ns() / 1e9
        self._lock = threading.Lock()  # between the loop and `status`
        self.thread = RoleThread("timekeeper", self._run)

    def start(self) -> None:
        self._stop_receiver, self._stop_sender = os.pipe()
        self.thread.start()

    def stop(self) -> None:
        if self.thread.ident is None:
            return
        with contextlib.suppress(BrokenPipeError):  # the thread ended by an error
            os.write(self._stop_sender, b"!")
        self.thread.join(5.0)
        os.close(self._stop_sender)

    @property
    def alive(self) -> bool:
        return self.thread.is_alive()

    @property
    def certain(self) -> bool:
        """True if a source has confirmed the time; without sources, if the system clock can be right."""
        state = self._discipline.state
        if self.unset:
            return False
        return state in ("synchronised", "holdover") or (state == "free" and not self._sources)

    def status(self) -> ClockStatus:
        """Return the current state; from any thread."""
        with self._lock:
            now_s = uptime_ns() / 1e9
            estimate = self._discipline.estimate(now_s)
            wall_ahead_s = self._reference.wall_offset_s()
            line_ahead_s = (self._clock.line.at(uptime_ns()) - self._reference.now_ns()) / 1e9
            return ClockStatus(
                self._discipline.state,
                self.certain,
                self._discipline.chosen,
                self._clock.now_ms(),
                None if estimate is None or self._discipline.state == "free" else estimate.uncertainty_s,
                None if estimate is None else estimate.drift * 1e6,
                line_ahead_s - wall_ahead_s,
                self.steps,
                self._discipline.switches,
                dict(self._watch.counts),
                self._discipline.status(now_s),
                {source.name: source.problem for source in self._sources if source.problem}
                | self._impossible,
            )

    # --- the thread ---

    def _run(self) -> None:
        next_look_s = 0.0
        try:
            while not self._wait(next_look_s):
                for source in self._sources:
                    self._turn(source)
                now_s = uptime_ns() / 1e9
                if now_s >= next_look_s:
                    next_look_s = now_s + LOOK_EVERY_S
                    self._look(now_s)
        finally:
            for source in self._sources:
                source.close()
            os.close(self._stop_receiver)

    def _wait(self, next_look_s: float) -> bool:
        """Wait until something arrives or is due; True when it is time to stop."""
        waiting = [source.socket_number for source in self._sources if source.socket_number is not None]
        due_s = min([next_look_s, *(source.due_s for source in self._sources)])
        timeout_s = max(0.0, due_s - uptime_ns() / 1e9)
        return self._stop_receiver in readable([self._stop_receiver, *waiting], min(timeout_s, LOOK_EVERY_S))

    def _turn(self, source: TimeSource) -> None:
        try:
            found = [*source.turn(uptime_ns() / 1e9)]
        except Exception:
            # Whatever a peer sends, this thread goes on, or the clock would never be steered again.
            log.exception("%s failed", source.name)
            source.close()
            return
        with self._lock:
            for measured in found:
                if self._can_be(*measured):
                    self._discipline.add(*measured)
            fast = bool(found) and not self.certain
        if fast:
            self._look(uptime_ns() / 1e9)  # events may be waiting for this

    def _can_be(self, name: str, sample: OffsetSample) -> bool:
        """Return True if a source gives a time in which this software can run; else note a problem."""
        reference = self._clock.reference
        since_s = sample.at_s - reference.raw_ns / 1e9
        said_ms = reference.time_ns / 1e6 + (since_s + sample.offset_s) * 1e3
        if EARLIEST_MS <= said_ms <= LATEST_MS:
            self._impossible.pop(name, None)
            return True
        off_years = (said_ms - self._clock.now_ms()) / _YEAR_MS
        if name not in self._impossible:
            log.warning("%s is %+.0f years off and is not followed", name, off_years)
        self._impossible[name] = f"{off_years:+.0f} years off: not followed"
        return False

    def _look(self, now_s: float) -> None:
        """Once a second: what happened to the system clock, whom to believe, where to steer."""
        with self._lock:
            reading = read_clocks()
            changes = [Change("clock_jump", str(jump)) for jump in self._watch.look(reading)]
            if self._is_believable(reading.wall_ns) and not self._watch.stands:
                sample = OffsetSample(now_s, self._reference.wall_offset_s(), _SYSTEM_UNCERTAINTY_S)
                self._discipline.add(*Measured(SYSTEM, sample))
            was_certain = self.certain
            changes += self._discipline.update(now_s)
            knows = self._discipline.state != "unset"
            changes += self._steer(now_s, first=knows and (self.unset or (self.certain and not was_certain)))
            self.unset = not knows
        for change in changes:
            log.warning("%s", change.message)
            self._announce(change)

    def _is_believable(self, wall_ns: int) -> bool:
        """A clock that was never set shows 1970, when its machine was made, or when it was switched off."""
        return wall_ns >= self._earliest_ms * 1_000_000

    def _steer(self, now_s: float, *, first: bool) -> list[Change]:
        estimate = self._discipline.estimate(now_s)
        if estimate is None:
            return []
        raw_ns = uptime_ns()
        before_ns = self._clock.line.at(raw_ns)
        target_ns = self._clock.reference.time_ns + raw_ns - self._clock.reference.raw_ns
        target_ns += round((estimate.offset_s + estimate.drift * (raw_ns / 1e9 - now_s)) * 1e9)
        line, stepped = steer(self._clock.line, raw_ns, target_ns, estimate.drift)
        if first and now_s - self._started_s < START_S:
            line = LinearClock(raw_ns, target_ns, estimate.drift)
        self._clock.line = line
        if not stepped:
            return []
        self.steps += 1
        by_s = (target_ns - before_ns) / 1e9
        return [Change("clock_stepped", f"the gateway's time was stepped by {by_s:+.3f} s")]


def read_clocks() -> ClockReading:
    """The machine's three clocks, as nearly at once as can be."""
    return ClockReading(time.time_ns(), uptime_ns(), time.monotonic_ns())
