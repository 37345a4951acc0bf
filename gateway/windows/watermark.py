"""Watermarks: one clock per window (`shared`) or one per key (`per_key`), and their timers.

Invariants
- A watermark never goes back.
- watermark = highest event time seen - out_of_orderness, per source; a shared clock shows the minimum over
  its sources that are not idle, among those seen so far.
- Silence is judged by processing time, and only in `tick`: a replay that repeats the events of a log but
  not its ticks gives the same watermarks, provided that a tick that changed something was checkpointed.
- When processing time was set back, what was heard at a time that is now ahead counts as heard at that step
  (`resume`): silence is noticed in time.
- When every source is idle, the clock goes on from the highest watermark as processing time does, but only
  when that makes a timer due. A stream that resumes with the delay it had before is then not late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush, heapreplace

NEVER = -(1 << 62)
"""Before any event time; still an integer of 64 bits, so that it can be stored."""
ENDLESS = 1 << 62
"""After any event time."""
END_OF_INPUT = ENDLESS - 1
"""The watermark when nothing more will come: after any timer."""

MAX_SOURCES = 100_000
"""Sources of one shared clock. Topics come from outside: without a bound they could fill the memory."""


def silent_since_ms(heard_ms: int, awake_ms: int, now_ms: int) -> int:
    """Return the start of the silence: the last event, but not before the last `resume`.

    A last event in the future came before processing time was set back; the `resume` is later.
    """
    return awake_ms if heard_ms > now_ms else max(heard_ms, awake_ms)


class IdleTimeout:
    """After how much silence a source is idle: always the same, or learnt from its own rhythm.

    Learnt (`auto`): RHYTHM times its mean interval, at least the window's size, at most MOST_SIZES times
    that, so that one slow source does not hold up all the others for long.
    """

    RHYTHM = 3
    MOST_SIZES = 10

    def __init__(self, timeout_ms: int, *, learns: bool = False) -> None:
        self.least_ms = timeout_ms
        self.learns = learns

    def of(self, source: Source | KeyClock) -> int:
        """The timeout of a source in milliseconds."""
        if not self.learns:
            return self.least_ms
        return min(max(self.least_ms, self.RHYTHM * source.gap_ms), self.MOST_SIZES * self.least_ms)


def smoothed_ms(gap_ms: int, new_gap_ms: int) -> int:
    """The mean interval between what a source sends, by the last eight or so."""
    if new_gap_ms < 0:  # noqa: PLR1730 - max() takes longer; time was set back
        new_gap_ms = 0
    return gap_ms + (new_gap_ms - gap_ms) // 8 if gap_ms else new_gap_ms


class Source:
    """A source stream of a shared clock. `idle` also stands for a source that has not been heard yet."""

    __slots__ = ("dirty", "gap_ms", "heard_ms", "idle", "max_ms", "name", "queued", "serial")

    def __init__(self, name: str, serial: int) -> None:
        self.name = name
        self.serial = serial
        self.max_ms = NEVER
        self.heard_ms = NEVER
        self.gap_ms = 0  # mean interval; 0: not known, or not asked for
        self.idle = True
        self.queued = False
        self.dirty = False


class Timers:
    """Times that wait for a shared clock, of one window."""

    def __init__(self, clock: SharedClock) -> None:
        self.next_due_ms = ENDLESS
        self._clock = clock
        self._times: list[int] = []
        self._waiting: dict[int, set[str]] = {}
        self._handing_out_ms = NEVER
        clock.attach(self)

    def wait_for(self, clock: SharedClock) -> None:
        """Wait for another clock from now on."""
        self._clock = clock
        clock.attach(self)

    def schedule(self, time_ms: int, key: str) -> None:
        """Hand out (time_ms, key) from `pop_due` once the watermark is there."""
        waiting = self._waiting.get(time_ms)
        if waiting is not None:
            waiting.add(key)
        elif time_ms != self._handing_out_ms:  # else it is read back because of this very timer
            self._clock.settle()
            self._waiting[time_ms] = {key}
            heappush(self._times, time_ms)
            self.next_due_ms = self._times[0]
            self._clock.next_due_ms = min(self._clock.next_due_ms, time_ms)

    def pop_due(self) -> Iterator[tuple[int, str]]:
        """The timers that are due, by time and then by key; new ones may be scheduled meanwhile."""
        while self.next_due_ms <= self._clock.wm_ms:
            time_ms = self._handing_out_ms = heappop(self._times)
            self.next_due_ms = self._times[0] if self._times else ENDLESS
            for key in sorted(self._waiting.pop(time_ms)):
                yield time_ms, key
        self._handing_out_ms = NEVER
        self._clock.look_at_timers()


class SharedClock:
    """The watermark of all keys of a window, or of several windows that are alike.

    The heap holds each source that is not idle once, with an event time that it has reached; an entry is
    brought up to date only when it is on top, so that an event costs O(1) unless its source is the one
    that holds the watermark back.

    Even then the watermark is not worked out before it is asked for, as long as it cannot reach a timer: it
    is never ahead of the source on top. So `settled_ms`, which may be behind, judges what still has a timer
    as the watermark itself does. Before anything else changes the heap, it is worked out.
    """

    def __init__(self, out_of_orderness_ms: int, idle_timeout: IdleTimeout | None) -> None:
        self.settled_ms = NEVER
        """Watermark when it was last worked out."""
        self.next_due_ms = ENDLESS
        self.sources: dict[str, Source] = {}
        self.dirty_sources: list[Source] = []
        self._lag_ms = out_of_orderness_ms
        self._timeout = idle_timeout
        self._heap: list[tuple[int, int, Source]] = []
        self._alarms: list[tuple[int, int, Source]] = []
        self._awake_ms = NEVER
        self._some_are_idle = False
        self._last: tuple[int, int] | None = None
        self._serial = 0
        self._timers: list[Timers] = []
        self._is_behind = False  # what is on top of the heap has moved on since

    def attach(self, timers: Timers) -> None:
        """Mind the timers of one more window."""
        self._timers.append(timers)
        self.look_at_timers()

    def look_at_timers(self) -> None:
        """Find the next time that something waits for."""
        self.next_due_ms = min([timers.next_due_ms for timers in self._timers], default=ENDLESS)

    def knows_as_much_as(self, other: SharedClock) -> bool:
        """Return True if both show the same, and will go on to as long as they hear the same."""
        return self._state() == other._state()

    def _state(self) -> object:
        sources = {
            source.name: (source.max_ms, source.heard_ms, source.gap_ms, source.idle)
            for source in self.sources.values()
        }
        return self.wm_ms, self._awake_ms, sources

    @property
    def wm_ms(self) -> int:
        """The watermark."""
        self.settle()
        return self.settled_ms

    @wm_ms.setter
    def wm_ms(self, time_ms: int) -> None:
        self.settled_ms = time_ms

    def source(self, name: str) -> Source:
        """The source of that name, made when it is new. It counts only once it is heard."""
        found = self.sources.get(name)
        if found is None:
            if len(self.sources) >= MAX_SOURCES and self._some_are_idle:
                self._forget_idle_sources()
            self._serial += 1
            found = Source(name, self._serial)
            if len(self.sources) < MAX_SOURCES:  # else `revive` takes it in, once there is room
                self.sources[name] = found
                self._some_are_idle = True
        return found

    def _forget_idle_sources(self) -> None:
        self._some_are_idle = False  # a look at all of them for each new one would stop everything
        for source in [source for source in self.sources.values() if source.idle]:
            del self.sources[source.name]
            self.mark(source)

    def saved(self) -> None:
        """The checkpoint has the state of all sources."""
        for source in self.dirty_sources:
            source.dirty = False
        self.dirty_sources.clear()

    def mark(self, source: Source) -> None:
        """Note that the state of the source differs from the last checkpoint's."""
        source.dirty = True
        self.dirty_sources.append(source)

    def revive(self, source: Source, arrival_ms: int) -> bool:
        """Take an idle or a new source into the minimum. False when there are too many already."""
        if len(self._heap) >= MAX_SOURCES and not source.queued:
            return False
        self.settle()
        self.sources[source.name] = source
        source.idle = False
        self._last = None
        if not source.queued:
            source.queued = True
            heappush(self._heap, (source.max_ms, source.serial, source))
        if self._timeout is not None:
            heappush(self._alarms, (arrival_ms + self._timeout.of(source), source.serial, source))
        return True

    def observe(self, source: Source, time_ms: int) -> None:
        """The source's highest event time is now `time_ms`; the watermark follows if it was held by it."""
        source.max_ms = time_ms
        if self._heap[0][2] is source:
            self._is_behind = True
            if time_ms - self._lag_ms >= self.next_due_ms:
                self._settle()

    def settle(self) -> None:
        """Work the watermark out, if it may be behind."""
        if self._is_behind:
            self._settle()

    def _settle(self) -> None:
        self._is_behind = False
        heap = self._heap
        while heap:
            reached_ms, serial, source = heap[0]
            if source.idle:
                heappop(heap)
                source.queued = False
            elif reached_ms != source.max_ms:
                heapreplace(heap, (source.max_ms, serial, source))
            else:
                self.settled_ms = max(self.settled_ms, reached_ms - self._lag_ms)
                return

    def resume(self, now_ms: int) -> None:
        """The silence until now was not the sources' own (a restart, a lost connection): count from now."""
        self._awake_ms = now_ms
        self._last = None
        if self._timeout is not None:
            self._alarms = [  # later, if processing time was set back
                (min(due, now_ms + self._timeout.of(source)), serial, source)
                for due, serial, source in self._alarms
            ]
            heapify(self._alarms)

    def tick(self, now_ms: int) -> bool:
        """Find idle sources at a processing time; True when anything has changed."""
        self.settle()  # while those that hold it are not idle yet
        changed = self._find_idle(now_ms)
        if changed:
            self._settle()
        if not self._heap and self.next_due_ms < ENDLESS and self._timeout is not None:
            changed |= self._run_on(now_ms)
        return changed

    def _find_idle(self, now_ms: int) -> bool:
        changed = False
        while self._timeout is not None and self._alarms and self._alarms[0][0] <= now_ms:
            _, serial, source = heappop(self._alarms)
            timeout_ms = self._timeout.of(source)
            due_ms = silent_since_ms(source.heard_ms, self._awake_ms, now_ms) + timeout_ms
            if due_ms > now_ms:
                heappush(self._alarms, (due_ms, serial, source))
            else:
                source.idle = changed = self._some_are_idle = True
                self.mark(source)
        return changed

    def _run_on(self, now_ms: int) -> bool:
        if self._last is None:
            heard = [source for source in self.sources.values() if source.max_ms > NEVER]
            self._last = (
                max((source.max_ms for source in heard), default=NEVER),
                max((source.heard_ms for source in heard), default=now_ms),
            )
        max_ms, heard_ms = self._last
        silent_ms = now_ms - silent_since_ms(heard_ms, self._awake_ms, now_ms)
        reached_ms = max_ms - self._lag_ms + max(0, silent_ms)
        if reached_ms < self.next_due_ms or reached_ms <= self.wm_ms:
            return False
        self.wm_ms = reached_ms
        return True

    def restore_source(self, name: str, max_ms: int, heard_ms: int, *, idle: bool, gap_ms: int = 0) -> None:
        """Put a source back as a checkpoint had it."""
        source = self.source(name)
        source.max_ms, source.heard_ms, source.gap_ms = max_ms, heard_ms, gap_ms
        if not idle:
            self.revive(source, heard_ms)


