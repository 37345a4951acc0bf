"""Common part of every type of window: read a field, find the key, place the reading, move the watermark.

A subclass says what happens to a reading (`_place`) and at a timer (`_on_timer`), and how a key's state is
written and read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heapify, heappop, heappush
from typing import Any, Generic, TypeVar

from gateway.core.events import Emission, FieldValue, Reading, Sample
from gateway.windows.computed import Computed
from gateway.windows.corrections import OwedCorrections
from gateway.windows.counters import Counters
from gateway.windows.emission import MANY
from gateway.windows.keyspace import Keyspace
from gateway.windows.plugin import CombineFn
from gateway.windows.plugin_runner import BREAKER_FAILURES, BREAKER_PAUSE_MS, Key, PluginRunner
from gateway.windows.processing_timers import ProcessingTimeTimers, idle_timeout
from gateway.windows.quality import DROPPED, MISSES, Tally, new_tally
from gateway.windows.reading_extractor import ReadingExtractor
from gateway.windows.spec import WindowSpec
from gateway.windows.watermark import (
    END_OF_INPUT,
    ENDLESS,
    NEVER,
    KeyClock,
    SharedClock,
    Source,
    Timers,
    smoothed_ms,
)

K = TypeVar("K", bound=Key)


# What Reading(...) does, without its detour through Python: a quarter of a microsecond for every reading.
new_reading: Callable[[tuple[Any, ...]], Reading] = partial(tuple.__new__, Reading)
new_sample: Callable[[tuple[Any, ...]], Sample] = partial(tuple.__new__, Sample)


@dataclass(slots=True)
class Binding(Generic[K]):
    """Facts about the samples of one topic that a window knows in advance."""

    operator: Operator[K]
    topic: str
    levels: Mapping[str, str]
    source: Source | None  # None: each key is its own
    key_name: str | None  # None: the topic alone does not tell
    key: K | None = None


class Operator(ABC, Generic[K]):
    """A window of the configuration at work, for one thread; only `counters` may be read by others."""

    uses_watermark = True
    binding: type[Binding[K]] = Binding

    def __init__(self, spec: WindowSpec, plugin: CombineFn, fingerprint: str) -> None:
        self.spec = spec
        self.fingerprint = fingerprint
        self.counters = Counters()
        computed = Computed(spec.compute, spec.fields, self.counters) if spec.compute else None
        self.border = PluginRunner(
            spec.name, plugin, self.counters, computed, partial=spec.partial, unit=spec.unit
        )
        self.keys: Keyspace[K] = Keyspace(spec, self.counters)
        self.shared: SharedClock | None = None
        if self.uses_watermark and spec.watermark == "shared":
            self.shared = SharedClock(spec.out_of_orderness_ms, idle_timeout(spec))
            self._timers = Timers(self.shared)
        self.leader: Operator[Any] | None = None
        """The first of the windows that are alike; None before they have met."""
        self.alike: list[Operator[Any]] = [self]
        """Itself, and those that have joined it."""
        self.due: list[Operator[Any]] = []
        """List in which `process` notes that there is something to `fire` afterwards."""
        self._due_keys: list[str] = []  # whose own watermarks have reached what waits for them
        self.ticks: ProcessingTimeTimers[K] = ProcessingTimeTimers(self)
        self._plugin = plugin
        self._field = spec.read_fields[0]
        self._intake = ReadingExtractor(spec, plugin, self.counters)
        self._early = spec.early_every_ms is not None or spec.early_count is not None
        self._ripe: list[K] = []  # keys with windows that have the number of readings for an early result
        self.owed: OwedCorrections | None = None
        if spec.corrections == "every":
            self.owed = OwedCorrections(spec.corrections_every_ms)
        self._corrects = spec.corrections != "off"
        self._takes_short_way = False
        self._arrival_ms = NEVER
        self._learns = spec.idle_learns
        self._has_ttl = spec.ttl_ms is not None
        self.traces = spec.quality
        self.stream, self.sequence_num = "", 0
        """The place of the event that is processed; number 0 if it has none. Set where it `traces`."""
        self._skew_ms = ENDLESS if spec.max_future_skew_ms is None else spec.max_future_skew_ms

    # --- what a type of window adds ---

    @abstractmethod
    def _new_key(self, name: str) -> K:
        """A key without any state."""

    @abstractmethod
    def _place(self, key: K, reading: Reading, out: list[Emission]) -> None:
        """Add a reading to its windows."""

    @abstractmethod
    def _on_timer(self, time_ms: int, key: K, wm_ms: int, out: list[Emission]) -> None:
        """The key's watermark has reached a time that was scheduled."""

    @abstractmethod
    def dump_key(self, key: K) -> Any:
        """The windows of a key as plain JSON."""

    @abstractmethod
    def load_key(self, key: K, state: Any) -> None:
        """Fill a new key with what `dump_key` gave, and schedule its timers."""

    @abstractmethod
    def pulse_key(self, key: K, out: list[Emission]) -> bool:
        """Emit what is new since the last pulse of `every`; True when there was something."""

    def settle_key(self, key: K, out: list[Emission]) -> None:
        """Emit the corrections that a key owes."""

    def _emit_ripe(self, key: K, out: list[Emission]) -> None:
        """Emit the early results of a key whose windows have enough readings for one."""

    # --- samples ---

    def bind(self, topic: str, levels: Mapping[str, str], source_name: str | None = None) -> Binding[K]:
        """Work out once what all samples of a topic share. It is a source of the shared watermark by itself,
        unless `source_name` says to which one it belongs."""
        source = None if self.shared is None else self.shared.source(source_name or topic)
        return self.binding(self, topic, levels, source, self._intake.fixed_key(levels))

    @property
    def likeness(self) -> object | None:
        """Equal for windows that may `join`; None where it is like no other."""
        return None

    def join(self, leader: Operator[Any]) -> bool:
        """Share the clock of a window that is alike, if both clocks know the same: what one hears, all do."""
        clock, own = leader.shared, self.shared
        is_alike = self.likeness is not None and self.likeness == leader.likeness
        if not is_alike or clock is None or own is None or not own.knows_as_much_as(clock):
            return False
        self.shared, self.leader = clock, leader
        self._timers.wait_for(clock)
        for key in self.keys.hot.values():
            key.clock = clock
        leader.alike.append(self)
        return True

    def take(
        self, binding: Binding[K], samples: Iterable[Sample], arrival_ms: int, out: list[Emission]
    ) -> list[tuple[K, int]]:
        """Take in the samples of one message. Together: they are all judged by the watermark before them,
        so that the order in which a device lists its readings makes none of them late.

        Returns what is to be heard of the time afterwards, for all that are alike: keys and event times.
        """
        counters = self.counters
        field = self._field
        needs_all_fields = self._intake.needs_all_fields
        topic = binding.topic
        heard: list[tuple[K, int]] = []
        self._arrival_ms = arrival_ms
        for time_ms, fields in samples:
            value: Any = fields.get(field)
            # The quick test holds for finite floats only: infinity minus itself is NaN.
            if value.__class__ is not float or value - value != 0.0 or needs_all_fields:
                value = self._intake.read(fields)
                if value is None:
                    self._miss(binding, Reading(0.0, time_ms, fields, topic))
                    continue
            reading = new_reading((value, time_ms, fields, topic))
            key = binding.key
            if key is None or key.gone:
                key = self._find_key(binding, reading, arrival_ms)
                if key is None:
                    continue
            counters.events += 1
            if self._has_ttl:
                key.heard_ms = arrival_ms
            if key.failures:
                self._place_with_care(key, reading, arrival_ms, out)
            else:
                self._place(key, reading, out)
            if not key.dirty:
                self.keys.touch(key)
            heard.append((key, time_ms))
        if self._ripe:
            self._emit_all_ripe(out)
        return heard

    def process(
        self,
        bindings: Sequence[Binding[K]],
        samples: Sequence[Sample],
        arrival_ms: int,
        out: list[Emission],
    ) -> None:
        """Take in the samples of one message, for all windows that are alike; then let their clock hear."""
        heard: list[tuple[K, int]] = []
        for binding in bindings:
            heard = binding.operator.take(binding, samples, arrival_ms, out)
        self.hear_all(bindings[0].source, heard, arrival_ms)

    def process_one(
        self,
        bindings: Sequence[Binding[K]],
        time_ms: int,
        fields: Mapping[str, FieldValue],
        arrival_ms: int,
        out: list[Emission],
    ) -> None:
        """`process` for a message of one sample."""
        self.process(bindings, (new_sample((time_ms, fields)),), arrival_ms, out)

    def hear_all(self, source: Source | None, heard: Iterable[tuple[K, int]], arrival_ms: int) -> None:
        """`hear` all readings of a message: what `take` has returned."""
        for key, time_ms in heard:
            self.hear(source, key, time_ms, arrival_ms)

    def fail(self, binding: Binding[K], reading: Reading, exc: Exception, out: list[Emission]) -> None:
        """Report a reading that the plugin failed on."""
        if binding.key is not None:
            self._add_failed(binding.key, reading, exc, out)

    def _emit_all_ripe(self, out: list[Emission]) -> None:
        """Once for all readings of a message, as Beam's and Flink's triggers once for a bundle."""
        ripe, self._ripe = self._ripe, []
        for key in {key.name: key for key in ripe}.values():
            if not key.gone:
                self._emit_ripe(key, out)

    def _place_with_care(self, key: K, reading: Reading, arrival_ms: int, out: list[Emission]) -> None:
        """Place a reading of a key on which the plugin has failed: after some failures in a row, pause."""
        if 0 < key.blocked_until_ms - arrival_ms <= BREAKER_PAUSE_MS:  # more: time was set back since
            self.counters.skipped += 1
            if self.traces:
                self._blame(key, reading.time_ms, DROPPED)
            return
        failures = key.failures
        self._place(key, reading, out)
        if key.failures == failures:
            key.failures = 0
        elif key.failures >= BREAKER_FAILURES:
            key.blocked_until_ms = arrival_ms + BREAKER_PAUSE_MS

    # --- the quality of results ---

    def _tallies_at(self, key: K, time_ms: int) -> list[Tally]:
        """Return the tallies of the windows that hold a time and have not fired, or else of the newest one
        that began after it."""
        return []

    def _blame(self, key: K, time_ms: int, what: int) -> None:
        """Count a reading that no result has, in those that should have it."""
        found = self._tallies_at(key, time_ms)
        if not found:
            key.untold = key.untold or new_tally()
            found = [key.untold]
        for tally in found:
            tally[what] += 1
        self.keys.touch(key)

    def _miss(self, binding: Binding[K], reading: Reading) -> None:
        """Count a sample without a number, in a result too if its key is known already."""
        self.counters.misses += 1
        if not self.traces:
            return
        name = binding.key_name
        if name is None:
            name = self._intake.key_if_any(binding.levels, reading)
        key = None if name is None else self.keys.find(name)
        if key is not None:
            self._blame(key, reading.time_ms, MISSES)

    def _add_failed(self, key: K, reading: Reading, exc: Exception, out: list[Emission]) -> None:
        """Report a reading that the plugin failed on."""
        if self.traces:
            self._blame(key, reading.time_ms, DROPPED)
        self.border.add_failed(key, reading, exc, out)

    # --- time ---

    def hear(self, source: Source | None, key: K, time_ms: int, arrival_ms: int) -> None:
        """Let the clock of a key know of a reading, after all windows that are alike have taken it in."""
        if time_ms - arrival_ms > self._skew_ms:
            for operator in self.alike:
                operator.counters.future_skew += 1
            return
        clock = key.clock
        heard = clock if source is None else source
        if self._learns and heard.heard_ms > NEVER:
            heard.gap_ms = smoothed_ms(heard.gap_ms, arrival_ms - heard.heard_ms)
        heard.heard_ms = arrival_ms
        if heard.idle and not clock.revive(heard, arrival_ms):
            for operator in self.alike:
                operator.counters.sources_ignored += 1
            return
        if not heard.dirty:
            clock.mark(heard)
        if time_ms > heard.max_ms:
            clock.observe(heard, time_ms)
            if clock.settled_ms >= clock.next_due_ms:
                self._note_due(key)

    def _note_due(self, key: K) -> None:
        """The watermark of this key, or of all of them, has reached what waits for it."""
        if self.shared is None:
            self.due.append(self)
            self._due_keys.append(key.name)
        else:
            settled_ms = self.shared.settled_ms
            self.due += [one for one in self.alike if one._timers.next_due_ms <= settled_ms]

    def observe(self, observer: Callable[[str, int, Reading, int], None]) -> None:
        """Call `observer(key, watermark, reading, arrival)` for every reading before it is placed.

        Times are in ms. It is for rehearsals; without it an operator is as fast as before.
        """
        place = self._place

        def observed(key: K, reading: Reading, out: list[Emission]) -> None:
            observer(key.name, key.clock.wm_ms, reading, self._arrival_ms)
            place(key, reading, out)

        self._place = observed  # type: ignore[method-assign]
        self._takes_short_way = False

    def fire(self, out: list[Emission]) -> Iterator[None]:
        """Let everything happen that waits for a watermark. Pauses where `out` is full: it may be emptied
        then, and keys may leave the memory."""
        if self.shared is not None:
            yield from self._fire_shared(self.shared, out)
        elif self._due_keys:
            names, self._due_keys = self._due_keys, []
            yield from self.fire_keys(names, out)

    def _fire_shared(self, clock: SharedClock, out: list[Emission]) -> Iterator[None]:
        wm_ms = clock.wm_ms
        for time_ms, name in self._timers.pop_due():
            key = self.keys.find(name)
            if key is not None:
                self.keys.touch(key)
                self._on_timer(time_ms, key, wm_ms, out)
                if len(out) >= MANY:
                    yield
        self._show_watermark(wm_ms)

    def fire_keys(self, names: Iterable[str], out: list[Emission]) -> Iterator[None]:
        """`fire` for keys with clocks of their own: by the ends of their windows, then by their names."""
        found = map(self.keys.find, {*names})
        waiting = [(key.clock.next_due_ms, key.name) for key in found if key is not None]
        heapify(waiting)
        while waiting:
            key = self.keys.find(heappop(waiting)[1])  # anew: it may have left the memory in a pause
            if key is None or key.clock.next_due_ms > key.clock.wm_ms:
                continue
            clock = key.clock
            self.keys.touch(key)
            self._on_timer(clock.pop(), key, clock.wm_ms, out)
            self._show_watermark(clock.wm_ms)
            heappush(waiting, (clock.next_due_ms, key.name))
            if len(out) >= MANY:
                yield

    def _show_watermark(self, wm_ms: int) -> None:
        if NEVER < wm_ms < END_OF_INPUT:
            shown_ms = self.counters.watermark_ms
            self.counters.watermark_ms = wm_ms if shown_ms is None else max(shown_ms, wm_ms)

    def _owes(self, key: K) -> bool:
        """Return True if a correction must wait; count it as withheld where corrections are off."""
        self.counters.corrections_withheld += not self._corrects
        if self.owed is None:
            return False
        if key.settle_ms is None:
            key.settle_ms = self.owed.owe(key.name, self._arrival_ms)
        else:
            self.counters.corrections_withheld += 1
        return True

    def settle(self, now_ms: int, out: list[Emission]) -> Generator[None, None, bool]:
        """Emit the corrections that are due; True when any key's state has changed."""
        names = () if self.owed is None else self.owed.tick(now_ms)
        for name in names:
            key = self.keys.find(name)
            if key is not None and key.settle_ms is not None:
                self.keys.touch(key)
                key.settle_ms = None
                self.settle_key(key, out)
                if len(out) >= MANY:
                    yield
        return bool(names)

    def close_all(self, key: K, out: list[Emission]) -> None:
        """Emit what a key that is given up still holds."""
        if self.shared is None:
            key.clock.wm_ms = END_OF_INPUT
            for _ in self.fire_keys([key.name], out):
                pass

    def renew(self, now_ms: int) -> None:
        """The state up to `now_ms` was made anew: results from here on have identities of their own.

        On a grid they are those of the windows that are still open, so there is nothing to do.
        """

    def flush(self, out: list[Emission]) -> None:
        """Take the watermark of every key to the end of time."""
        if self.shared is not None:
            self.shared.wm_ms = END_OF_INPUT
            for _ in self._fire_shared(self.shared, out):
                pass
        else:
            for key in self.keys.each():
                self.close_all(key, out)

    # --- keys ---

    def _find_key(self, binding: Binding[K], reading: Reading, arrival_ms: int) -> K | None:
        name = binding.key_name
        if name is None:
            name = self._intake.key_of(binding.levels, reading)
            if name is None:
                return None
        key = self.keys.find(name)
        if key is None and self.keys.admits(name):
            key = self.create_key(name, arrival_ms)
        if binding.key_name is not None:
            binding.key = key
        return key

    def create_key(self, name: str, arrival_ms: int) -> K:
        """Start a key that is not there."""
        key = self._new_key(name)
        key.clock = self.shared or KeyClock(name, self.spec.out_of_orderness_ms, arrival_ms)
        key.heard_ms = arrival_ms
        self.keys.add(key)
        self.ticks.watch_key(key)
        return key

    def _retire(self, key: K) -> None:
        """Forget a key without windows, unless something else is known about it that must last."""
        if self.shared is not None and key.carry is None and not key.window_count():
            self.keys.remove(key)

    def _schedule(self, key: K, time_ms: int) -> None:
        if self.shared is None:
            key.clock.schedule(time_ms, key.name)
            self.ticks.watch_clock(key.clock)
        else:
            self._timers.schedule(time_ms, key.name)
