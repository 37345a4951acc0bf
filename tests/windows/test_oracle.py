"""Random events against definitions: a naive engine, a batch computation, and runs that are cut short."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.events import Emission, Sample
from gateway.windows.engine import WindowEngine, gathered
from gateway.windows.spec import WindowSpec
from tests.support.windowing import Row, shipped, spec

NEVER = -(10**15)
Result = tuple[Any, ...]


class Event(NamedTuple):
    time_ms: int
    value: float
    key: str
    source: str
    arrival_ms: int
    number: int = 0


def to_events(steps: list[tuple[int, int, str, str, int]]) -> list[Event]:
    """Times that wander forward, with disorder, and an arrival time that never goes back."""
    events, now_ms = [], 0
    for number, (step_ms, back_ms, key, source, value) in enumerate(steps):
        now_ms += step_ms
        events.append(Event(now_ms - back_ms, float(value), key, source, now_ms, number))
    return events


streams = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.one_of(st.integers(0, 5), st.integers(0, 60)),
        st.sampled_from("ab"),
        st.sampled_from(["s1", "s2"]),
        st.integers(-50, 50),
    ),
    max_size=60,
).map(to_events)

modes = st.sampled_from(["accumulating", "discarding"])
grids = st.builds(
    lambda size, slide, offset, late, lag, watermark, mode, early: spec(
        "hopping",
        size_ms=max(size, slide),
        slide_ms=slide,
        offset_ms=offset,
        allowed_lateness_ms=late,
        out_of_orderness_ms=lag,
        watermark=watermark,
        mode=mode,
        early_count=early,
    ),
    st.integers(1, 40),
    st.integers(1, 20),
    st.integers(0, 15),
    st.sampled_from([0, 7, 30]),
    st.sampled_from([0, 3, 25]),
    st.sampled_from(["shared", "per_key"]),
    modes,
    st.sampled_from([None, 2, 3]),
)
sessions = st.builds(
    lambda gap, late, lag, watermark, mode: spec(
        "session",
        gap_ms=gap,
        allowed_lateness_ms=late,
        out_of_orderness_ms=lag,
        watermark=watermark,
        mode=mode,
    ),
    st.integers(1, 20),
    st.sampled_from([0, 7, 30]),
    st.sampled_from([0, 3, 25]),
    st.sampled_from(["shared", "per_key"]),
    modes,
)


def send(engine: WindowEngine, event: Event) -> list[Emission]:
    sample = Sample(event.time_ms, {"key": event.key, "value": event.value})
    return gathered(engine.process(f"t/{event.source}", None, {}, [sample], event.arrival_ms))


def run(window: WindowSpec, events: list[Event]) -> list[list[Result]]:
    engine = WindowEngine([window], {"w": shipped("stats")})
    steps = [send(engine, event) for event in events]
    return [[short(one) for one in step] for step in (*steps, engine.flush())]


def short(one: Emission) -> Result:
    if one.kind == "dropped":
        assert isinstance(one.result, dict)
        return "dropped", one.key, one.event_time_ms, tuple(map(tuple, one.result["windows"]))
    assert isinstance(one.result, dict)
    return (
        one.kind,
        one.key,
        one.start_ms,
        one.end_ms,
        one.revision,
        one.count,
        one.result["sum"],
        one.replaces,
    )


class NaiveWatermark:
    """The definition, computed anew for every event."""

    def __init__(self, window: WindowSpec) -> None:
        self.window = window
        self.highest: dict[str, int] = {}
        self.combined = NEVER

    def of(self, key: str) -> int:
        if self.window.watermark == "shared":
            return self.combined
        return self.highest.get(key, NEVER) - self.window.out_of_orderness_ms

    def see(self, event: Event) -> None:
        source = event.source if self.window.watermark == "shared" else event.key
        self.highest[source] = max(self.highest.get(source, NEVER), event.time_ms)
        self.combined = max(self.combined, min(self.highest.values()) - self.window.out_of_orderness_ms)


def grid_windows(window: WindowSpec, time_ms: int) -> list[tuple[int, int]]:
    size, slide = window.size_ms or 0, window.slide_ms or 0
    starts = [start for start in range(-200, 1_000) if (start - window.offset_ms) % slide == 0]
    return [(start, start + size) for start in starts if start <= time_ms < start + size]


def naive_grid(
    window: WindowSpec,
    events: list[Event],
    windows_of: Callable[[WindowSpec, int], list[tuple[int, int]]] = grid_windows,
) -> list[list[Result]]:
    """Every window a list of its values, and of those that it has given already when it discards."""
    late, early_count = window.allowed_lateness_ms, window.early_count
    watermark = NaiveWatermark(window)
    contents: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    fresh: dict[tuple[str, int, int], int] = defaultdict(int)
    earlies: dict[tuple[str, int, int], int] = defaultdict(int)
    revisions: dict[tuple[str, int, int], int] = {}

    def results(kind: str, at: tuple[str, int, int], revision: int) -> list[Result]:
        values = contents[at][:]
        if window.mode == "discarding":
            contents[at].clear()
        return [(kind, *at, revision, len(values), sum(values), ())] if values else []

    def fire(limit: Any) -> list[Result]:
        due = [at for at in contents if at not in revisions and at[2] <= limit(at[0])]
        revisions.update(dict.fromkeys(due, 0))
        return [one for at in sorted(due, key=lambda at: (at[2], at[0])) for one in results("on_time", at, 0)]

    steps = []
    for event in events:
        out: list[Result] = []
        now = watermark.of(event.key)
        windows = windows_of(window, event.time_ms)
        expired = tuple(one for one in windows if one[1] + late <= now)
        if expired:
            out.append(("dropped", event.key, event.time_ms, expired))
        ripe = []
        for bounds in windows[len(expired) :]:
            at = (event.key, *bounds)
            contents[at].append(event.value)
            if bounds[1] <= now:
                revisions[at] = revisions.get(at, 0) + 1
                out += results("correction", at, revisions[at])
                continue
            fresh[at] += 1
            if fresh[at] == early_count:
                ripe.append(at)
        for at in ripe:
            out += results("early", at, earlies[at])
            earlies[at], fresh[at] = earlies[at] + 1, 0
        watermark.see(event)
        steps.append(out + fire(watermark.of))
    return [*steps, fire(lambda _: 10**15)]


@given(grids, streams)
def test_windows_on_a_grid_give_what_their_definition_gives(window: WindowSpec, events: list[Event]) -> None:
    assert run(window, events) == naive_grid(window, events)


HOUR_MS = 3_600_000
BEFORE_MS = 1_774_735_200_000  # 28 March 2026, 23:00 in Berlin; three hours on, the clocks go forward
calendars = st.builds(
    lambda every, late, lag, mode: spec(
        "calendar",
        every=every,
        timezone="Europe/Berlin",
        allowed_lateness_ms=late * HOUR_MS,
        out_of_orderness_ms=lag * HOUR_MS,
        mode=mode,
    ),
    st.sampled_from(["hour", "day"]),
    st.sampled_from([0, 7, 30]),
    st.sampled_from([0, 3, 25]),
    modes,
)


def berlin_windows(window: WindowSpec, time_ms: int) -> list[tuple[int, int]]:
    """By looking at a clock in Berlin hour after hour, back and forth."""

    def shown(at_ms: int) -> str:
        local = datetime.fromtimestamp(at_ms / 1000, ZoneInfo("Europe/Berlin"))
        return local.strftime("%Y-%m-%d %H %z" if window.every == "hour" else "%Y-%m-%d")

    start_ms = end_ms = time_ms - time_ms % HOUR_MS
    while shown(start_ms - HOUR_MS) == shown(time_ms):
        start_ms -= HOUR_MS
    while shown(end_ms) == shown(time_ms):
        end_ms += HOUR_MS
    return [(start_ms, end_ms)]


@given(calendars, streams)
def test_calendar_windows_give_what_their_definition_gives(window: WindowSpec, events: list[Event]) -> None:
    in_march = [
        one._replace(
            time_ms=BEFORE_MS + one.time_ms * HOUR_MS // 8,
            arrival_ms=BEFORE_MS + one.arrival_ms * HOUR_MS // 8,
        )
        for one in events
    ]
    assert run(window, in_march) == naive_grid(window, in_march, berlin_windows)


def naive_sessions(window: WindowSpec, events: list[Event]) -> list[list[Result]]:
    """Every session a list of events; bounds are computed from them."""
    gap, late = window.gap_ms or 0, window.allowed_lateness_ms
    watermark = NaiveWatermark(window)
    kept: list[dict[str, Any]] = []

    def bounds(session: dict[str, Any]) -> tuple[int, int]:
        times = [event.time_ms for event in session["events"]]
        return min(times), max(times) + gap

    def result(kind: str, session: dict[str, Any]) -> Result:
        discards = window.mode == "discarding"
        values = [event.value for event in session["events"] if not discards or event not in session["given"]]
        replaces = tuple(sorted(one for one in session["fired"] if one != bounds(session) and not discards))
        session["fired"], session["given"] = [bounds(session)], session["events"][:]
        revision = session["revision"]
        return kind, session["key"], *bounds(session), revision, len(values), sum(values), replaces

    def fire(limit: Any) -> list[Result]:
        due = [one for one in kept if bounds(one) not in one["fired"] and bounds(one)[1] <= limit(one["key"])]
        out = []
        for session in sorted(due, key=lambda one: (bounds(one)[1], one["key"])):
            session["revision"] = 0
            out.append(result("on_time", session))
        kept[:] = [one for one in kept if bounds(one)[1] + late > limit(one["key"])]
        return out

    steps = []
    for event in events:
        out: list[Result] = []
        now = watermark.of(event.key)
        own: dict[str, Any] = {"key": event.key, "events": [event], "fired": [], "given": [], "revision": 0}
        low, high = bounds(own)
        joined = [
            one for one in kept if one["key"] == event.key and bounds(one)[0] < high and low < bounds(one)[1]
        ]
        if not joined and high + late <= now:
            out.append(("dropped", event.key, event.time_ms, ((low, high),)))
        else:
            merged: dict[str, Any] = {
                "key": event.key,
                "events": [one for part in (*joined, own) for one in part["events"]],
                "fired": [one for part in joined for one in part["fired"]],
                "given": [one for part in joined for one in part["given"]],
                "revision": 0,
            }
            if len(joined) == 1 and bounds(merged) == bounds(joined[0]):
                merged["revision"] = joined[0]["revision"]
            kept[:] = [one for one in kept if one not in joined] + [merged]
            if bounds(merged)[1] <= now:
                merged["revision"] += 1
                out.append(result("correction", merged))
        watermark.see(event)
        steps.append(out + fire(watermark.of))
    return [*steps, fire(lambda _: 10**15)]


@given(sessions, streams)
def test_sessions_give_what_their_definition_gives(window: WindowSpec, events: list[Event]) -> None:
    assert run(window, events) == naive_sessions(window, events)


@given(st.integers(1, 20), streams)
def test_sessions_without_late_events_are_those_of_a_batch(gap_ms: int, events: list[Event]) -> None:
    window = spec("session", gap_ms=gap_ms, out_of_orderness_ms=10_000)
    expected = []
    for key in "ab":
        times = sorted(event.time_ms for event in events if event.key == key)
        groups: list[list[int]] = []
        for time_ms in times:
            if groups and time_ms - groups[-1][-1] < gap_ms:
                groups[-1].append(time_ms)
            else:
                groups.append([time_ms])
        expected += [(key, group[0], group[-1] + gap_ms, len(group)) for group in groups]
    got = [(key, start, end, count) for _, key, start, end, _, count, *_ in run(window, events)[-1]]
    assert sorted(got) == sorted(expected)


# --- crashes ---

GATHERED: dict[str, Any] = {"corrections": "every", "corrections_every_ms": 9}
EVERY_KIND = {
    "tumbling": spec(size_ms=20, allowed_lateness_ms=15, early_count=3, idle_timeout_ms=25),
    "hopping": spec("hopping", size_ms=30, slide_ms=8, allowed_lateness_ms=15, out_of_orderness_ms=5),
    "per_key": spec(size_ms=20, watermark="per_key", idle_timeout_ms=25, ttl_ms=90, max_future_skew_ms=0),
    "session": spec("session", gap_ms=6, allowed_lateness_ms=25, idle_timeout_ms=25, early_count=2),
    "global": spec("global", trigger_count=3),
    "discarding": spec("global", trigger_count=3, mode="discarding", ttl_ms=40),
    "count": spec("count", count=4),
    "calendar": spec("calendar", every="hour", timezone="Asia/Kathmandu", allowed_lateness_ms=HOUR_MS),
    "panes": spec(
        "hopping", size_ms=30, slide_ms=8, allowed_lateness_ms=15, mode="discarding", early_count=2
    ),
    "late_panes": spec("hopping", size_ms=30, slide_ms=8, allowed_lateness_ms=15, mode="discarding"),
    "gathered": spec("hopping", size_ms=30, slide_ms=8, allowed_lateness_ms=40, **GATHERED),
    "gathered_sessions": spec("session", gap_ms=6, allowed_lateness_ms=40, watermark="per_key", **GATHERED),
    "withheld": spec(size_ms=20, allowed_lateness_ms=15, corrections="off"),
    "sampled": spec(size_ms=20, max_keys=1, max_keys_policy="sample"),
}


class Gateway:
    """What the pipeline does around an engine: a log of events, checkpoints, and output that is kept once."""

    def __init__(self, window: WindowSpec, hot_keys: int | None = None) -> None:
        self.window = window
        self.hot_keys = hot_keys
        self.log: list[Event] = []
        self.rows: dict[tuple[str, bytes], bytes] = {}
        self.checkpointed = 0
        self.kept: dict[str, Emission] = {}
        self.engine = self._new()

    def _new(self) -> WindowEngine:
        plugins = {"w": shipped("stats")}
        if self.hot_keys is None:
            return WindowEngine([self.window], plugins)
        return WindowEngine([self.window], plugins, fetch=self._fetch, hot_keys=self.hot_keys)

    def _fetch(self, window: str, row: bytes) -> bytes | None:
        return self.rows.get((window, row))

    def _keep(self, emissions: list[Emission]) -> None:
        for one in emissions:
            self.kept.setdefault(one.identity, one)

    def take(self, event: Event) -> None:
        self.log.append(event)
        self._keep(send(self.engine, event))

    def tick(self, now_ms: int) -> None:
        self._keep(gathered(self.engine.advance(now_ms)))
        if self.engine.progressed:
            self.checkpoint()

    def checkpoint(self) -> None:
        for window, row, state in self.engine.take_changes():
            if state is None:
                self.rows.pop((window, row), None)
            else:
                self.rows[window, row] = state
        self.checkpointed = len(self.log)

    def crash(self) -> None:
        rows: list[Row] = [(*at, state) for at, state in self.rows.items()]
        self.engine = self._new()
        assert self.engine.restore(rows) == []
        for event in self.log[self.checkpointed :]:
            self._keep(send(self.engine, event))

    def output(self) -> list[Emission]:
        self._keep(self.engine.flush())
        return list(self.kept.values())


@pytest.mark.parametrize("kind", EVERY_KIND)
@given(hot_keys=st.sampled_from([None, 0, 1]), events=streams, data=st.data())
def test_a_crash_at_any_moment_gives_the_same_output_as_none(
    kind: str, hot_keys: int | None, events: list[Event], data: st.DataObject
) -> None:
    """Nor does it matter how many keys are in memory."""
    whole, cut = Gateway(EVERY_KIND[kind]), Gateway(EVERY_KIND[kind], hot_keys)
    happenings = data.draw(
        st.lists(
            st.sampled_from(["", "", "", "tick", "checkpoint", "crash"]),
            min_size=len(events),
            max_size=len(events),
        )
    )
    for event, happening in zip(events, happenings, strict=True):
        for gateway in (whole, cut):
            gateway.take(event)
            if happening == "tick":
                gateway.tick(event.arrival_ms)
        if happening == "checkpoint":
            cut.checkpoint()
        elif happening == "crash":
            cut.crash()
    assert cut.output() == whole.output()


@pytest.mark.parametrize("kind", EVERY_KIND)
@given(events=streams)
def test_state_that_did_not_change_is_not_written_again(kind: str, events: list[Event]) -> None:
    gateway = Gateway(EVERY_KIND[kind])
    for event in events:
        gateway.take(event)
    gateway.checkpoint()
    assert gateway.engine.take_changes() == []


# --- corrections that are gathered ---


def final_values(gateway: Gateway) -> dict[tuple[Any, ...], Result]:
    """The last result of each window, without those that a later one replaces."""
    last: dict[tuple[Any, ...], Result] = {}
    for one in gateway.output():
        if one.kind in ("on_time", "correction"):
            for bounds in one.replaces:
                last.pop((one.key, *bounds), None)
            assert isinstance(one.result, dict)
            last[one.key, one.start_ms, one.end_ms] = (one.count, one.result["sum"])
    return last


@pytest.mark.parametrize("kind", ["gathered", "gathered_sessions"])
@given(events=streams)
def test_gathered_corrections_end_at_the_same_values_with_fewer_messages(
    kind: str, events: list[Event]
) -> None:
    gathered = Gateway(EVERY_KIND[kind])
    at_once = Gateway(replace(EVERY_KIND[kind], corrections="at_once"))
    for event in events:
        for gateway in (gathered, at_once):
            gateway.take(event)
            gateway.tick(event.arrival_ms)
    assert final_values(gathered) == final_values(at_once)
    assert gathered.engine.counters["w"].corrections <= at_once.engine.counters["w"].corrections