class KeyClock:
    """The watermark of one key, and its timers. It is its own only source, hence the attributes of one."""

    __slots__ = ("_lag_ms", "_times", "gap_ms", "heard_ms", "max_ms", "next_due_ms", "owner", "wm_ms")

    idle = False
    dirty = True  # it is stored with its key, which has a mark of its own

    def __init__(self, owner: str, out_of_orderness_ms: int, heard_ms: int) -> None:
        self.owner = owner
        self.wm_ms = NEVER
        self.max_ms = NEVER
        self.heard_ms = heard_ms
        self.gap_ms = 0
        self.next_due_ms = ENDLESS
        self._lag_ms = out_of_orderness_ms
        self._times: list[int] = []

    @property
    def settled_ms(self) -> int:
        """The watermark: it is always worked out at once."""
        return self.wm_ms

    def observe(self, source: object, time_ms: int) -> None:
        """The highest event time is now `time_ms`."""
        self.max_ms = time_ms
        self.wm_ms = max(self.wm_ms, time_ms - self._lag_ms)

    def reached_ms(self, now_ms: int, awake_ms: int) -> int:
        """Return the event time by now if the key had not fallen silent."""
        if self.max_ms == NEVER:  # only events from beyond max_future_skew: nothing better is known
            return now_ms - self._lag_ms
        silent_ms = now_ms - silent_since_ms(self.heard_ms, awake_ms, now_ms)
        return self.max_ms - self._lag_ms + max(0, silent_ms)

    def schedule(self, time_ms: int, key: str) -> None:
        """Hand out (time_ms, key) from `pop_due` once the watermark is there."""
        heappush(self._times, time_ms)
        self.next_due_ms = self._times[0]

    def pop(self) -> int:
        """Take out the next timer."""
        time_ms = heappop(self._times)
        self.next_due_ms = self._times[0] if self._times else ENDLESS
        return time_ms


