"""A shared watermark that is worked out late decides as one that is worked out with every reading."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.events import Emission, FieldValue, Sample
from gateway.windows.engine import Bound, WindowEngine
from gateway.windows.spec import WindowSpec
from tests.support.windowing import shipped, spec

readings = st.tuples(st.just("reading"), st.integers(0, 3), st.integers(-25, 10), st.integers(0, 4))
ticks = st.tuples(st.just("tick"), st.just(0), st.just(0), st.integers(1, 30))
scripts = st.lists(st.one_of(readings, readings, readings, ticks), max_size=60)
specs = st.builds(
    lambda size, slide, lag, late, idle, skew, learns: spec(
        type="hopping", size_ms=size, slide_ms=min(slide, size), out_of_orderness_ms=lag,
        allowed_lateness_ms=late, idle_timeout_ms=idle, idle_learns=learns, max_future_skew_ms=skew,
    ),
    st.sampled_from([10, 25]), st.sampled_from([5, 10, 25]), st.sampled_from([0, 3, 20]),
    st.sampled_from([0, 8]), st.sampled_from([None, 12]), st.sampled_from([None, 6]), st.booleans(),
)  # fmt: skip


class Played:
    """An engine that plays a script. `eager`: its watermark is worked out after every step."""

    def __init__(self, window: WindowSpec, *, short_way: bool, eager: bool) -> None:
        self._short_way, self._eager = short_way, eager
        self.engine = WindowEngine([window], {"w": shipped("stats")})
        self._bound: dict[int, Bound] = {}
        self._now_ms = 1_000

    def step(self, kind: str, source: int, offset_ms: int, passed_ms: int) -> list[Any]:
        self._now_ms += passed_ms
        out: list[Emission] = []
        chunks: Any = (
            self.engine.advance(self._now_ms) if kind == "tick" else self._process(source, offset_ms)
        )
        for chunk in chunks:
            out += chunk
        clock = self.engine.operators["w"].shared
        if self._eager and clock is not None:
            assert clock.wm_ms == clock.settled_ms
        return out

    def _process(self, source: int, offset_ms: int) -> Any:
        topic, levels = f"t/{source}", {"key": "k"}
        if source not in self._bound:
            self._bound[source] = self.engine.bind(topic, None, levels)
        fields: dict[str, FieldValue] = {"key": "k", "value": 1.5}
        bound, time_ms = self._bound[source], self._now_ms + offset_ms
        if self._short_way:
            return self.engine.process_one(bound, time_ms, fields, self._now_ms)
        return self.engine.process_bound(bound, (Sample(time_ms, fields),), self._now_ms)


@given(specs, scripts, st.integers(0, 60))
def test_when_a_watermark_is_worked_out_changes_nothing(
    window: WindowSpec, script: list[Any], look_at: int
) -> None:
    quick = Played(window, short_way=True, eager=False)
    plain = Played(window, short_way=False, eager=True)
    for number, step in enumerate(script):
        assert quick.step(*step) == plain.step(*step)
        if number == look_at:  # a checkpoint in between
            assert quick.engine.take_changes() == plain.engine.take_changes()
    assert quick.engine.take_changes() == plain.engine.take_changes()
    assert quick.engine.counters == plain.engine.counters
    assert quick.engine.flush() == plain.engine.flush()
