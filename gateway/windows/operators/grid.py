"""Tumbling and hopping windows: intervals [start, end) on a grid that is aligned to the epoch plus an offset.

The grid's starts and ends cut time into slices, so that a reading is added once, to the slice it falls in,
and not once per window that overlaps it; a window's result is the merger of its slices. A tumbling window
is one slice.

```
windows  [---------------)          size 4, slide 2: two slices per window
                 [---------------)
slices   [------)[------)[------)
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.core.errors import ConfigError
from gateway.core.events import Emission, FieldValue, Reading
from gateway.windows.emission import Bounds
from gateway.windows.operators.operator import Binding, Operator, new_reading, new_sample
from gateway.windows.plugin import Accumulator, CombineFn, value_adder
from gateway.windows.plugin_runner import Key
from gateway.windows.quality import DROPPED, LATE, NO_SOURCES, Quality, Tally, joined, new_tally, note
from gateway.windows.spec import WindowSpec
from gateway.windows.watermark import NEVER

LIKENESS_FIELDS = (
    *("route", "topic", "size_ms", "slide_ms", "offset_ms", "every", "timezone", "week_starts"),
    *("allowed_lateness_ms", "out_of_orderness_ms", "idle_timeout_ms", "idle_learns", "max_future_skew_ms"),
)
UNFIRED = -1
WITHHELD = -2
"""Late from the start: its first result is a correction."""


class Slicing(Protocol):
    """The division of time into windows and slices, each named by its start in milliseconds."""

    def slice_of(self, time_ms: int) -> int:
        """The slice that holds a time."""

    def windows_of(self, slice_ms: int) -> Sequence[int]:
        """The windows that contain a slice, ascending."""

    def end_of(self, start_ms: int) -> int:
        """The end of a window."""

    def start_of(self, end_ms: int) -> int:
        """The window that ends at a time; anything else where none does."""

    def next_of(self, start_ms: int) -> int:
        """The window after another."""


class Grid:
    """The arithmetic of the windows and slices of one size, slide and offset, all in milliseconds."""

    def __init__(self, size_ms: int, slide_ms: int, offset_ms: int) -> None:
        if size_ms <= 0 or slide_ms <= 0:
            raise ConfigError("a window's size and slide are at least 1ms")
        self.size_ms = size_ms
        self.slide_ms = slide_ms
        self.offset_ms = offset_ms
        # Where in each slide a window ends, when that is not where one starts: there a slice ends too.
        self.cut_ms = size_ms % slide_ms

    def slice_of(self, time_ms: int) -> int:
        """The start of the slice that holds a time. Floor division: right before the epoch as well."""
        into_ms = (time_ms - self.offset_ms) % self.slide_ms
        return time_ms - into_ms + self.cut_ms if 0 < self.cut_ms <= into_ms else time_ms - into_ms

    def windows_of(self, slice_ms: int) -> range:
        """The starts of the windows that contain a slice, ascending; none in a gap between windows."""
        last = slice_ms - (slice_ms - self.offset_ms) % self.slide_ms
        count = (last + self.size_ms - slice_ms - 1) // self.slide_ms + 1
        return range(last - (count - 1) * self.slide_ms, last + 1, self.slide_ms)

    def end_of(self, start_ms: int) -> int:
        """The end of a window."""
        return start_ms + self.size_ms

    def start_of(self, end_ms: int) -> int:
        """The window that ends at a time."""
        return end_ms - self.size_ms

    def next_of(self, start_ms: int) -> int:
        """The window after another."""
        return start_ms + self.slide_ms


class Slice:
    """The state of a key in one slice. `first_end_ms` is when the first window that contains it closes.

    `is_ready`: nothing is to be done for one more reading but to add it. The key takes that back when its
    state was stored, when one of its windows fires, when its plugin fails, and when it is forgotten.
    """

    __slots__ = ("accumulator", "count", "first_end_ms", "is_ready", "sources", "start_ms")

    def __init__(self, accumulator: Accumulator, start_ms: int, first_end_ms: int) -> None:
        self.accumulator = accumulator
        self.count = 0
        self.start_ms = start_ms
        self.first_end_ms = first_end_ms
        self.is_ready = False
        self.sources = NO_SOURCES


_NO_SLICE = Slice(None, NEVER, NEVER)


class GridKey(Key):
    """`windows` maps the start of each window that is kept to its last revision, UNFIRED or WITHHELD; `owed`
    has those that owe a correction, `tallies` what is known of the readings of each."""

    __slots__ = ("early", "owed", "slices", "tallies", "windows")

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.slices: dict[int, Slice] = {}
        self.windows: dict[int, int] = {}
        self.early: dict[int, list[int]] = {}  # start -> [early results so far, readings since the last one]
        self.owed: set[int] = set()
        self.tallies: dict[int, Tally] = {}

    def tally(self, start_ms: int) -> Tally:
        """Return the tally of a window."""
        return self.tallies.setdefault(start_ms, new_tally())

    def window_count(self) -> int:
        return len(self.windows)

    def look_again(self) -> None:
        for part in self.slices.values():
            part.is_ready = False


@dataclass(slots=True)
class GridBinding(Binding[GridKey]):
    """`part` is the slice that the last reading of the topic went to."""

    part: Slice = _NO_SLICE


class GridOperator(Operator[GridKey]):
    """Tumbling and hopping windows."""

    binding = GridBinding

    def __init__(
        self, spec: WindowSpec, plugin: CombineFn, fingerprint: str, slicing: Slicing | None = None
    ) -> None:
        super().__init__(spec, plugin, fingerprint)
        # Looked up for every reading: an attribute less, and no call where slices begin with the slides.
        self._slide_ms, self._offset_ms, self._is_cut = 1, 0, True
        if slicing is None:
            size_ms = spec.size_ms or 0
            slide_ms = size_ms if spec.type == "tumbling" else spec.slide_ms or size_ms
            slicing = Grid(size_ms, slide_ms, spec.offset_ms)
            self._slide_ms, self._offset_ms, self._is_cut = slide_ms, spec.offset_ms, slicing.cut_ms > 0
        self.grid = slicing
        self._discards = spec.mode == "discarding"
        self._lateness_ms = spec.allowed_lateness_ms
        self.add_value, self.add_input = value_adder(plugin), plugin.add_input
        self._keeps_integers = bool(getattr(plugin, "exact_integers", False))
        self._takes_short_way = not (self.traces or self._early or self._intake.needs_all_fields)

    def _new_key(self, name: str) -> GridKey:
        return GridKey(name)

    # --- readings ---

    @property
    def likeness(self) -> object | None:
        """With the same bounds, too: when all sources are silent, time goes on for what waits for it."""
        reads, spec = self._intake.likeness, self.spec
        if reads is None or spec.max_keys is not None:
            return None
        return type(self), reads, *(getattr(spec, name) for name in LIKENESS_FIELDS)

    def process_one(
        self,
        bindings: Sequence[Binding[GridKey]],
        time_ms: int,
        fields: Mapping[str, FieldValue],
        arrival_ms: int,
        out: list[Emission],
    ) -> None:
        """`Operator.process_one`, where a number for windows that are open, as nearly all are, takes a short
        way: for each window only what differs between them is done."""
        value: Any = fields.get(self._field)
        if value.__class__ is int and not self._keeps_integers:
            value = float(value)
        # NaN or infinity minus itself is not 0.
        is_number = value.__class__ is float and value - value == 0.0
        if not is_number or self._intake.needs_all_fields or bindings[0].key_name is None:
            super().process_one(bindings, time_ms, fields, arrival_ms, out)
            return
        if self._is_cut:
            start_ms = self.grid.slice_of(time_ms)
        else:
            start_ms = time_ms - (time_ms - self._offset_ms) % self._slide_ms
        binding: Any
        for binding in bindings:
            part = binding.part
            operator = binding.operator
            if part.start_ms != start_ms or not part.is_ready:
                part = operator.ready_slice(binding, start_ms, arrival_ms)
                if part is None:
                    operator.take(binding, (new_sample((time_ms, fields)),), arrival_ms, out)
                    continue
            try:
                if operator.add_value is not None:
                    part.accumulator = operator.add_value(part.accumulator, value, time_ms)
                else:
                    reading = new_reading((value, time_ms, fields, binding.topic))
                    part.accumulator = operator.add_input(part.accumulator, reading)
                part.count += 1
            except Exception as exc:  # noqa: BLE001 - a plugin is foreign code: count it, report it, go on
                operator.fail(binding, Reading(value, time_ms, fields, binding.topic), exc, out)
            operator.counters.events += 1
        key = bindings[0].key
        if key is not None:
            self.hear(bindings[0].source, key, time_ms, arrival_ms)

    def ready_slice(self, binding: GridBinding, start_ms: int, arrival_ms: int) -> Slice | None:
        """Return the slice of a topic's key for one more reading, if it only has to be added."""
        key = binding.key
        if key is None or key.gone or key.failures or not self._takes_short_way:
            return None
        part = key.slices.get(start_ms)
        if part is None or part.first_end_ms <= key.clock.settled_ms:
            return None
        if not key.dirty:
            self.keys.touch(key)
        if self._has_ttl:
            key.heard_ms = arrival_ms  # with each reading, so the next one has to ask again
        else:
            part.is_ready, binding.part = True, part
        return part

    def _place(self, key: GridKey, reading: Reading, out: list[Emission]) -> None:
        time_ms = reading.time_ms
        into_ms = (time_ms - self._offset_ms) % self._slide_ms
        start_ms = self.grid.slice_of(time_ms) if self._is_cut else time_ms - into_ms
        found = key.slices.get(start_ms)
        if found is None or found.first_end_ms <= key.clock.wm_ms:
            found = self._open(key, start_ms, reading, out)
            if found is None:
                return
        try:
            found.accumulator = self._plugin.add_input(found.accumulator, reading)
        except Exception as exc:  # noqa: BLE001 - a plugin is foreign code: count it, report it, go on
            self._add_failed(key, reading, exc, out)
            return
        found.count += 1
        if self.traces:
            span = found.sources.get(self.stream)
            if span is not None and span[1] < self.sequence_num:
                span[1] = self.sequence_num  # what `note` does for most readings
            else:
                note(found.sources, self.stream, self.sequence_num)
        if found.first_end_ms <= key.clock.wm_ms:
            for window_ms in self.grid.windows_of(start_ms):
                self._amend(key, window_ms, out)
        if self._early:
            for window_ms in self.grid.windows_of(start_ms):
                self._count_early(key, window_ms)

    def _open(self, key: GridKey, start_ms: int, reading: Reading, out: list[Emission]) -> Slice | None:
        """The slice to add a reading to, or None when all of its windows have expired."""
        starts = self.grid.windows_of(start_ms)
        if not self._open_windows(key, starts, reading, out):
            return None
        if start_ms not in key.slices:
            key.slices[start_ms] = self._new_slice(start_ms, self.grid.end_of(starts[0]))
        return key.slices[start_ms]

    def _new_slice(self, start_ms: int, first_end_ms: int) -> Slice:
        part = Slice(self._plugin.create_accumulator(), start_ms, first_end_ms)
        if self.traces:
            part.sources = {}
        return part

    def _open_windows(
        self, key: GridKey, starts: Sequence[int], reading: Reading, out: list[Emission]
    ) -> Sequence[int]:
        """The windows of a reading that have not expired, opened where they were not."""
        wm_ms = key.clock.wm_ms
        expired: list[int] = []
        if starts and self._is_expired(starts[0], wm_ms):  # the first of them ends first
            expired = [start for start in starts if self._is_expired(start, wm_ms)]
            self.border.late(key, reading, [self._bounds(start) for start in expired], out)
        kept = starts[len(expired) :]
        for start in [start for start in kept if start not in key.windows]:
            self._open_window(key, start, wm_ms)
        if not kept:
            self.counters.outside += not starts
            if self.traces and starts:
                self._blame(key, reading.time_ms, DROPPED)
            self._retire(key)
        return kept

    def _is_expired(self, start_ms: int, wm_ms: int) -> bool:
        return self.grid.end_of(start_ms) + self._lateness_ms <= wm_ms

    def _open_window(self, key: GridKey, start_ms: int, wm_ms: int) -> None:
        key.windows[start_ms] = UNFIRED
        self.counters.open_windows += 1
        if key.untold is not None:
            key.tallies[start_ms], key.untold = key.untold, None
        end_ms = self.grid.end_of(start_ms)
        self._schedule(key, end_ms if end_ms > wm_ms else end_ms + self._lateness_ms)

    # --- results ---

    def _on_timer(self, time_ms: int, key: GridKey, wm_ms: int, out: list[Emission]) -> None:
        start_ms = self.grid.start_of(time_ms)
        if key.windows.get(start_ms) == UNFIRED and self.grid.end_of(start_ms) == time_ms:
            key.windows[start_ms] = 0
            key.look_again()
            self._emit(key, start_ms, "on_time", 0, out)
            if self._lateness_ms:
                self._schedule(key, time_ms + self._lateness_ms)
        end_ms = time_ms - self._lateness_ms
        start_ms = self.grid.start_of(end_ms)
        if start_ms in key.windows and self.grid.end_of(start_ms) == end_ms:
            self._close(key, start_ms, out)

    def _emit(self, key: GridKey, start_ms: int, kind: str, revision: int, out: list[Emission]) -> None:
        bounds = self._bounds(start_ms)
        slices = [part for part in self._slices_of(key, bounds) if part.count]
        if not slices:  # the plugin failed on all that was there, or nothing is new
            return
        count = sum(part.count for part in slices)
        accumulators = [part.accumulator for part in slices]
        quality = None
        if self.traces:
            sources = joined(part.sources for part in slices)
            quality = Quality(key.tallies.get(start_ms) or new_tally(), sources)
        self.border.emit(
            key, bounds, accumulators, out, kind=kind, revision=revision, count=count, quality=quality
        )
        if self._discards:
            key.tallies.pop(start_ms, None)
            self._discard(key, start_ms, slices)

    def _discard(self, key: GridKey, start_ms: int, given: list[Slice]) -> None:
        """Forget what a window has given."""
        for part in given:
            fresh = self._new_slice(part.start_ms, part.first_end_ms)
            part.accumulator, part.count, part.sources = fresh.accumulator, 0, fresh.sources

    def _tallies_at(self, key: GridKey, time_ms: int) -> list[Tally]:
        """Return the tallies of those that have not fired."""
        held = self.grid.windows_of(self.grid.slice_of(time_ms))
        starts = [start for start in held if key.windows.get(start) == UNFIRED]
        if not starts:
            newest = max(key.windows, default=time_ms)
            starts = [newest] if newest > time_ms and key.windows[newest] == UNFIRED else []
        return [key.tally(start) for start in starts]

    def _slices_of(self, key: GridKey, bounds: Bounds) -> list[Slice]:
        """Return the slices of a key in a window, in time order."""
        return [key.slices[start] for start in sorted(key.slices) if bounds[0] <= start < bounds[1]]

    def _bounds(self, start_ms: int) -> Bounds:
        return start_ms, self.grid.end_of(start_ms)

    def _close(self, key: GridKey, start_ms: int, out: list[Emission]) -> None:
        """Forget an expired window, and the slices that no later window needs."""
        if start_ms in key.owed:
            self._correct(key, start_ms, out)
        del key.windows[start_ms]
        key.early.pop(start_ms, None)
        key.tallies.pop(start_ms, None)
        self.counters.open_windows -= 1
        self._forget_slices(key, start_ms)
        self._retire(key)

    def _forget_slices(self, key: GridKey, start_ms: int) -> None:
        for slice_ms in [one for one in key.slices if one < self.grid.next_of(start_ms)]:
            del key.slices[slice_ms]

    # --- corrections ---

    def _amend(self, key: GridKey, start_ms: int, out: list[Emission]) -> None:
        """A late reading was added: correct its window if that is closed and still kept."""
        if start_ms not in key.windows or self.grid.end_of(start_ms) > key.clock.wm_ms:
            return
        if self.traces:
            key.tally(start_ms)[LATE] += 1
        if self._owes(key):
            key.owed.add(start_ms)
        elif self._corrects:
            self._correct(key, start_ms, out)
            return
        if key.windows[start_ms] == UNFIRED:
            key.windows[start_ms] = WITHHELD

    def _correct(self, key: GridKey, start_ms: int, out: list[Emission]) -> None:
        key.owed.discard(start_ms)
        revision = key.windows[start_ms] = max(0, key.windows[start_ms]) + 1
        self._emit(key, start_ms, "correction", revision, out)

    def settle_key(self, key: GridKey, out: list[Emission]) -> None:
        for start_ms in sorted(key.owed):
            self._correct(key, start_ms, out)

    # --- early results ---

    def _count_early(self, key: GridKey, start_ms: int) -> None:
        if key.windows.get(start_ms) == UNFIRED:
            early = key.early.setdefault(start_ms, [0, 0])
            early[1] += 1
            if early[1] == self.spec.early_count:
                self._ripe.append(key)

    def _emit_ripe(self, key: GridKey, out: list[Emission]) -> None:
        most = self.spec.early_count
        self._emit_fresh(
            key, [start for start, (_, fresh) in key.early.items() if most and fresh >= most], out
        )

    def pulse_key(self, key: GridKey, out: list[Emission]) -> bool:
        due = [start for start, (_, fresh) in key.early.items() if fresh]
        self._emit_fresh(key, due, out)
        return bool(due)

    def _emit_fresh(self, key: GridKey, starts: Sequence[int], out: list[Emission]) -> None:
        for start_ms in sorted(starts):
            early = key.early[start_ms]
            if key.windows.get(start_ms) == UNFIRED:
                self._emit(key, start_ms, "early", early[0], out)
                early[0] += 1
            early[1] = 0

    # --- the checkpoint ---

    def dump_key(self, key: GridKey) -> Any:
        slices = [[start, part.accumulator, part.count] for start, part in key.slices.items()]
        early = [[start, *early] for start, early in key.early.items()]
        state = [slices, list(key.windows.items()), early]
        if self.traces:
            sources = [part.sources for part in key.slices.values()]
            return [*state, sorted(key.owed), [sources, list(key.tallies.items())]]
        return [*state, sorted(key.owed)] if key.owed else state

    def load_key(self, key: GridKey, state: Any) -> None:
        slices, windows, early, *more = state
        for start_ms, accumulator, count in slices:
            part = self._new_slice(start_ms, self.grid.end_of(self.grid.windows_of(start_ms)[0]))
            part.accumulator, part.count = accumulator, count
            key.slices[start_ms] = part
        for start_ms, revision in windows:
            key.windows[start_ms] = revision
            end_ms = self.grid.end_of(start_ms)
            self._schedule(key, end_ms if revision == UNFIRED else end_ms + self._lateness_ms)
        key.early = {start_ms: [index, fresh] for start_ms, index, fresh in early}
        key.owed.update(*more[:1])
        if self.traces and len(more) > 1:  # state from before it traced has none
            sources, tallies = more[1]
            for part, known in zip(key.slices.values(), sources, strict=True):
                part.sources = known
            key.tallies = dict(tallies)
        self.counters.open_windows += len(windows)
