"""All windows of a gateway behind one door: samples in, emissions out, and the state for the checkpoint.

One thread owns an engine. It reads no clock: `arrival_ms` and `now_ms` are processing time and come from
the caller, so that a replay gives what the live run gave.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from hashlib import blake2b
from itertools import chain
from typing import Any

import orjson

from gateway.core.events import Emission, FieldValue, Sample
from gateway.core.topics import TopicTemplate
from gateway.windows.checkpoint import Checkpoint, Restoration
from gateway.windows.counters import Counters
from gateway.windows.merged import MergedPartials
from gateway.windows.operators.calendar import CalendarOperator
from gateway.windows.operators.grid import GridOperator
from gateway.windows.operators.operator import Binding, Operator
from gateway.windows.operators.panes import PaneOperator
from gateway.windows.operators.session import SessionOperator
from gateway.windows.operators.unbounded import UnboundedOperator
from gateway.windows.plugin import CombineFn, PerField
from gateway.windows.spec import WindowSpec
from gateway.windows.watermark import SharedClock

MAX_BOUND_TOPICS = 65_536
"""Topics whose windows `process` remembers, those used last: topics come from outside."""
MAX_BOUND_TOPIC_CHARS = 256  # the same for a few long ones

TIMED_EVERY = 100
"""Messages per timed message: reading the stopwatch costs about as much as a window does."""

STATE_FIELDS = (
    *("type", "plugin", "options", "fields", "key", "route", "topic", "mode", "watermark"),
    *("size_ms", "slide_ms", "gap_ms", "offset_ms", "count", "trigger_count", "trigger_every_ms"),
)
"""Settings that a window's state depends on. A change of anything else keeps the state."""
LATER_FIELDS = ("every", "timezone", "week_starts", "merge")
"""The same of what came later: in a fingerprint only where given, so that older state still fits."""

Bound = tuple[tuple[Operator[Any], tuple[Binding[Any], ...]], ...]
"""The windows that read a topic, those that are alike together with the first of them; see
`WindowEngine.bind`."""

Chunks = Iterable[list[Emission]]
"""Emissions in parts, because one watermark may close the windows of a million keys. They are made as they
are taken: take them all before the next call."""

OPERATORS: dict[str, type[Operator[Any]]] = {
    "tumbling": GridOperator,
    "hopping": GridOperator,
    "calendar": CalendarOperator,
    "session": SessionOperator,
    "global": UnboundedOperator,
    "count": UnboundedOperator,
}


def fingerprint(spec: WindowSpec, plugin: str) -> str:
    """Changes when state made before no longer fits: other plugin code, other options, another shape."""
    shape = {name: getattr(spec, name) for name in STATE_FIELDS} | {"code": plugin}
    shape |= {name: value for name in LATER_FIELDS if (value := getattr(spec, name)) not in (None, False)}
    dump = orjson.dumps(shape, default=_plain, option=orjson.OPT_SORT_KEYS)
    return blake2b(dump, digest_size=16).hexdigest()


def _plain(value: Any) -> object:
    return dict(value) if isinstance(value, Mapping) else str(value)


