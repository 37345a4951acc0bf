"""What every type of window does: read a field, find the key, place the reading, move the watermark.

A subclass says what happens to a reading (`_place`) and at a timer (`_on_timer`), and how a key's state is
written and read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from gateway.events import Emission, FieldValue, Reading, Sample
from gateway.windows.border import BREAKER_FAILURES, BREAKER_PAUSE_MS, Border, Key
from gateway.windows.counters import Counters
from gateway.windows.expiry import Expiry
from gateway.windows.keys import KeyTemplate
from gateway.windows.keyspace import Keyspace
from gateway.windows.plugin import CombineFn
from gateway.windows.spec import WindowSpec
from gateway.windows.values import number, number_or_text
from gateway.windows.watermark import (
    END_OF_INPUT,
    ENDLESS,
    NEVER,
    KeyClock,
    SharedClock,
    SilentKeys,
    Source,
)

K = TypeVar("K", bound=Key)

# What Reading(...) does, without its detour through Python: a quarter of a microsecond for every reading.
_new_reading: Callable[[tuple[Any, ...]], Reading] = partial(tuple.__new__, Reading)


@dataclass(slots=True)
class Binding(Generic[K]):
    """What is known about the samples of one topic before they come."""

    topic: str
    levels: Mapping[str, str]
    source: Source | None  # None: each key is its own
    key_name: str | None  # None: the topic alone does not tell
    key: K | None = None


class Operator(ABC, Generic[K]):
    """One window of the configuration at work, for one thread; only `counters` may be read by others."""

    uses_watermark = True

    def __init__(self, spec: WindowSpec, plugin: CombineFn, fingerprint: str) -> None:
        self.spec = spec
        self.fingerprint = fingerprint
        self.counters = Counters()
        self.border = Border(spec.name, plugin, self.counters)
        self.keys: Keyspace[K] = Keyspace(self.counters)
        self.shared: SharedClock | None = None
        self._silent: SilentKeys | None = None
        self._expiry: Expiry[K] | None = None if spec.ttl_ms is None else Expiry(spec.ttl_ms)
        self._make_clock()
        self._every_ms = spec.trigger_every_ms if spec.type == "global" else spec.early_every_ms
        self._early = spec.early_every_ms is not None or spec.early_count is not None
        self._pulse_number: int | None = None
        self._plugin = plugin
        self._plugin_key = getattr(plugin, "key", None) if not spec.key else None
        self._value = number_or_text if getattr(plugin, "accepts_text", False) else number
        self._needs_all_fields = bool(getattr(plugin, "takes_all_fields", False))
        self._template = KeyTemplate(spec.key)
        self._skew_ms = ENDLESS if spec.max_future_skew_ms is None else spec.max_future_skew_ms

    def _make_clock(self) -> None:
        if self.uses_watermark and self.spec.watermark == "shared":
            self.shared = SharedClock(self.spec.out_of_orderness_ms, self.spec.idle_timeout_ms)
        elif self.uses_watermark and self.spec.idle_timeout_ms is not None:
            self._silent = SilentKeys(self.spec.idle_timeout_ms)

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
    def _window_count(self, key: K) -> int:
        """How many windows of the key are kept."""

    @abstractmethod
    def _pulse_key(self, key: K, out: list[Emission]) -> bool:
        """Emit what is new since the last pulse of `every`; True when there was something."""

    # --- samples ---

    def bind(self, topic: str, levels: Mapping[str, str]) -> Binding[K]:
        """Work out once what all samples of a topic share."""
        varies = self._plugin_key is not None or self._template.needs_fields(levels)
        source = None if self.shared is None else self.shared.source(topic)
        return Binding(topic, levels, source, None if varies else self._template.render(levels, {}))

    def process(
        self, binding: Binding[K], samples: Iterable[Sample], arrival_ms: int, out: list[Emission]
    ) -> None:
        """Take in the samples of one message. Together: they are all judged by the watermark before them,
        so that the order in which a device lists its readings makes none of them late.
        """
        counters = self.counters
        field = self.spec.fields[0]
        topic = binding.topic
        last: K | None = None
        last_ms = 0
        before: list[tuple[K, int]] | None = None
        for time_ms, fields in samples:
            value: Any = fields.get(field)
            # The quick test holds for finite floats only: infinity minus itself is NaN.
            if value.__class__ is not float or value - value != 0.0 or self._needs_all_fields:
                value = self._read(fields)
                if value is None:
                    counters.misses += 1
                    continue
            reading = _new_reading((value, time_ms, fields, topic))
            key = binding.key
            if key is None or key.gone:
                key = self._find_key(binding, reading, arrival_ms)
                if key is None:
                    continue
            counters.events += 1
            if self._expiry is not None:
                key.heard_ms = arrival_ms
            if key.failures:
                self._place_with_care(key, reading, arrival_ms, out)
            else:
                self._place(key, reading, out)
            if not key.dirty:
                self.keys.touch(key)
            if last is not None:
                before = before or []
                before.append((last, last_ms))
            last, last_ms = key, time_ms
        for key, time_ms in before or ():
            self._hear(binding.source, key, time_ms, arrival_ms, out)
        if last is not None:
            self._hear(binding.source, last, last_ms, arrival_ms, out)

    def _read(self, fields: Mapping[str, FieldValue]) -> float | None:
        """The first field that is a number. None when there is none, or for some plugins when one is not."""
        if len(self.spec.fields) == 1:
            return self._value(fields.get(self.spec.fields[0]))
        found = [self._value(fields.get(field)) for field in self.spec.fields]
        if self._needs_all_fields and None in found:
            return None
        return next((value for value in found if value is not None), None)

    def _place_with_care(self, key: K, reading: Reading, arrival_ms: int, out: list[Emission]) -> None:
        """Place a reading of a key on which the plugin has failed: after some failures in a row, pause."""
        if arrival_ms < key.blocked_until_ms:
            self.counters.skipped += 1
            return
        failures = key.failures
        self._place(key, reading, out)
        if key.failures == failures:
            key.failures = 0
        elif key.failures >= BREAKER_FAILURES:
            key.blocked_until_ms = arrival_ms + BREAKER_PAUSE_MS

    def _hear(
        self, source: Source | None, key: K, time_ms: int, arrival_ms: int, out: list[Emission]
    ) -> None:
        if time_ms - arrival_ms > self._skew_ms:
            self.counters.future_skew += 1
            return
        clock = key.clock
        heard = clock if source is None else source
        heard.heard_ms = arrival_ms
        if heard.idle and not clock.revive(heard, arrival_ms):
            self.counters.sources_ignored += 1
            return
        if not heard.dirty:
            clock.mark(heard)
        if time_ms > heard.max_ms:
            clock.observe(heard, time_ms)
            if clock.wm_ms >= clock.next_due_ms:
                self._fire(clock, out)

    def _fire(self, clock: Any, out: list[Emission]) -> None:
        wm_ms = clock.wm_ms
        for time_ms, name in clock.pop_due():
            key = self.keys.find(name)
            if key is not None:
                self.keys.touch(key)
                self._on_timer(time_ms, key, wm_ms, out)
        self._show_watermark(wm_ms)

    def _show_watermark(self, wm_ms: int) -> None:
        if NEVER < wm_ms < END_OF_INPUT:
            shown_ms = self.counters.watermark_ms
            self.counters.watermark_ms = wm_ms if shown_ms is None else max(shown_ms, wm_ms)

    # --- processing time ---

    def advance(self, now_ms: int, out: list[Emission]) -> bool:
        """See what has fallen silent by a processing time; True when any state has changed."""
        changed = self._every_ms is not None and self._pulse(now_ms // self._every_ms, out)
        if self.shared is not None:
            changed |= self.shared.tick(now_ms)
            if self.shared.wm_ms >= self.shared.next_due_ms:
                self._fire(self.shared, out)
            self._show_watermark(self.shared.wm_ms)
            self.counters.sources = len(self.shared.sources)
        elif self._silent is not None:
            changed |= self._fire_silent(self._silent, now_ms, out)
        return changed | self._expire(now_ms, out)

    def _expire(self, now_ms: int, out: list[Emission]) -> bool:
        forgotten = False
        if self._expiry is None:
            return forgotten
        for key in self._expiry.tick(now_ms, self.keys.find):
            if self.shared is not None and self._window_count(key):
                self._expiry.watch(key.name, now_ms)  # the shared watermark will close its windows
                continue
            forgotten = True
            self.counters.keys_forgotten += 1
            self._close_all(key, out)
            self.delete_key(key)
        return forgotten

    def _close_all(self, key: K, out: list[Emission]) -> None:
        """Emit what a key that is given up still holds."""
        if self.shared is None:
            key.clock.wm_ms = END_OF_INPUT
            self._fire(key.clock, out)

    def _fire_silent(self, silent: SilentKeys, now_ms: int, out: list[Emission]) -> bool:
        moved = silent.tick(now_ms, self._clock_of)
        for clock in sorted(moved, key=lambda clock: clock.owner):
            self._fire(clock, out)
            if clock.next_due_ms < ENDLESS:
                silent.watch(clock, now_ms)
        return bool(moved)

    def _clock_of(self, name: str) -> KeyClock | None:
        key = self.keys.find(name)
        return None if key is None else key.clock

    def _pulse(self, number: int, out: list[Emission]) -> bool:
        """Pulses are aligned to the epoch, so that they need no state: a first tick only notes its own."""
        is_due = self._pulse_number is not None and number > self._pulse_number
        self._pulse_number = number
        changed = False
        for key in self.keys.each() if is_due else ():
            if self._pulse_key(key, out):
                self.keys.touch(key)
                changed = True
        return changed

    def resume(self, now_ms: int) -> None:
        """The silence until now was the gateway's, not the sources': judge idleness from now on."""
        for watcher in (self.shared, self._silent, self._expiry):
            if watcher is not None:
                watcher.resume(now_ms)

    def flush(self, out: list[Emission]) -> None:
        """Take the watermark of every key to the end of time."""
        for clock in [self.shared] if self.shared is not None else (key.clock for key in self.keys.each()):
            clock.wm_ms = END_OF_INPUT
            self._fire(clock, out)

    # --- keys ---

    def _find_key(self, binding: Binding[K], reading: Reading, arrival_ms: int) -> K | None:
        name = binding.key_name if binding.key_name is not None else self._key_name(binding, reading)
        if name is None:
            self.counters.key_misses += 1
            return None
        key = self.keys.find(name) or self._admit_key(name, arrival_ms)
        if binding.key_name is not None:
            binding.key = key
        return key

    def _key_name(self, binding: Binding[K], reading: Reading) -> str | None:
        if self._plugin_key is None:
            return self._template.render(binding.levels, reading.fields)
        try:
            return str(self._plugin_key(reading))
        except Exception:  # noqa: BLE001 - foreign code; a reading without a key is a counted miss
            self.counters.plugin_errors += 1
            return None

    def _admit_key(self, name: str, arrival_ms: int) -> K | None:
        limit = self.spec.max_keys
        if limit is not None and len(self.keys) >= limit and self.spec.max_keys_policy == "sample":
            self._thin_keys(limit)
        level = self.counters.key_sample_level
        is_full = limit is not None and len(self.keys) >= limit
        if is_full or _hash(name) % (1 << level):
            self.counters.keys_rejected += 1
            return None
        return self.create_key(name, arrival_ms)

    def _thin_keys(self, limit: int) -> None:
        """Keep every second key, by hash, so that it is the same keys in whatever order they come."""
        while len(self.keys) >= limit:
            self.counters.key_sample_level += 1
            kept = 1 << self.counters.key_sample_level
            for key in [key for key in self.keys.each() if _hash(key.name) % kept]:
                self.counters.keys_forgotten += 1
                self.delete_key(key)

    def create_key(self, name: str, arrival_ms: int) -> K:
        """Start a key that is not there."""
        key = self._new_key(name)
        key.clock = self.shared or KeyClock(name, self.spec.out_of_orderness_ms, arrival_ms)
        key.heard_ms = arrival_ms
        self.keys.add(key)
        if self._expiry is not None:
            self._expiry.watch(name, arrival_ms)
        return key

    def delete_key(self, key: K) -> None:
        """Forget a key and all of its state."""
        self.keys.remove(key)
        self.counters.open_windows -= self._window_count(key)
        if not len(self.keys):
            self.counters.key_sample_level = 0

    def _retire(self, key: K) -> None:
        """Forget a key without windows, unless something else is known about it that must last."""
        if self.shared is not None and key.carry is None and not self._window_count(key):
            self.delete_key(key)

    def _schedule(self, key: K, time_ms: int) -> None:
        key.clock.schedule(time_ms, key.name)
        if self._silent is not None:
            self._silent.watch(key.clock)


def _hash(name: str) -> int:
    """Equal in every process, unlike hash()."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")
