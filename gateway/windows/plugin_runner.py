"""Border to a plugin: whatever it does here is counted and reported, and never stops the window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import orjson

from gateway.core.events import Emission, Reading
from gateway.core.packed_json import packed
from gateway.windows.computed import Computed
from gateway.windows.counters import Counters
from gateway.windows.emission import Bounds, identity
from gateway.windows.plugin import Accumulator, CombineFn
from gateway.windows.quality import Quality, Tally
from gateway.windows.watermark import NEVER

BREAKER_FAILURES = 5
"""Failures in a row after which a plugin is not called for a key for a while."""
BREAKER_PAUSE_MS = 60_000

ERROR_CHARS = 500
"""An exception's text may hold a whole payload; a report needs its beginning."""


_NOTHING = b"null"
_new_emission: Callable[[tuple[Any, ...]], Emission] = partial(tuple.__new__, Emission)
"""The same as Emission(...), in a third of the time."""


class Key:
    """A key of a window: its clock, and its plugin's record. Subclasses add the windows' state."""

    __slots__ = (
        *("blocked_until_ms", "carry", "clock", "dirty", "failures", "gone", "heard_ms", "name"),
        *("settle_ms", "untold"),
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.clock: Any = None
        self.dirty = False
        self.gone = False
        self.carry: Any = None
        self.failures = 0
        self.blocked_until_ms = NEVER
        self.heard_ms = 0  # kept up only where the window has a ttl
        self.settle_ms: int | None = None  # when the corrections that it owes are due
        self.untold: Tally | None = None  # of readings that no window has; the next one that opens tells it

    def saved(self) -> None:
        """The checkpoint has the key's state."""
        self.dirty = False
        self.look_again()

    def look_again(self) -> None:
        """Note that something about the key has changed that a short way for readings must not miss."""

    def window_count(self) -> int:
        """Return the number of windows that the key keeps."""
        return 0


class PluginRunner:
    """Builds the emissions of one window out of what its plugin returns or raises."""

    def __init__(
        self,
        window: str,
        plugin: CombineFn,
        counters: Counters,
        computed: Computed | None = None,
        *,
        partial: bool = False,
        unit: object = None,
    ) -> None:
        self._computed = computed
        self._partial = partial
        self._unit = unit
        self.drops = 0  # makes the identity of each dropped reading a different one
        self.plugin = plugin
        self._window = window
        self._counters = counters
        self._extract_between: Callable[..., Any] | None = getattr(plugin, "extract_between", None)
        self._count_of: Callable[[Any], int] | None = getattr(plugin, "count_of", None)
        self._unit_of: Callable[[Any], object] | None = getattr(plugin, "unit_of", None)
        self._partial_of: Callable[[Any], Any] = getattr(plugin, "partial_of", _itself)
        self._quality_of: Callable[[Any, Quality], Quality] = getattr(plugin, "quality_of", _as_it_is)
        self._report: Callable[[Any, Any], tuple[Any, Any]] | None = getattr(plugin, "report", None)
        self._observer: Callable[[str, Any], object] | None = None

    def emit(
        self,
        key: Key,
        bounds: Bounds,
        accumulators: Sequence[Accumulator],
        out: list[Emission],
        *,
        kind: str,
        revision: int,
        count: int,
        replaces: Sequence[Bounds] = (),
        firing: str = "",
        quality: Quality | None = None,
    ) -> None:
        """Emit the plugin's output for accumulators in time order, unless it has nothing to say or fails.

        `firing` tells results apart whose bounds do not: those of windows without a grid.
        """
        part = told = None
        try:
            whole = self._whole(accumulators)
            output, encoded = self._output(kind, key, whole, bounds)
            if self._partial:
                part = packed(self._partial_of(whole))
            if self._count_of is not None:
                count = self._count_of(whole)
            unit = self._unit if self._unit_of is None else self._unit_of(whole)
            if quality is not None:
                told = self._quality_of(whole, quality).fields(count)
        except Exception as exc:  # noqa: BLE001 - a plugin is foreign code: count it, report it, go on
            self.failed(key, exc, bounds[1], {"bounds": list(bounds), "count": count}, out)
            return
        if output is None and part is None:
            self._counters.held_back += 1
            return
        self._counters.emitted += 1
        self._counters.corrections += kind == "correction"
        self._counters.early += kind == "early"
        start_ms, end_ms = bounds
        name = identity(self._window, key.name, firing or f"{start_ms}/{end_ms}", kind, revision)
        # fmt: off
        out.append(_new_emission((
            self._window, key.name, kind, start_ms, end_ms, revision, count, output, tuple(replaces), name,
            end_ms, "", part, told, unit, encoded,
        )))
        # fmt: on

    def observe_outputs(self, observer: Callable[[str, Any], object]) -> None:
        """Call `observer(key, output)` before each report of the plugin. It is for rehearsals."""
        self._observer = observer

    def _whole(self, accumulators: Sequence[Accumulator]) -> Accumulator:
        return accumulators[0] if len(accumulators) == 1 else self.plugin.merge_accumulators(accumulators)

    def _output(self, kind: str, key: Key, whole: Accumulator, bounds: Bounds) -> tuple[Any, bytes]:
        """The result, and the same as JSON: what is no JSON has to be noticed here, where it concerns one key
        only."""
        if self._extract_between is None or kind == "early":
            output = self.plugin.extract_output(whole)
        else:
            output = self._extract_between(whole, *bounds)
        if self._computed is not None:
            output = self._computed.add_to(output)
        if self._report is not None:
            if kind != "on_time":
                return None, _NOTHING
            if self._observer is not None:
                self._observer(key.name, output)
            carry, output = self._report(key.carry, output)
            orjson.dumps(carry)
            key.carry = carry
        return output, orjson.dumps(output)

    def late(self, key: Key, reading: Reading, windows: Sequence[Bounds], out: list[Emission]) -> None:
        """Report a reading that came too late for `windows`."""
        self._counters.late_dropped += 1
        what = {"topic": reading.topic, "value": reading.value, "windows": [list(one) for one in windows]}
        self._drop(key.name, reading.time_ms, "late", what, out)

    def add_failed(self, key: Key, reading: Reading, exc: Exception, out: list[Emission]) -> None:
        """Report a reading that the plugin failed on."""
        self.failed(key, exc, reading.time_ms, {"topic": reading.topic, "value": reading.value}, out)

    def failed(
        self, key: Key, exc: Exception, time_ms: int, what: Mapping[str, object], out: list[Emission]
    ) -> None:
        """Report any failure of the plugin, and count it against the key."""
        self._counters.plugin_errors += 1
        key.failures += 1
        key.look_again()
        error = f"{type(exc).__name__}: {exc}"[:ERROR_CHARS]
        self._drop(key.name, time_ms, "plugin_error", {**what, "error": error}, out)

    def _drop(
        self, key: str, time_ms: int, reason: str, what: Mapping[str, object], out: list[Emission]
    ) -> None:
        self.drops += 1
        name = identity(self._window, key, f"{reason} {self.drops}", "dropped", 0)
        out.append(Emission(self._window, key, "dropped", None, None, 0, 0, what, (), name, time_ms, reason))


def _itself(accumulator: Accumulator) -> Accumulator:
    return accumulator


def _as_it_is(_accumulator: Accumulator, quality: Quality) -> Quality:
    return quality
