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

from typing import Any

from gateway.core.errors import ConfigError
from gateway.core.events import Emission, Reading
from gateway.windows.emission import Bounds
from gateway.windows.operators.operator import Operator
from gateway.windows.plugin import Accumulator, CombineFn
from gateway.windows.plugin_runner import Key
from gateway.windows.spec import WindowSpec

UNFIRED = -1


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


class Slice:
    """What one key has in one slice. `first_end_ms` is when the first window that contains it closes."""

    __slots__ = ("accumulator", "count", "first_end_ms")

    def __init__(self, accumulator: Accumulator, count: int, first_end_ms: int) -> None:
        self.accumulator = accumulator
        self.count = count
        self.first_end_ms = first_end_ms


class GridKey(Key):
    """`windows` maps the start of each window that is kept to its last revision, or UNFIRED."""

    __slots__ = ("early", "slices", "windows")

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.slices: dict[int, Slice] = {}
        self.windows: dict[int, int] = {}
        self.early: dict[int, list[int]] = {}  # start -> [early results so far, readings since the last one]

    def window_count(self) -> int:
        return len(self.windows)


class GridOperator(Operator[GridKey]):
    """Tumbling and hopping windows."""

    def __init__(self, spec: WindowSpec, plugin: CombineFn, fingerprint: str) -> None:
        super().__init__(spec, plugin, fingerprint)
        size_ms = spec.size_ms or 0
        slide_ms = size_ms if spec.type == "tumbling" else spec.slide_ms or size_ms
        self.grid = Grid(size_ms, slide_ms, spec.offset_ms)
        # Looked up for every reading: an attribute less, and no call where slices begin with the slides.
        self._slide_ms, self._offset_ms, self._is_cut = slide_ms, spec.offset_ms, self.grid.cut_ms > 0
        self._discards = spec.mode == "discarding"
        if self._discards and slide_ms < size_ms:
            raise ConfigError(f"window {spec.name!r}: mode discarding does not go with overlapping windows")
        self._lateness_ms = spec.allowed_lateness_ms

    def _new_key(self, name: str) -> GridKey:
        return GridKey(name)

    # --- readings ---

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
            self.border.add_failed(key, reading, exc, out)
            return
        found.count += 1
        if found.first_end_ms <= key.clock.wm_ms:
            self._correct(key, start_ms, out)
        if self._early:
            self._count_early(key, start_ms, out)

    def _open(self, key: GridKey, start_ms: int, reading: Reading, out: list[Emission]) -> Slice | None:
        """The slice to add a reading to, or None when all of its windows have expired."""
        starts = self.grid.windows_of(start_ms)
        wm_ms = key.clock.wm_ms
        expired = [start for start in starts if start + self.grid.size_ms + self._lateness_ms <= wm_ms]
        if expired:
            self.border.late(key, reading, [self._bounds(start) for start in expired], out)
        for start in starts[len(expired) :]:
            if start not in key.windows:
                self._open_window(key, start, wm_ms)
        if len(expired) == len(starts):
            self.counters.outside += not starts
            self._retire(key)
            return None
        if start_ms not in key.slices:
            first_end_ms = starts[0] + self.grid.size_ms
            key.slices[start_ms] = Slice(self._plugin.create_accumulator(), 0, first_end_ms)
        return key.slices[start_ms]

    def _open_window(self, key: GridKey, start_ms: int, wm_ms: int) -> None:
        key.windows[start_ms] = UNFIRED
        self.counters.open_windows += 1
        end_ms = start_ms + self.grid.size_ms
        self._schedule(key, end_ms if end_ms > wm_ms else end_ms + self._lateness_ms)

    def _correct(self, key: GridKey, slice_ms: int, out: list[Emission]) -> None:
        """Emit a correction of each window of a slice that has fired, or should have, and is still kept."""
        for start_ms in self.grid.windows_of(slice_ms):
            if start_ms in key.windows and start_ms + self.grid.size_ms <= key.clock.wm_ms:
                revision = key.windows[start_ms] = max(0, key.windows[start_ms]) + 1
                self._emit(key, start_ms, "correction", revision, out)

    # --- results ---

    def _on_timer(self, time_ms: int, key: GridKey, wm_ms: int, out: list[Emission]) -> None:
        start_ms = time_ms - self.grid.size_ms
        if key.windows.get(start_ms) == UNFIRED:
            key.windows[start_ms] = 0
            self._emit(key, start_ms, "on_time", 0, out)
            if self._lateness_ms:
                self._schedule(key, time_ms + self._lateness_ms)
        if start_ms - self._lateness_ms in key.windows:
            self._close(key, start_ms - self._lateness_ms)

    def _emit(self, key: GridKey, start_ms: int, kind: str, revision: int, out: list[Emission]) -> None:
        bounds = self._bounds(start_ms)
        inside = [start for start in sorted(key.slices) if bounds[0] <= start < bounds[1]]
        slices = [key.slices[start] for start in inside if key.slices[start].count]
        if not slices:  # the plugin failed on all that was there
            return
        count = sum(part.count for part in slices)
        accumulators = [part.accumulator for part in slices]
        self.border.emit(key, bounds, accumulators, out, kind=kind, revision=revision, count=count)
        if self._discards:
            self._discard(slices)

    def _discard(self, slices: list[Slice]) -> None:
        for part in slices:
            part.accumulator, part.count = self._plugin.create_accumulator(), 0

    def _bounds(self, start_ms: int) -> Bounds:
        return start_ms, start_ms + self.grid.size_ms

    def _close(self, key: GridKey, start_ms: int) -> None:
        """Forget an expired window, and the slices that no later window needs."""
        del key.windows[start_ms]
        key.early.pop(start_ms, None)
        self.counters.open_windows -= 1
        for slice_ms in [one for one in key.slices if one < start_ms + self.grid.slide_ms]:
            del key.slices[slice_ms]
        self._retire(key)

    # --- early results ---

    def _count_early(self, key: GridKey, slice_ms: int, out: list[Emission]) -> None:
        for start_ms in self.grid.windows_of(slice_ms):
            if key.windows.get(start_ms) == UNFIRED:
                early = key.early.setdefault(start_ms, [0, 0])
                early[1] += 1
                if early[1] == self.spec.early_count:
                    self._emit_early(key, start_ms, early, out)

    def _emit_early(self, key: GridKey, start_ms: int, early: list[int], out: list[Emission]) -> None:
        self._emit(key, start_ms, "early", early[0], out)
        early[0] += 1
        early[1] = 0

    def pulse_key(self, key: GridKey, out: list[Emission]) -> bool:
        due = [(start, early) for start, early in sorted(key.early.items()) if early[1]]
        for start_ms, early in due:
            if key.windows.get(start_ms) == UNFIRED:
                self._emit_early(key, start_ms, early, out)
        return bool(due)

    # --- the checkpoint ---

    def dump_key(self, key: GridKey) -> Any:
        slices = [[start, part.accumulator, part.count] for start, part in key.slices.items()]
        return [slices, list(key.windows.items()), [[start, *early] for start, early in key.early.items()]]

    def load_key(self, key: GridKey, state: Any) -> None:
        slices, windows, early = state
        for start_ms, accumulator, count in slices:
            first_end_ms = self.grid.windows_of(start_ms)[0] + self.grid.size_ms
            key.slices[start_ms] = Slice(accumulator, count, first_end_ms)
        for start_ms, revision in windows:
            key.windows[start_ms] = revision
            end_ms = start_ms + self.grid.size_ms
            self._schedule(key, end_ms if revision == UNFIRED else end_ms + self._lateness_ms)
        key.early = {start_ms: [index, fresh] for start_ms, index, fresh in early}
        self.counters.open_windows += len(windows)
