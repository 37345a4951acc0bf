"""Choice of the trusted source of time: hysteresis, hold-over, steering.

Invariants
- A source is believed only while it is fresh and agrees with the majority of the fresh ones, whose intervals
  (offset ± uncertainty) must have a point in common: Marzullo's algorithm, as NTP uses it (RFC 5905, 11.2.1).
- A GPS with a pulse counts twice there, so that one network server cannot contradict it.
- Sources that contradict each other without a majority make the time `disputed`: the chosen one stays, else
  the one nearest to the system clock is taken, and neither is certain.
- The chosen source stays until it is gone, is outvoted, or another one has been at least twice as certain for
  HYSTERESIS_S on end: sources of about the same quality never take turns.
- When all are gone, the line of the last one goes on (hold-over), and its uncertainty grows.
- The gateway's time never goes back while it is steered by a slew; a step is made only beyond STEP_S.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Literal, NamedTuple

from gateway.core.clock import LinearClock
from gateway.timekeeping.estimate import Estimate, Estimator, OffsetSample

State = Literal["unset", "free", "synchronised", "disputed", "holdover"]
"""`unset`: no believable time at all. `free`: the system clock, which nothing
confirms. `disputed`: sources that contradict each other."""

Role = Literal["chosen", "agrees", "outvoted", "unused", "silent"]

SYSTEM = "system"
"""The operating system's clock as a source: followed only until a real source has answered."""

GPS = "gps"
"""The receiver of this machine as a source, whose pulse comes by no network."""

HYSTERESIS_S = 30.0
BETTER_BY = 2.0
PULSE_S = 0.001  # a GPS as certain as this has a pulse; without one it is off by 0.1 s
SYSTEM_PATIENCE = 10  # looks, one a second, before a jump of the system clock is followed
STEP_S = 1.0  # beyond, the time is stepped; a slew would take minutes
SLEW_OVER_S = 16.0
MAX_SLEW = 0.01  # 10 ms in a second
_ROUNDING_S = 1e-6  # offsets may be decades, and floats have 53 bits


class Change(NamedTuple):
    """Something that an operator should know: the name of an alert, and a sentence."""

    alert: str
    message: str


class SourceStatus(NamedTuple):
    """A source as it is seen now. `offset_s` is against the gateway's time."""

    name: str
    role: Role
    estimate: Estimate | None
    samples: int
    silent_s: float | None


