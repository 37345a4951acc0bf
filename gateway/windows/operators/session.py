"""Session windows: readings of a key that are less than a gap apart, [first, last + gap).

Each reading opens [t, t + gap); sessions that overlap merge, those that only touch do not. A late reading
may merge sessions that have fired already; what is then emitted names the bounds that it replaces.
"""

from __future__ import annotations

from typing import Any

from gateway.core.events import Emission, Reading
from gateway.windows.emission import Bounds
from gateway.windows.operators.operator import Operator
from gateway.windows.plugin import Accumulator, CombineFn
from gateway.windows.plugin_runner import Key
from gateway.windows.quality import (
    DROPPED,
    LATE,
    NO_SOURCES,
    NO_TALLY,
    Quality,
    Tally,
    joined,
    new_tally,
    note,
)
from gateway.windows.spec import WindowSpec

UNFIRED = -1
WITHHELD = -2
"""Late from the start: its first result is a correction."""


class OpenSession:
    """A session. `replaces` are bounds that were emitted and no longer hold, until the next firing."""

    __slots__ = (
        "accumulator",
        "count",
        "early",
        "end_ms",
        "fresh",
        "owes",
        "replaces",
        "revision",
        "sources",
        "start_ms",
        "tally",
        "timer_ms",
    )

    def __init__(self, start_ms: int, end_ms: int, accumulator: Accumulator) -> None:
        self.start_ms = start_ms
        self.end_ms = end_ms
        self.accumulator = accumulator
        self.count = 0
        self.revision = UNFIRED
        self.replaces: list[Bounds] = []
        self.early = 0
        self.fresh = 0
        self.owes = False  # a correction
        self.sources = NO_SOURCES
        self.tally = NO_TALLY
        self.timer_ms: int | None = None  # the timer that will look at it; its end may have moved on since

    @property
    def bounds(self) -> Bounds:
        return self.start_ms, self.end_ms