class WindowEngine:
    """Runs the windows of a configuration.

    `plugins` has a plugin, already set up, for each window's name; `fingerprints` the fingerprint of its
    code (see `pipeline.plugins_loader`), so that state of other code is recognised. With a `stopwatch_ns`
    the counters show what a sample costs in each window. With `fetch`, which gives the state of a (window,
    row) as the checkpoint has it, each window keeps at most `hot_keys` keys in memory from one checkpoint to
    the next, and reads the others back when something happens to them.
    """

    def __init__(
        self,
        specs: Sequence[WindowSpec],
        plugins: Mapping[str, CombineFn],
        fingerprints: Mapping[str, str] | None = None,
        stopwatch_ns: Callable[[], int] | None = None,
        fetch: Callable[[str, bytes], bytes | None] | None = None,
        hot_keys: int = 100_000,
    ) -> None:
        self._stopwatch_ns = stopwatch_ns
        self._until_timed = TIMED_EVERY
        self._operators: dict[str, Operator[Any]] = {}
        self._checkpoints: dict[str, Checkpoint] = {}
        self._tracing: dict[str, Operator[Any]] = {}  # those that want to know sequence numbers
        self._bound: OrderedDict[tuple[str, str | None], Bound] = OrderedDict()
        self._source: str | None = None
        self._templates = {spec.name: TopicTemplate(spec.topic) for spec in specs if spec.topic is not None}
        self._plugins = plugins
        self._codes = fingerprints or {}
        self._fetch = fetch
        self._hot_keys = hot_keys
        self._orphans: set[tuple[str, bytes]] = set()
        self._due: list[Operator[Any]] = []  # with what the last message has brought to its time
        self._progressed = False
        self.unrestored: set[str] = set()
        """Windows with `on_change: replay` whose state could not be restored: see `part`."""
        for spec in specs:
            self._start(spec)

    def _start(self, spec: WindowSpec) -> Operator[Any]:
        """Put an empty window in place."""
        operator = _operator(spec, self._plugins[spec.name], self._codes.get(spec.name, ""))
        operator.due = self._due
        self._operators[spec.name] = operator
        if operator.traces:
            self._tracing[spec.name] = operator
        fetch = None if self._fetch is None else partial(self._fetch, spec.name)
        self._checkpoints[spec.name] = Checkpoint(operator, fetch, self._hot_keys)
        return operator

    @property
    def counters(self) -> Mapping[str, Counters]:
        """The numbers of each window, by name; safe to read from any thread."""
        return {name: operator.counters for name, operator in self._operators.items()}

    @property
    def operators(self) -> Mapping[str, Operator[Any]]:
        """The windows at work, by name."""
        return self._operators

    @property
    def traces(self) -> bool:
        """True if a window wants to know the sequence numbers of events."""
        return bool(self._tracing)

    @property
    def progressed(self) -> bool:
        """True if the last `advance` changed any state. The caller then takes a checkpoint with it."""
        return self._progressed

    @property
    def awaits_time(self) -> bool:
        """True if `advance` may soon produce something, though nothing is processed."""
        return any(operator.ticks.awaits_time for operator in self._operators.values())

    @property
    def crowded(self) -> bool:
        """True if so many keys were read back that some must leave the memory: `take_changes` does it, and
        may be called between any two chunks."""
        return any(checkpoint.crowded for checkpoint in self._checkpoints.values())

    def process(
        self,
        topic: str,
        route: str | None,
        levels: Mapping[str, str],
        samples: Sequence[Sample],
        arrival_ms: int,
        sequence_num: int = 0,
    ) -> Chunks:
        """Give the samples of one message to every window that reads its topic or its route. `sequence_num`
        is that of its event in its stream, where a window `traces`."""
        bound = self._bound.get((topic, route))
        if bound is None:
            bound = self._remember(topic, route, self.bind(topic, route, levels))
        else:
            self._bound.move_to_end((topic, route))
        if self._tracing:
            self.locate(topic, sequence_num)
        return self.process_bound(bound, samples, arrival_ms)

    def locate(self, topic: str, sequence_num: int) -> None:
        """Tell those that `trace` the place of the event that is processed next."""
        stream = f"{self._source}:{topic}" if self._source else topic
        for operator in self._tracing.values():
            operator.stream, operator.sequence_num = stream, sequence_num

    def process_bound(self, bound: Bound, samples: Sequence[Sample], arrival_ms: int) -> Chunks:
        """`process` for a caller that keeps what `bind` has found."""
        out: list[Emission] = []
        self._until_timed -= 1
        if not self._until_timed:
            self._until_timed = TIMED_EVERY
            return self._process_timed(bound, samples, arrival_ms, out)
        for leader, bindings in bound:
            leader.process(bindings, samples, arrival_ms, out)
        if self._due:
            return self._fire(out, _no_stopwatch)
        return (out,) if out else ()

    def process_one(
        self, bound: Bound, time_ms: int, fields: Mapping[str, FieldValue], arrival_ms: int
    ) -> Chunks:
        """`process_bound` for a message of one sample."""
        out: list[Emission] = []
        self._until_timed -= 1
        if not self._until_timed:
            self._until_timed = TIMED_EVERY
            return self._process_timed(bound, (Sample(time_ms, fields),), arrival_ms, out)
        for leader, bindings in bound:
            leader.process_one(bindings, time_ms, fields, arrival_ms, out)
        if self._due:
            return self._fire(out, _no_stopwatch)
        return (out,) if out else ()

    def _process_timed(
        self, bound: Bound, samples: Sequence[Sample], arrival_ms: int, out: list[Emission]
    ) -> Chunks:
        """Process a message with a stopwatch around each window."""
        read_ns = self._stopwatch_ns or _no_stopwatch
        for leader, bindings in bound:
            heard: list[tuple[Any, int]] = []
            for binding in bindings:
                started_ns = read_ns()
                heard = binding.operator.take(binding, samples, arrival_ms, out)
                binding.operator.counters.timed_ns += read_ns() - started_ns
                binding.operator.counters.timed_samples += len(samples)
            leader.hear_all(bindings[0].source, heard, arrival_ms)
        return self._fire(out, read_ns)

    def _fire(self, out: list[Emission], read_ns: Callable[[], int]) -> Iterator[list[Emission]]:
        """Yield what is in `out`, then what waited for the watermarks that the last message has moved."""
        due = [*self._due]
        self._due.clear()
        for operator in due:
            started_ns = read_ns()
            for _ in operator.fire(out):
                operator.counters.timed_ns += read_ns() - started_ns
                yield _taken(out)
                started_ns = read_ns()
            operator.counters.timed_ns += read_ns() - started_ns
        if out:
            yield out

    def bind(self, topic: str, route: str | None, levels: Mapping[str, str]) -> Bound:
        """Return the windows that read a topic, with what all of its samples share."""
        self._introduce()
        found: dict[Operator[Any], list[Binding[Any]]] = {}
        for name, operator in self._operators.items():
            named = self._levels(name, operator.spec, topic, route)
            if named is not None:
                binding = operator.bind(topic, {**levels, **named} if named else levels, self._source)
                found.setdefault(operator.leader or operator, []).append(binding)
        return tuple((leader, tuple(bindings)) for leader, bindings in found.items())

    def _introduce(self) -> None:
        """Let windows that are alike, and have seen the same so far, share a clock. Before they see more."""
        strangers = [one for one in self._operators.values() if one.leader is None]
        leaders: dict[object, list[Operator[Any]]] = {}
        for one in self._operators.values() if strangers else ():
            if one.leader is one:
                leaders.setdefault(one.likeness, []).append(one)
        for stranger in strangers:
            known = leaders.setdefault(stranger.likeness, [])
            if not any(stranger.join(one) for one in known):
                stranger.leader = stranger
                known.append(stranger)

    def _remember(self, topic: str, route: str | None, bound: Bound) -> Bound:
        """Keep what was found for the next message, the topics used longest ago being forgotten."""
        if len(topic) <= MAX_BOUND_TOPIC_CHARS:
            if len(self._bound) >= MAX_BOUND_TOPICS:
                self._bound.popitem(last=False)
            self._bound[topic, route] = bound
        return bound

    def _levels(self, name: str, spec: WindowSpec, topic: str, route: str | None) -> dict[str, str] | None:
        """The levels that the window itself names, or None when it does not read this topic."""
        if spec.route is not None and spec.route != route:
            return None
        template = self._templates.get(name)
        return {} if template is None else template.match(topic)

    def advance(self, now_ms: int) -> Iterator[list[Emission]]:
        """Let processing time pass: idle sources, early results, time triggers, keys to forget."""
        out: list[Emission] = []
        self._progressed = False
        for operator in self._operators.values():
            for _ in operator.ticks.advance(now_ms, out):
                yield _taken(out)
            self._progressed |= operator.ticks.progressed
        if out:
            yield out

    def resume(self, now_ms: int) -> None:
        """Call after a restart or a lost connection: silence until now was not the sources' own."""
        for operator in self._operators.values():
            operator.ticks.resume(now_ms)

    def flush(self) -> list[Emission]:
        """End of input: close every window that time can close. Nothing may be processed afterwards."""
        out: list[Emission] = []
        for operator in self._operators.values():
            part: list[Emission] = []
            operator.flush(part)
            out += sorted(part, key=_end)
        return out

    # --- the checkpoint ---

    def take_changes(self) -> list[tuple[str, bytes, bytes | None]]:
        """(window, row, state) of all state that changed since the last call; None: delete the row.

        No row comes twice.
        """
        changes: list[tuple[str, bytes, bytes | None]] = []
        for name, checkpoint in self._checkpoints.items():
            changes += [(name, row, state) for row, state in checkpoint.take_changes()]
        for clock in self._clocks():
            clock.saved()
        if self._orphans:
            self._orphans.difference_update((name, row) for name, row, _ in changes)
            changes += [(*orphan, None) for orphan in sorted(self._orphans)]
            self._orphans.clear()
        return changes

    def restore(self, rows: Iterable[tuple[str, bytes, bytes]]) -> list[str]:
        """Take over the rows of a checkpoint into a new engine; a sentence for each window that could not.

        State of windows that are gone, or whose plugin, options or shape changed, is dropped and counted, and
        its rows are deleted with the next changes; `unrestored` has those that are to be replayed.
        Afterwards `process` every event after the checkpoint again, with its first arrival time.
        """
        found: dict[str, Restoration] = {}
        for window, row, state in rows:
            if window not in found:
                found[window] = Restoration(self._checkpoints.get(window))
            found[window].add(row, state)
        return [self._give_up(window, one) for window, one in found.items() if one.finish()]

    def _give_up(self, window: str, restoration: Restoration) -> str:
        """Start a window anew and have its rows deleted; say why."""
        rows = restoration.rows()
        keys = sum(row.startswith(b"k") for row in rows)
        self._orphans.update((window, row) for row in rows)
        fate = "dropped"
        if window in self._operators:
            spec = self._operators[window].spec
            counters = self._start(spec).counters
            if spec.on_change == "replay":
                self.unrestored.add(window)
                fate = "made anew from the buffer"
            else:
                counters.state_dropped = keys
        return f"window {window}: the state of {keys} keys is {fate}: {restoration.why_not}"

    def part(self, names: Collection[str]) -> WindowEngine:
        """Return an engine with these windows alone: what it processes reaches no other. For state that is
        made anew."""
        part = copy(self)
        part._operators = {name: self._operators[name] for name in names}
        part._bound = OrderedDict()
        return part

    def seen_from(self, source: str) -> WindowEngine:
        """Return the same engine for the messages of one source: a shared watermark then waits for that
        source as a whole, not for each of its topics."""
        view = copy(self)
        view._source = source
        view._bound = OrderedDict()
        return view

    def expect(self, sources: Iterable[str], now_ms: int) -> None:
        """Let shared watermarks wait for sources that are known and have not been heard yet."""
        clocks = self._clocks()
        for name in sources:
            for clock in clocks:
                clock.revive(clock.source(name), now_ms)

    def _clocks(self) -> Collection[SharedClock]:
        """The clocks of all windows that share them among their keys, each once."""
        clocks = [one.shared for one in self._operators.values() if one.shared is not None]
        return dict.fromkeys(clocks).keys()

    def renew(self, now_ms: int) -> None:
        """Note that the state was rebuilt up to `now_ms`, so that what follows is not confused with results
        of an earlier state."""
        for operator in self._operators.values():
            operator.renew(now_ms)


def _operator(spec: WindowSpec, plugin: CombineFn, code: str) -> Operator[Any]:
    takes_all = len(spec.fields) == 1 or getattr(plugin, "takes_all_fields", False)
    applied = plugin if takes_all else PerField(plugin, spec.fields)
    if spec.merge:
        applied = MergedPartials(applied)
    overlaps = spec.type == "hopping" and (spec.slide_ms or 0) < (spec.size_ms or 0)
    kind = PaneOperator if overlaps and spec.mode == "discarding" else OPERATORS[spec.type]
    return kind(spec, applied, fingerprint(spec, code))


def gathered(chunks: Chunks) -> list[Emission]:
    """Return all chunks in one list, where there is no need to save memory."""
    return [*chain.from_iterable(chunks)]


def _taken(out: list[Emission]) -> list[Emission]:
    """Empty the list and return what was in it."""
    taken = out.copy()
    out.clear()
    return taken


def _no_stopwatch() -> int:
    return 0


def _end(emission: Emission) -> tuple[int, str, int]:
    return emission.end_ms or 0, emission.key, emission.start_ms or 0