class Discipline:
    """Takes samples of all sources and says by how much the reference is off. All times are `at_s`, seconds
    on the machine's uptime clock; offsets are against one reference that runs with it."""

    def __init__(self, *, plausible: bool) -> None:
        self.state: State = "free" if plausible else "unset"
        self.chosen: str | None = None
        self.switches = 0
        self.disagree = False
        self._estimators: dict[str, Estimator] = {}
        self._rival: tuple[str, float] | None = None  # who could take over, and since when
        self._agreeing: frozenset[str] = frozenset()

    def add(self, source: str, sample: OffsetSample) -> None:
        """Take in what a source says."""
        estimator = self._estimators.get(source)
        if estimator is None:
            patience = SYSTEM_PATIENCE if source == SYSTEM else 3
            estimator = self._estimators[source] = Estimator(patience)
        if source == SYSTEM and self.state == "unset":
            estimator.restart()  # whatever it was before, it was not a believable time
        estimator.add(sample)

    def estimate(self, at_s: float) -> Estimate | None:
        """Return the estimate of the trusted source, continued if it has fallen silent."""
        return None if self.chosen is None else self._estimators[self.chosen].at(at_s)

    def update(self, at_s: float) -> list[Change]:
        """Choose anew; returns what changed."""
        fresh = self._fresh(at_s)
        self._agreeing = agreeing(fresh, {name for name in fresh if _has_pulse(name, fresh[name])})
        changes = self._note_disagreement(fresh)
        wanted = self._wanted(fresh, at_s)
        if wanted is None:
            return changes + self._lose(at_s)
        return changes + self._follow(wanted, fresh[wanted])

    def status(self, at_s: float) -> list[SourceStatus]:
        """Return every source that ever spoke, the chosen one first."""
        found = [self._source_status(name, at_s) for name in self._estimators]
        return sorted(found, key=lambda one: (one.name != self.chosen, one.name))

    def _fresh(self, at_s: float) -> dict[str, Estimate]:
        found = {}
        for name, estimator in self._estimators.items():
            estimate = estimator.at(at_s)
            if estimate is not None and estimator.is_fresh(at_s):
                found[name] = estimate
        if self._has_real_source():
            found.pop(SYSTEM, None)
        return found

    def _has_real_source(self) -> bool:
        return any(estimator.samples for name, estimator in self._estimators.items() if name != SYSTEM)

    def _wanted(self, fresh: Mapping[str, Estimate], at_s: float) -> str | None:
        """The source to believe from now on."""
        if not self._agreeing:
            # They contradict each other without a majority: switching would only add jumps.
            return self.chosen if self.chosen in fresh else self._likeliest(fresh, at_s)
        best = min(sorted(self._agreeing), key=lambda name: fresh[name].uncertainty_s)
        if self.chosen not in self._agreeing:
            self._rival = None
            return best
        if fresh[self.chosen].uncertainty_s <= BETTER_BY * fresh[best].uncertainty_s:
            self._rival = None
            return self.chosen
        if self._rival is None or self._rival[0] != best:
            self._rival = (best, at_s)
        if at_s - self._rival[1] < HYSTERESIS_S:
            return self.chosen
        self._rival = None
        return best

    def _likeliest(self, fresh: Mapping[str, Estimate], at_s: float) -> str | None:
        """The source nearest to the system clock; without a believable one the most certain."""
        system = self._estimators.get(SYSTEM)
        shown = None if system is None else system.at(at_s)
        if shown is None:
            return min(fresh, key=lambda name: fresh[name].uncertainty_s, default=None)
        near_s = shown.offset_s
        return min(fresh, key=lambda name: abs(fresh[name].offset_s - near_s), default=None)

    def _follow(self, source: str, estimate: Estimate) -> list[Change]:
        before, self.chosen = self.chosen, source
        was, self.state = self.state, self._state_with(source)
        if before == source and self.state == "disputed":
            return []  # the disagreement was said
        if before == source and was == self.state:
            return []
        if source == SYSTEM:
            return [Change("clock_set", "the system clock shows a believable time now")] * (was == "unset")
        self.switches += before not in (None, source)
        what = "is back as" if before == source else "is now"
        certain = f"offset {estimate.offset_s * 1000:+.3f} ms, ± {estimate.uncertainty_s * 1000:.3f} ms"
        return [Change("clock_source", f"{source} {what} the source of time ({certain})")]

    def _state_with(self, source: str) -> State:
        if source == SYSTEM:
            return "free"
        return "synchronised" if self._agreeing else "disputed"

    def _lose(self, at_s: float) -> list[Change]:
        if self.state != "synchronised":
            return []  # what was disputed to the end stays so
        self.state = "holdover"
        estimate = self.estimate(at_s)
        drift = "" if estimate is None else f", with a drift of {estimate.drift * 1e6:+.2f} ppm"
        return [Change("clock_holdover", f"no source of time answers; the clock continues by itself{drift}")]

    def _note_disagreement(self, fresh: Mapping[str, Estimate]) -> list[Change]:
        disagreed, self.disagree = self.disagree, bool(fresh) and not self._agreeing
        if not self.disagree or disagreed:
            return []
        said = ", ".join(f"{name} {one.offset_s:+.3f} s" for name, one in sorted(fresh.items()))
        return [Change("clock_disagreement", f"the sources of time contradict each other: {said}")]

    def _source_status(self, name: str, at_s: float) -> SourceStatus:
        estimator = self._estimators[name]
        newest = estimator.newest
        role: Role = "silent"
        if estimator.is_fresh(at_s):
            role = "agrees" if name in self._agreeing else "unused" if name == SYSTEM else "outvoted"
            role = "chosen" if name == self.chosen else role
        silent_s = None if newest is None else at_s - newest.at_s
        return SourceStatus(name, role, estimator.at(at_s), len(estimator.samples), silent_s)


def _has_pulse(name: str, estimate: Estimate) -> bool:
    return name == GPS and estimate.uncertainty_s <= PULSE_S


def agreeing(estimates: Mapping[str, Estimate], twice: Set[str] = frozenset()) -> frozenset[str]:
    """The sources whose intervals share the point that most intervals have in common, if these are more than
    half of them all; else none. Those of `twice` count as two."""
    edges: list[tuple[float, int]] = []
    for name, one in estimates.items():
        votes = 2 if name in twice else 1
        edges += [(one.offset_s - one.uncertainty_s, -votes), (one.offset_s + one.uncertainty_s, votes)]
    depth = best = 0
    point_s = 0.0
    for edge_s, kind in sorted(edges):
        depth -= kind
        if depth > best:
            best, point_s = depth, edge_s
    if 2 * best <= len(estimates) + len(twice):
        return frozenset()
    return frozenset(
        name
        for name, one in estimates.items()
        if abs(one.offset_s - point_s) <= one.uncertainty_s + _ROUNDING_S
    )


def steer(line: LinearClock, raw_ns: int, target_ns: int, drift: float) -> tuple[LinearClock, bool]:
    """The line that brings the gateway's time to `target_ns`, and whether that takes a step.

    A small error is worked off over SLEW_OVER_S, so that time neither jumps nor goes back.
    """
    now_ns = line.at(raw_ns)
    error_s = (target_ns - now_ns) / 1e9
    if abs(error_s) > STEP_S:
        return LinearClock(raw_ns, target_ns, drift), True
    slew = max(-MAX_SLEW, min(MAX_SLEW, error_s / SLEW_OVER_S))
    return LinearClock(raw_ns, now_ns, drift + slew), False
