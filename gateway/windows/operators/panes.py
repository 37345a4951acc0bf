"""Overlapping windows that give only what is new (`accumulation: discarding`).

What is new differs between windows that overlap, so they cannot share slices: each has readings of its own.
"""

from __future__ import annotations

import marshal

from gateway.core.events import Emission, Reading
from gateway.windows.emission import Bounds
from gateway.windows.operators.grid import GridKey, GridOperator, Slice
from gateway.windows.quality import note


class PaneOperator(GridOperator):
    """Hopping windows that discard: `slices` has what each window has not given yet, by its start."""

    def _place(self, key: GridKey, reading: Reading, out: list[Emission]) -> None:
        starts = self.grid.windows_of(self.grid.slice_of(reading.time_ms))
        starts = self._open_windows(key, starts, reading, out)
        try:
            self._add([self._pane(key, start_ms) for start_ms in starts], reading)
        except Exception as exc:  # noqa: BLE001 - a plugin is foreign code: count it, report it, go on
            self._add_failed(key, reading, exc, out)
            return
        for start_ms in starts:
            key.slices[start_ms].count += 1
            if self.traces:
                note(key.slices[start_ms].sources, self.stream, self.sequence_num)
            self._amend(key, start_ms, out)
            if self._early:
                self._count_early(key, start_ms)

    def _pane(self, key: GridKey, start_ms: int) -> Slice:
        pane = key.slices.get(start_ms)
        if pane is None:
            pane = key.slices[start_ms] = self._new_slice(self.grid.end_of(start_ms))
        return pane

    def _add(self, panes: list[Slice], reading: Reading) -> None:
        """Add the reading to all panes or to none: plugins change accumulators in place, so a change may have
        to be undone."""
        before: list[bytes] = []
        try:
            for pane in panes:
                if pane is not panes[-1]:
                    before.append(marshal.dumps(pane.accumulator))
                pane.accumulator = self._plugin.add_input(pane.accumulator, reading)
        except BaseException:
            for pane, kept in zip(panes, before, strict=False):
                pane.accumulator = marshal.loads(kept)  # noqa: S302 - dumped above
            raise

    def _slices_of(self, key: GridKey, bounds: Bounds) -> list[Slice]:
        return [key.slices[bounds[0]]] if bounds[0] in key.slices else []

    def _forget_slices(self, key: GridKey, start_ms: int) -> None:
        key.slices.pop(start_ms, None)
