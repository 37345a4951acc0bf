"""Overlapping windows that give only what is new (`accumulation: discarding`).

Until a window gives something, all of its readings are new: it shares slices with the others, as windows
that accumulate do. What is new after that differs between windows: from then on each has a pane of its own.
"""

from __future__ import annotations

import marshal
from typing import Any, cast

from gateway.core.events import Emission, Reading
from gateway.windows.emission import Bounds
from gateway.windows.operators.grid import GridKey, GridOperator, Slice
from gateway.windows.quality import note
from gateway.windows.watermark import NEVER


class PaneKey(GridKey):
    """`panes` has what a window has not given yet, by its start, for each that has given something."""

    __slots__ = ("panes",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.panes: dict[int, Slice] = {}


class PaneOperator(GridOperator):
    """Hopping windows that discard."""

    def _new_key(self, name: str) -> PaneKey:
        return PaneKey(name)

    def _place(self, key: GridKey, reading: Reading, out: list[Emission]) -> None:
        slice_ms = self.grid.slice_of(reading.time_ms)
        starts = self._open_windows(key, self.grid.windows_of(slice_ms), reading, out)
        panes = _panes(key)
        parts = [panes[start_ms] for start_ms in starts if start_ms in panes]
        if len(parts) < len(starts):
            parts.append(self._shared(key, slice_ms))
        try:
            self._add(parts, reading)
        except Exception as exc:  # noqa: BLE001 - a plugin is foreign code: count it, report it, go on
            self._add_failed(key, reading, exc, out)
            return
        for part in parts:
            part.count += 1
            if self.traces:
                note(part.sources, self.stream, self.sequence_num)
        for start_ms in starts:
            self._amend(key, start_ms, out)
            if self._early:
                self._count_early(key, start_ms)

    def _shared(self, key: GridKey, slice_ms: int) -> Slice:
        part = key.slices.get(slice_ms)
        if part is None:
            part = key.slices[slice_ms] = self._new_slice(slice_ms, self._first_end_ms(key, slice_ms))
        return part

    def _first_end_ms(self, key: GridKey, slice_ms: int) -> int:
        """The end of the first window that contains the slice; NEVER where one has a pane already, so that
        no reading goes the short way past it."""
        starts, panes = self.grid.windows_of(slice_ms), _panes(key)
        return NEVER if any(start_ms in panes for start_ms in starts) else self.grid.end_of(starts[0])

    def _add(self, parts: list[Slice], reading: Reading) -> None:
        """Add the reading to all parts or to none: plugins change accumulators in place, so a change may have
        to be undone."""
        before: list[bytes] = []
        try:
            for part in parts:
                if part is not parts[-1]:
                    before.append(marshal.dumps(part.accumulator))
                part.accumulator = self._plugin.add_input(part.accumulator, reading)
        except BaseException:
            for part, kept in zip(parts, before, strict=False):
                part.accumulator = marshal.loads(kept)  # noqa: S302 - dumped above
            raise

    def _discard(self, key: GridKey, start_ms: int, given: list[Slice]) -> None:
        _panes(key)[start_ms] = self._new_slice(start_ms, self.grid.end_of(start_ms))

    def _slices_of(self, key: GridKey, bounds: Bounds) -> list[Slice]:
        pane = _panes(key).get(bounds[0])
        return super()._slices_of(key, bounds) if pane is None else [pane]

    def _forget_slices(self, key: GridKey, start_ms: int) -> None:
        _panes(key).pop(start_ms, None)
        super()._forget_slices(key, start_ms)

    # --- the checkpoint ---

    def dump_key(self, key: GridKey) -> Any:
        panes = [[start, part.accumulator, part.count, part.sources] for start, part in _panes(key).items()]
        return {"panes": panes, "shared": super().dump_key(key)}

    def load_key(self, key: GridKey, state: Any) -> None:
        panes = _panes(key)
        if isinstance(state, list):  # as written when each window had a pane from the start
            super().load_key(key, state)
            panes.update(key.slices)
            key.slices.clear()
            return
        super().load_key(key, state["shared"])
        for start_ms, accumulator, count, sources in state["panes"]:
            pane = panes[start_ms] = self._new_slice(start_ms, self.grid.end_of(start_ms))
            pane.accumulator, pane.count, pane.sources = accumulator, count, sources
        for slice_ms, part in key.slices.items():
            part.first_end_ms = self._first_end_ms(key, slice_ms)


def _panes(key: GridKey) -> dict[int, Slice]:
    return cast(PaneKey, key).panes