class SilentKeys:
    """Finds the key clocks that have timers waiting but hear nothing any more.

    Each watched clock has one entry in the heap; how long it has really been silent is looked up only when
    the entry comes due, so that an event costs nothing here.
    """

    def __init__(self, idle_timeout: IdleTimeout) -> None:
        self._timeout = idle_timeout
        self._alarms: list[tuple[int, str]] = []
        self._watched: set[str] = set()
        self._awake_ms = NEVER

    def watch(self, clock: KeyClock, due_ms: int | None = None) -> None:
        """Look at a clock that has timers when it may have been silent for long enough."""
        if clock.owner not in self._watched:
            self._watched.add(clock.owner)
            due_ms = clock.heard_ms + self._timeout.of(clock) if due_ms is None else due_ms
            heappush(self._alarms, (due_ms, clock.owner))

    def resume(self, now_ms: int) -> None:
        """The silence until now was not the keys' own: count from now."""
        self._awake_ms = now_ms
        latest_ms = now_ms + self._timeout.least_ms  # later, if processing time was set back
        self._alarms = [(min(due_ms, latest_ms), name) for due_ms, name in self._alarms]
        heapify(self._alarms)

    def tick(self, now_ms: int, clock_of: Callable[[str], KeyClock | None]) -> list[KeyClock]:
        """The clocks of silent keys whose watermark moved on to a timer, with that watermark."""
        moved = []
        while self._alarms and self._alarms[0][0] <= now_ms:
            name = heappop(self._alarms)[1]
            self._watched.remove(name)
            clock = clock_of(name)
            if clock is not None and clock.next_due_ms < ENDLESS and self._run_on(clock, now_ms):
                moved.append(clock)
        return moved

    def _run_on(self, clock: KeyClock, now_ms: int) -> bool:
        idle_from_ms = silent_since_ms(clock.heard_ms, self._awake_ms, now_ms) + self._timeout.of(clock)
        if idle_from_ms > now_ms:
            self.watch(clock, idle_from_ms)
            return False
        reached_ms = clock.reached_ms(now_ms, self._awake_ms)
        if reached_ms < clock.next_due_ms:
            self.watch(clock, now_ms + clock.next_due_ms - reached_ms)
            return False
        clock.wm_ms = max(clock.wm_ms, reached_ms)
        return True