class SessionKey(Key):
    """The sessions of a key that are kept, by start."""

    __slots__ = ("sessions",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.sessions: list[OpenSession] = []

    def window_count(self) -> int:
        return len(self.sessions)


class SessionOperator(Operator[SessionKey]):
    """Session windows."""

    def __init__(self, spec: WindowSpec, plugin: CombineFn, fingerprint: str) -> None:
        super().__init__(spec, plugin, fingerprint)
        self._gap_ms = spec.gap_ms or 0
        self._lateness_ms = spec.allowed_lateness_ms
        self._discards = spec.mode == "discarding"

    def _new_key(self, name: str) -> SessionKey:
        return SessionKey(name)

    # --- readings ---

    def _place(self, key: SessionKey, reading: Reading, out: list[Emission]) -> None:
        start_ms, end_ms = reading.time_ms, reading.time_ms + self._gap_ms
        joined = [one for one in key.sessions if one.start_ms < end_ms and start_ms < one.end_ms]
        if not joined and end_ms + self._lateness_ms <= key.clock.wm_ms:
            self.border.late(key, reading, [(start_ms, end_ms)], out)
            if self.traces:
                self._blame(key, start_ms, DROPPED)
            self._retire(key)
            return
        try:
            accumulator = self._plugin.add_input(self._accumulator_of(joined), reading)
        except Exception as exc:  # noqa: BLE001 - a plugin is foreign code: count it, report it, go on
            self._add_failed(key, reading, exc, out)
            self._retire(key)
            return
        session = joined[0] if joined else self._start(key, start_ms, end_ms)
        session.accumulator = accumulator
        self._absorb(key, session, joined[1:])
        self._extend(session, start_ms, end_ms)
        session.count += 1
        session.fresh += 1
        if self.traces:
            note(session.sources, self.stream, self.sequence_num)
            session.tally[LATE] += session.end_ms <= key.clock.wm_ms
        self._after_adding(key, session, out)

    def _accumulator_of(self, joined: list[OpenSession]) -> Accumulator:
        if not joined:
            return self._plugin.create_accumulator()
        if len(joined) == 1:
            return joined[0].accumulator
        return self._plugin.merge_accumulators([one.accumulator for one in joined])

    def _start(self, key: SessionKey, start_ms: int, end_ms: int) -> OpenSession:
        session = self._new_session(start_ms, end_ms)
        if key.untold is not None:
            session.tally, key.untold = key.untold, None
        key.sessions.append(session)
        key.sessions.sort(key=_start)
        self.counters.open_windows += 1
        return session

    def _new_session(self, start_ms: int, end_ms: int) -> OpenSession:
        session = OpenSession(start_ms, end_ms, None)
        if self.traces:
            session.tally, session.sources = new_tally(), {}
        return session

    def _absorb(self, key: SessionKey, session: OpenSession, others: list[OpenSession]) -> None:
        """Make one session of several. What has fired of them is superseded by the next firing."""
        for other in others:
            self._supersede(session)
            self._supersede(other)
            session.end_ms = other.end_ms
            session.count += other.count
            session.fresh += other.fresh
            if self.traces:
                session.tally = [own + theirs for own, theirs in zip(session.tally, other.tally, strict=True)]
                session.sources = joined((session.sources, other.sources))
            session.early = max(session.early, other.early)
            session.replaces += other.replaces
            session.revision = UNFIRED
            key.sessions.remove(other)
            self.counters.open_windows -= 1

    def _extend(self, session: OpenSession, start_ms: int, end_ms: int) -> None:
        if start_ms < session.start_ms or end_ms > session.end_ms:
            self._supersede(session)
            session.start_ms = min(start_ms, session.start_ms)
            session.end_ms = max(end_ms, session.end_ms)

    @staticmethod
    def _supersede(session: OpenSession) -> None:
        """The bounds of a session change: if they were emitted, they have to be taken back."""
        if session.revision >= 0:
            session.replaces.append(session.bounds)
        session.revision = UNFIRED

    def _after_adding(self, key: SessionKey, session: OpenSession, out: list[Emission]) -> None:
        session.owes = session.end_ms <= key.clock.wm_ms and self._owes(key)
        if session.end_ms <= key.clock.wm_ms:
            if self.owed is None and self._corrects:
                self._correct(key, session, out)
            elif session.revision == UNFIRED:
                session.revision = WITHHELD
        elif self.spec.early_count is not None and session.fresh >= self.spec.early_count:
            self._ripe.append(key)
        if session.timer_ms is None or self._due_ms(session) < session.timer_ms:
            self._watch(key, session)

    def _correct(self, key: SessionKey, session: OpenSession, out: list[Emission]) -> None:
        session.revision = max(0, session.revision) + 1
        self._emit(key, session, "correction", session.revision, out)

    def settle_key(self, key: SessionKey, out: list[Emission]) -> None:
        for session in [one for one in key.sessions if one.owes]:
            self._correct(key, session, out)

    # --- results ---

    def _on_timer(self, time_ms: int, key: SessionKey, wm_ms: int, out: list[Emission]) -> None:
        for session in [one for one in key.sessions if one.timer_ms == time_ms]:
            if session.owes and session.end_ms + self._lateness_ms <= time_ms:
                self._correct(key, session, out)
            elif session.revision == UNFIRED and session.end_ms <= time_ms:
                session.revision = 0
                self._emit(key, session, "on_time", 0, out)
            if session.end_ms + self._lateness_ms <= time_ms:
                key.sessions.remove(session)
                self.counters.open_windows -= 1
            else:
                self._watch(key, session)
        self._retire(key)

    def _due_ms(self, session: OpenSession) -> int:
        """Return when a session fires, or if it has fired, when it expires."""
        return session.end_ms + (0 if session.revision == UNFIRED else self._lateness_ms)

    def _watch(self, key: SessionKey, session: OpenSession) -> None:
        """Set one timer for each session; it is checked again when it goes off, because each reading moves
        the end."""
        session.timer_ms = self._due_ms(session)
        self._schedule(key, session.timer_ms)

    def _emit(
        self, key: SessionKey, session: OpenSession, kind: str, revision: int, out: list[Emission]
    ) -> None:
        replaces = () if kind == "early" or self._discards else sorted(session.replaces)
        if not session.count:  # discarding, and nothing is new
            return
        self.border.emit(
            key,
            session.bounds,
            [session.accumulator],
            out,
            kind=kind,
            revision=revision,
            count=session.count,
            replaces=replaces,
            quality=Quality(session.tally, joined((session.sources,))) if self.traces else None,
        )
        session.fresh = 0
        if kind != "early":
            session.owes = False
            session.replaces = []
        if self._discards:
            session.accumulator, session.count = self._plugin.create_accumulator(), 0
            if self.traces:
                session.tally, session.sources = new_tally(), {}

    def _tallies_at(self, key: SessionKey, time_ms: int) -> list[Tally]:
        """Return the tallies of those that have not fired."""
        unfired = [one for one in key.sessions if one.revision == UNFIRED]
        found = [one for one in unfired if one.start_ms <= time_ms < one.end_ms]
        found = found or [one for one in unfired[-1:] if one.start_ms > time_ms]
        return [one.tally for one in found]

    def _emit_early(self, key: SessionKey, session: OpenSession, out: list[Emission]) -> None:
        self._emit(key, session, "early", session.early, out)
        session.early += 1

    def _emit_ripe(self, key: SessionKey, out: list[Emission]) -> None:
        for session in key.sessions:
            enough = self.spec.early_count is not None and session.fresh >= self.spec.early_count
            if enough and session.end_ms > key.clock.wm_ms:
                self._emit_early(key, session, out)

    def pulse_key(self, key: SessionKey, out: list[Emission]) -> bool:
        due = [one for one in key.sessions if one.fresh and one.revision == UNFIRED]
        for session in due:
            self._emit_early(key, session, out)
        return bool(due)

    # --- the checkpoint ---

    def dump_key(self, key: SessionKey) -> Any:
        return [
            [
                *(*one.bounds, one.accumulator, one.count, one.revision, one.replaces, one.early, one.fresh),
                *([one.owes, one.tally, one.sources] if self.traces else [True] if one.owes else []),
            ]
            for one in key.sessions
        ]

    def load_key(self, key: SessionKey, state: Any) -> None:
        for start_ms, end_ms, accumulator, count, revision, replaces, early, fresh, *more in state:
            session = self._new_session(start_ms, end_ms)
            session.accumulator = accumulator
            session.owes = any(more[:1])
            if self.traces and len(more) > 1:  # state from before it traced has none
                session.tally, session.sources = more[1:]
            session.count, session.revision, session.early, session.fresh = count, revision, early, fresh
            session.replaces = [(start, end) for start, end in replaces]
            key.sessions.append(session)
            self._watch(key, session)
        self.counters.open_windows += len(state)


def _start(session: OpenSession) -> int:
    return session.start_ms
