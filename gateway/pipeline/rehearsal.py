"""Compares two configurations over the same past: `gateway replay --what-if`, and what `gateway apply` shows.

Both run side by side, message by message. Of each window the last result counts, after its corrections, so a
configuration that sends a value later but the same has not changed it. Memory grows with the results, and not
with the messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from gateway.core.events import Emission
from gateway.decode.routes import RouteTable
from gateway.pipeline.lateness import Lateness, watch
from gateway.pipeline.limits import Limits, watch_limits
from gateway.pipeline.replay import Recorded, Replay
from gateway.windows.counters import Counters
from gateway.windows.emission import emission_json
from gateway.windows.engine import WindowEngine

LARGEST = 10
"""Changes of a window that are shown."""

Fields = dict[str, object]


class Final(NamedTuple):
    """The last result of a window and key; `result` as JSON, which takes less memory."""

    key: str
    start_ms: int | None
    end_ms: int | None
    count: int  # type: ignore[assignment] # hides tuple.count, which nobody needs
    result: bytes


@dataclass
class WindowSide:
    """One window under one configuration. `messages` and `size_bytes` are those that it sends."""

    finals: dict[str, Final] = field(default_factory=dict)
    messages: int = 0
    size_bytes: int = 0
    raised: int = 0
    """Alarms that it raises."""

    def take(self, emission: Emission) -> None:
        """Count one emission."""
        self.messages += 1
        self.size_bytes += len(emission_json(emission))
        if emission.kind in ("dropped", "early"):
            return
        result = emission.result
        if isinstance(result, dict) and result.get("alert") == "raised" and not result.get("repeated"):
            self.raised += 1
        series = emission.identity.rpartition("\x1f")[0]
        for start_ms, end_ms in emission.replaces:
            self.finals.pop(
                "\x1f".join((emission.window, emission.key, f"{start_ms}/{end_ms}", "final")), None
            )
        self.finals[series] = Final(
            emission.key, emission.start_ms, emission.end_ms, emission.count, orjson.dumps(result)
        )


class Side:
    """A configuration at work."""

    def __init__(self, routes: RouteTable, engine: WindowEngine) -> None:
        self.engine = engine
        self.replay = Replay(routes, engine)
        self.windows = {name: WindowSide() for name in engine.counters}

    def feed(self, event: Recorded) -> None:
        """Let one message pass."""
        self._take(self.replay.feed(event))

    def finish(self) -> None:
        """Close what is open."""
        self._take(self.replay.finish())

    def _take(self, emissions: Iterable[Emission]) -> None:
        for one in emissions:
            self.windows[one.window].take(one)


class ResultChange(NamedTuple):
    """A result that differs, and the value in it that changed most: `name`, from `old` to `new`.

    `size` is its relative change: 1 for what is no number, 0 where only the number of readings differs.
    """

    before: Final
    after: Final
    size: float
    name: str
    old: Any
    new: Any

    def fields(self) -> Fields:
        """Return it as plain values, for JSON."""
        before, after = self.before, self.after
        return {
            "key": after.key,
            "start_ms": after.start_ms,
            "end_ms": after.end_ms,
            "size": self.size,
            "value": self.name,
            "count": [before.count, after.count],
            "result": [orjson.Fragment(before.result), orjson.Fragment(after.result)],
        }


@dataclass(frozen=True)
class WindowDifference:
    """Effect of a change of the configuration on one window."""

    window: str
    added: int
    gone: int
    changed: int
    largest: list[ResultChange]
    numbers: Mapping[str, tuple[int, int]]
    """Before and after, by what is counted."""
    lateness: Lateness | None = None
    limits: Limits | None = None
    is_new: bool = False
    is_gone: bool = False

    def fields(self) -> Fields:
        """Return it as plain values, for JSON."""
        found: Fields = {
            "window": self.window,
            "added": self.added,
            "gone": self.gone,
            "changed": self.changed,
            "largest": [one.fields() for one in self.largest],
            **{name: {"before": old, "after": new} for name, (old, new) in self.numbers.items()},
        }
        if self.lateness is not None and self.lateness.readings:
            found["advice"] = self.lateness.fields()
        if self.limits is not None and self.limits.values:
            found["limit_advice"] = self.limits.fields()
        return found

    @property
    def differs(self) -> bool:
        """True if anything is not as before."""
        return bool(self.added or self.gone or self.changed) or any(
            old != new for old, new in self.numbers.values()
        )


class Rehearsal:
    """Two configurations over one past."""

    def __init__(self, before: Side, after: Side) -> None:
        self.messages = 0
        self._before = before
        self._after = after
        self._lateness = watch(after.engine)
        self._limits = watch_limits(after.engine)

    def feed(self, event: Recorded) -> None:
        """Let one message pass through both."""
        self.messages += 1
        self._before.feed(event)
        self._after.feed(event)

    @property
    def decoded(self) -> tuple[int, int]:
        """Messages that a route took and could decode, before and after."""
        before, after = (
            one.replay.events - one.replay.unrouted - one.replay.undecoded
            for one in (self._before, self._after)
        )
        return before, after

    def finish(self, *, flush: bool = True) -> list[WindowDifference]:
        """Return the differences of all windows: those that are new first, then as in the file."""
        if flush:
            self._before.finish()
            self._after.finish()
        names = [
            *self._after.windows,
            *(name for name in self._before.windows if name not in self._after.windows),
        ]
        return [self._difference(name) for name in names]

    def _difference(self, name: str) -> WindowDifference:
        before, after = self._before.windows.get(name), self._after.windows.get(name)
        old, new = (WindowSide() if side is None else side for side in (before, after))
        changes = [*_changes(old.finals, new.finals)]
        changes.sort(key=lambda one: (-one.size, one.after.key, one.after.start_ms or 0))
        counters = [side.engine.counters.get(name, Counters()) for side in (self._before, self._after)]
        errors = [one.plugin_errors + one.skipped for one in counters]
        numbers = {
            "results": (len(old.finals), len(new.finals)),
            "readings": (counters[0].events, counters[1].events),
            "dropped_readings": (counters[0].late_dropped, counters[1].late_dropped),
            "plugin_errors": (errors[0], errors[1]),
            "corrections": (counters[0].corrections, counters[1].corrections),
            "alarms": (old.raised, new.raised),
            "messages": (old.messages, new.messages),
            "bytes": (old.size_bytes, new.size_bytes),
        }
        added, gone = len(new.finals.keys() - old.finals.keys()), len(old.finals.keys() - new.finals.keys())
        advice = self._lateness.get(name), self._limits.get(name)
        largest, is_new, is_gone = changes[:LARGEST], before is None, after is None
        return WindowDifference(
            *(name, added, gone, len(changes), largest, numbers, *advice), is_new=is_new, is_gone=is_gone
        )


def _changes(before: Mapping[str, Final], after: Mapping[str, Final]) -> Iterator[ResultChange]:
    for series, new in after.items():
        old = before.get(series)
        if old is not None and (old.result, old.count) != (new.result, new.count):
            yield ResultChange(old, new, *_largest(orjson.loads(old.result), orjson.loads(new.result)))


def _largest(old: Any, new: Any, name: str = "") -> tuple[float, str, Any, Any]:
    """Return the largest relative change in two JSON values, with its name and both values."""
    pairs: Iterable[tuple[object, Any, Any]] = ()
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(each, old.get(each), new.get(each)) for each in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(at, *pair) for at, pair in enumerate(zip(old, new, strict=True))]
    if pairs:
        parts = (_largest(a, b, f"{name}.{each}" if name else str(each)) for each, a, b in pairs)
        return max(parts, key=lambda part: part[0])
    return _relative(old, new), name, old, new


def _relative(old: Any, new: Any) -> float:
    if old == new:
        return 0.0
    if all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in (old, new)):
        return float(abs(new - old) / max(abs(old), abs(new)))
    return 1.0
