"""Windows without a grid: `count` fires every n readings of a key, `global` by a count and/or every so often.

Event time plays no part: there is no watermark and nothing is late. The bounds of a result are the earliest
and the latest event time inside it, both inclusive.
"""

from __future__ import annotations

from typing import Any

from gateway.core.events import Emission, Reading
from gateway.windows.operators.operator import Operator
from gateway.windows.plugin import CombineFn
from gateway.windows.plugin_runner import Key
from gateway.windows.quality import Quality, Sources, Tally, joined, new_tally, note
from gateway.windows.spec import WindowSpec


class UnboundedKey(Key):
    """`fresh` counts the readings since the last firing; `born_ms` tells two lives of one key apart."""

    __slots__ = (
        *("accumulator", "born_ms", "count", "firing", "first_ms", "fresh", "last_ms", "sources"),
        "tally",
    )

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.accumulator: Any = None
        self.born_ms = 0
        self.count = 0
        self.firing = 0
        self.fresh = 0
        self.first_ms = 0
        self.last_ms = 0
        self.sources: Sources = {}
        self.tally = new_tally()

    def window_count(self) -> int:
        return 1


class UnboundedOperator(Operator[UnboundedKey]):
    """Count and global windows."""

    uses_watermark = False

    def __init__(self, spec: WindowSpec, plugin: CombineFn, fingerprint: str) -> None:
        super().__init__(spec, plugin, fingerprint)
        self._discards = spec.type == "count" or spec.mode == "discarding"
        self._every_readings = spec.count if spec.type == "count" else spec.trigger_count

    def _new_key(self, name: str) -> UnboundedKey:
        key = UnboundedKey(name)
        key.accumulator = self._plugin.create_accumulator()
        self.counters.open_windows += 1
        return key

    def create_key(self, name: str, arrival_ms: int) -> UnboundedKey:
        key = super().create_key(name, arrival_ms)
        key.born_ms = arrival_ms
        return key

    def _place(self, key: UnboundedKey, reading: Reading, out: list[Emission]) -> None:
        try:
            key.accumulator = self._plugin.add_input(key.accumulator, reading)
        except Exception as exc:  # noqa: BLE001 - a plugin is foreign code: count it, report it, go on
            self._add_failed(key, reading, exc, out)
            return
        if self.traces:
            note(key.sources, self.stream, self.sequence_num)
        time_ms = reading.time_ms
        key.first_ms = min(key.first_ms, time_ms) if key.count else time_ms
        key.last_ms = max(key.last_ms, time_ms) if key.count else time_ms
        key.count += 1
        key.fresh += 1
        if key.fresh == self._every_readings:
            self._fire_key(key, out)

    def _fire_key(self, key: UnboundedKey, out: list[Emission]) -> None:
        """Emit what there is. An accumulating result is the next revision of the one before."""
        self.border.emit(
            key,
            (key.first_ms, key.last_ms),
            [key.accumulator],
            out,
            kind="on_time",
            revision=0 if self._discards else key.firing,
            count=key.count,
            firing=f"{key.born_ms}#{key.firing}",
            quality=Quality([*key.tally], joined((key.sources,))) if self.traces else None,
        )
        key.firing += 1
        key.fresh = 0
        if self._discards:
            key.accumulator, key.count = self._plugin.create_accumulator(), 0
            key.tally, key.sources = new_tally(), {}

    def _tallies_at(self, key: UnboundedKey, time_ms: int) -> list[Tally]:
        return [key.tally]

    def pulse_key(self, key: UnboundedKey, out: list[Emission]) -> bool:
        if not key.fresh:
            return False
        self._fire_key(key, out)
        return True

    def close_all(self, key: UnboundedKey, out: list[Emission]) -> None:
        self.pulse_key(key, out)

    def _on_timer(self, time_ms: int, key: UnboundedKey, wm_ms: int, out: list[Emission]) -> None:
        raise NotImplementedError("windows without a grid schedule nothing")

    def flush(self, out: list[Emission]) -> None:
        """The end of time: a global window gives what is new, an unfilled count window stays pending."""
        for key in self.keys.each() if self.spec.type == "global" else ():
            self.pulse_key(key, out)

    def renew(self, now_ms: int) -> None:
        for key in self.keys.each():
            key.born_ms = now_ms

    def dump_key(self, key: UnboundedKey) -> Any:
        numbers = [key.born_ms, key.count, key.firing, key.fresh, key.first_ms, key.last_ms]
        return [key.accumulator, *numbers, *([key.tally, key.sources] if self.traces else ())]

    def load_key(self, key: UnboundedKey, state: Any) -> None:
        key.accumulator, key.born_ms, key.count, key.firing, key.fresh, key.first_ms, key.last_ms = state[:7]
        if self.traces and len(state) > 7:  # state from before it traced has none
            key.tally, key.sources = state[7:]
