"""Windows that are alike share a clock, and each gives what it gives alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.core.events import Emission, Reading, Sample
from gateway.windows.engine import WindowEngine, gathered
from gateway.windows.plugin import CombineFn
from gateway.windows.spec import WindowSpec
from tests.support.windowing import Timeline, shipped, spec

BAD = 13.0

readings = st.tuples(
    st.sampled_from(["one", "one", "message"]),
    st.integers(0, 3),
    st.integers(-25, 10),
    st.integers(0, 4),
    st.sampled_from([1.0, 1.0, 2, BAD, None]),
)
ticks = st.tuples(st.just("tick"), st.just(0), st.just(0), st.integers(1, 30), st.none())
crashes = st.tuples(st.just("crash"), st.just(0), st.just(0), st.just(0), st.none())
scripts = st.lists(st.one_of(readings, readings, readings, readings, ticks, crashes), max_size=50)
specs = st.builds(
    lambda size, slide, lag, late, idle, skew, learns: spec(
        type="hopping", size_ms=size, slide_ms=min(slide, size), out_of_orderness_ms=lag, key="{key}",
        allowed_lateness_ms=late, idle_timeout_ms=idle, idle_learns=learns, max_future_skew_ms=skew,
    ),
    st.sampled_from([10, 25]), st.sampled_from([5, 10, 25]), st.sampled_from([0, 3, 20]),
    st.sampled_from([0, 8]), st.sampled_from([None, 12]), st.sampled_from([None, 6]), st.booleans(),
)  # fmt: skip


class Picky:
    """Sums, and refuses one value."""

    def create_accumulator(self) -> float:
        return 0.0

    def add_input(self, accumulator: float, reading: Reading) -> float:
        if reading.value == BAD:
            raise ValueError("bad")
        return accumulator + reading.value

    def merge_accumulators(self, accumulators: Sequence[float]) -> float:
        return sum(accumulators)

    def extract_output(self, accumulator: float) -> float:
        return accumulator


def plugin_of(window: WindowSpec) -> CombineFn:
    return Picky() if window.name == "picky" else shipped("stats")


def variants(window: WindowSpec) -> list[WindowSpec]:
    """Windows that are alike, though each does something else with its readings; the last two are not."""
    return [
        replace(window, name="plain"),
        replace(window, name="picky"),
        replace(window, name="early", early_count=2),
        replace(window, name="traced", quality=True),
        replace(window, name="forgetful", ttl_ms=40),
        replace(window, name="quiet", corrections="off"),
        replace(window, name="fresh", mode="discarding"),
        replace(window, name="long", size_ms=50),
    ]


class Played:
    """An engine that plays a script."""

    def __init__(self, windows: Sequence[WindowSpec]) -> None:
        self._windows = windows
        self._rows: dict[tuple[str, bytes], bytes] = {}
        self._now_ms = 1_000
        self.engine = self._new()

    def _new(self) -> WindowEngine:
        return WindowEngine(self._windows, {one.name: plugin_of(one) for one in self._windows})

    def step(self, kind: str, source: int, offset_ms: int, passed_ms: int, value: Any) -> list[Emission]:
        self._now_ms += passed_ms
        if kind == "tick":
            return gathered(self.engine.advance(self._now_ms))
        if kind == "crash":
            self.checkpoint()
            self.engine = self._new()
            assert self.engine.restore([(*at, state) for at, state in self._rows.items()]) == []
            self.engine.resume(self._now_ms)
            return []
        topic, time_ms = f"t/{source}", self._now_ms + offset_ms
        bound = self.engine.bind(topic, None, {"key": f"k{source // 2}"})
        self.engine.locate(topic, self._now_ms)
        if kind == "one":
            return gathered(self.engine.process_one(bound, time_ms, {"value": value}, self._now_ms))
        samples = [Sample(time_ms, {"value": value}), Sample(time_ms + 7, {"value": 1.0})]
        return gathered(self.engine.process_bound(bound, samples, self._now_ms))

    def checkpoint(self) -> None:
        for window, row, state in self.engine.take_changes():
            if state is None:
                self._rows.pop((window, row), None)
            else:
                self._rows[window, row] = state

    def rows(self, window: str) -> dict[bytes, bytes]:
        return {row: state for (name, row), state in self._rows.items() if name == window}


def of_window(emissions: Sequence[Emission], window: str) -> list[Emission]:
    return [one for one in emissions if one.window == window]


@given(specs, scripts)
def test_each_of_several_windows_gives_what_it_gives_alone(window: WindowSpec, script: list[Any]) -> None:
    windows = variants(window)
    together = Played(windows)
    alone = {one.name: Played([one]) for one in windows}
    for step in script:
        found = together.step(*step)
        for name, played in alone.items():
            assert of_window(found, name) == played.step(*step), name
    together.checkpoint()
    found = together.engine.flush()
    for name, played in alone.items():
        played.checkpoint()
        counters = played.engine.counters[name]
        assume(not counters.skipped)  # a plugin that rests opens no windows: nothing waits there for the time
        assert together.rows(name) == played.rows(name)
        assert of_window(found, name) == played.engine.flush()
        assert together.engine.counters[name] == counters


def test_windows_that_are_alike_share_a_clock() -> None:
    windows = variants(spec(size_ms=10, key="{key}"))
    engine = Played(windows).engine
    ((leader, bindings), *others) = engine.bind("t", None, {"key": "k"})
    assert [one.operator.spec.name for one in bindings] == [one.name for one in windows[:-1]]
    assert {one.operator.shared for one in bindings} == {leader.shared}
    assert [one.spec.name for one, _ in others] == ["long"]


def test_a_window_that_is_added_later_has_a_clock_of_its_own() -> None:
    first, second = (replace(spec(size_ms=10, key="{key}"), name=name) for name in ("w", "x"))
    run = Timeline(first)
    run.event(25)
    rows = [(name, row, state) for name, row, state in run.engine.take_changes() if state is not None]
    engine = WindowEngine([first, second], {"w": shipped("stats"), "x": shipped("stats")})
    assert engine.restore(rows) == []
    bound = engine.bind("t/s", None, {"key": "k"})
    assert len(bound) == 2
    found = gathered(engine.process_one(bound, 12, {"value": 1.0}, 30))
    assert [(one.window, one.kind) for one in found] == [("w", "dropped")], "for x it is the first reading"
