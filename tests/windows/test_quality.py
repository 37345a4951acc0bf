"""The quality of a result, against counts that know nothing of the engine."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from gateway.core.events import Emission, Sample
from gateway.windows.engine import WindowEngine, gathered
from gateway.windows.spec import WindowSpec
from tests.support.windowing import FailsOnNegative, Timeline, shipped, spec

LATENESS_MS = 15


class Message(NamedTuple):
    """A reading of a device at a time; no value is a miss."""

    device: str
    number: int
    time_ms: int
    value: float | None


def quality(one: Emission) -> Any:
    assert one.quality is not None
    return {**one.quality}


def told(one: Emission) -> tuple[object, ...]:
    """(readings, late, dropped, misses) and the sources."""
    found = quality(one)
    return tuple(found[name] for name in ("readings", "late", "dropped", "misses", "sources"))


class Numbered:
    """An engine with one window that reads messages of devices, each a stream with numbers."""

    def __init__(self, window: WindowSpec) -> None:
        self.window = replace(window, quality=True)
        self.numbers: Counter[str] = Counter()
        self.engine = self._engine()
        self.rows: dict[tuple[str, bytes], bytes | None] = {}

    def _engine(self) -> WindowEngine:
        return WindowEngine([self.window], {"w": shipped("stats")})

    def feed(self, device: str, time_ms: int, value: float | None = 1.0) -> list[Emission]:
        self.numbers[device] += 1
        return self.take(Message(device, self.numbers[device], time_ms, value))

    def take(self, one: Message) -> list[Emission]:
        sample = Sample(one.time_ms, {"key": one.device, "value": one.value})
        levels = {"device": one.device}
        moment = (one.time_ms, one.number)
        return gathered(self.engine.process(f"t/{one.device}", None, levels, [sample], *moment))

    def restart(self) -> None:
        self.rows.update({(window, row): state for window, row, state in self.engine.take_changes()})
        self.engine = self._engine()
        kept = [(*at, state) for at, state in self.rows.items() if state is not None]
        assert self.engine.restore(kept) == []


def test_a_result_says_what_it_was_made_of_and_what_it_lacks() -> None:
    """
    window   [0        10)[10       20)[20
    arrival   1  2  -        12
                 3 (late)       -          25
                                        4 (too late)
    """
    run = Numbered(spec(size_ms=10, watermark="per_key", allowed_lateness_ms=10))
    run.feed("k", 1)
    run.feed("k", 2)
    run.feed("k", 5, None)
    assert [told(one) for one in run.feed("k", 12)] == [(2, 0, 0, 1, {"t/k": [1, 2]})]
    assert [told(one) for one in run.feed("k", 3)] == [(3, 1, 0, 1, {"t/k": [1, 5]})]
    run.feed("k", 15, None)
    assert [told(one) for one in run.feed("k", 25)] == [(1, 0, 0, 1, {"t/k": [4, 4]})]
    (dropped,) = run.feed("k", 4)
    assert dropped.kind == "dropped"
    assert dropped.quality is None
    assert [told(one) for one in run.engine.flush()] == [(1, 0, 1, 0, {"t/k": [7, 7]})]


def test_without_the_setting_nothing_is_told() -> None:
    run = Timeline(spec(size_ms=10))
    run.event(1)
    assert [one.quality for one in run.end()] == [None]


def messages(seed: int) -> list[Message]:
    chance = random.Random(seed)
    found, numbers = [], Counter[str]()
    for n in range(2_000):
        device = chance.choice("abc")
        numbers[device] += 1
        late_ms = chance.choice((0, 0, 0, 12, 40))
        value = None if chance.random() < 0.05 else 1.0
        found.append(Message(device, numbers[device], 1_000 + n // 2 - late_ms, value))
    return found


def windows_of(time_ms: int, size_ms: int, slide_ms: int) -> list[int]:
    last = time_ms // slide_ms * slide_ms
    return [
        start for start in range(last - size_ms + slide_ms, last + 1, slide_ms) if time_ms < start + size_ms
    ]


def counted(given: list[Message], size_ms: int, slide_ms: int) -> tuple[dict[Any, Any], int]:
    """By device and window: readings, late ones and sources; and how many readings no window has."""
    found: defaultdict[Any, list[Any]] = defaultdict(lambda: [0, 0, []])
    newest, dropped = defaultdict[str, int](lambda: -(10**9)), 0
    for one in given:
        if one.value is None:
            continue
        taken = False
        for start_ms in windows_of(one.time_ms, size_ms, slide_ms):
            end_ms = start_ms + size_ms
            if newest[one.device] < end_ms + LATENESS_MS:
                taken = True
                each = found[one.device, start_ms]
                each[0] += 1
                each[1] += newest[one.device] >= end_ms
                each[2].append(one.number)
        dropped += not taken
        newest[one.device] = max(newest[one.device], one.time_ms)
    told = {at: (count, late, [min(some), max(some)]) for at, (count, late, some) in found.items()}
    return told, dropped


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize(("size_ms", "slide_ms"), [(20, 20), (30, 10)])
def test_it_is_what_an_independent_count_gives(size_ms: int, slide_ms: int, restarts: bool) -> None:
    given = messages(seed=size_ms)
    shape = "tumbling" if size_ms == slide_ms else "hopping"
    run = Numbered(
        spec(
            shape,
            size_ms=size_ms,
            slide_ms=None if shape == "tumbling" else slide_ms,
            watermark="per_key",
            allowed_lateness_ms=LATENESS_MS,
        )
    )
    results: dict[Any, Emission] = {}
    for number, one in enumerate(given):
        if restarts and number % 101 == 0:
            run.restart()
        results |= {(each.key, each.start_ms): each for each in run.take(one) if each.kind != "dropped"}
    results |= {(each.key, each.start_ms): each for each in run.engine.flush()}
    expected, dropped = counted(given, size_ms, slide_ms)
    found = {
        (key, start): (told["readings"], told["late"], told["sources"][f"t/{key}"])
        for (key, start), one in results.items()
        for told in (quality(one),)
    }
    assert found == expected
    assert dropped > 20
    assert sum(quality(one)["dropped"] for one in results.values()) == dropped
    if shape == "tumbling":
        missing = sum(one.value is None for one in given)
        assert sum(quality(one)["misses"] for one in results.values()) == missing


def test_of_sessions_that_merge_the_counts_and_sources_do() -> None:
    run = Numbered(spec("session", gap_ms=10, watermark="per_key", allowed_lateness_ms=100))
    run.feed("k", 0)
    run.feed("k", 15)
    run.feed("k", 40)  # both have fired: [0, 10) and [15, 25)
    (joined,) = run.feed("k", 8)
    run.restart()
    assert joined.replaces == ((0, 10), (15, 25))
    assert told(joined) == (3, 1, 0, 0, {"t/k": [1, 4]})
    (again,) = run.feed("k", 9)
    assert told(again) == (4, 2, 0, 0, {"t/k": [1, 5]})


def test_a_window_without_a_grid_tells_what_came_since_it_was_emptied() -> None:
    run = Numbered(spec("count", count=2))
    run.feed("k", 1)
    run.feed("k", 2, None)
    run.restart()
    assert [told(one) for one in run.feed("k", 3)] == [(2, 0, 0, 1, {"t/k": [1, 3]})]
    run.feed("k", 4)
    assert [told(one) for one in run.feed("k", 5)] == [(2, 0, 0, 0, {"t/k": [4, 5]})]


def test_what_gives_only_what_is_new_tells_only_of_that() -> None:
    run = Numbered(spec(size_ms=10, mode="discarding", watermark="per_key", allowed_lateness_ms=50))
    run.feed("k", 1)
    run.feed("k", 12)
    assert [told(one) for one in run.feed("k", 2)] == [(1, 1, 0, 0, {"t/k": [3, 3]})]
    assert [told(one) for one in run.feed("k", 3)] == [(1, 1, 0, 0, {"t/k": [4, 4]})]


@pytest.mark.parametrize("shape", [{"size_ms": 10}, {"type": "session", "gap_ms": 10}])
def test_readings_that_the_plugin_failed_on_are_dropped_ones(shape: dict[str, Any]) -> None:
    run = Timeline(replace(spec(**shape), quality=True), FailsOnNegative())
    run.event(1)
    run.event(2, -1.0)
    (result,) = run.end()
    assert told(result) == (1, 0, 1, 0, {})


def test_several_streams_of_a_key_are_named() -> None:
    run = Numbered(spec(size_ms=10, key=""))
    for device in ("b", "a", "b"):
        run.feed(device, 1)
    assert [told(one)[4] for one in run.engine.flush()] == [{"t/a": [1, 1], "t/b": [1, 2]}]


@pytest.mark.parametrize(
    "shape", [{"size_ms": 10}, {"type": "session", "gap_ms": 10}, {"type": "count", "count": 2}]
)
def test_switching_it_on_or_off_keeps_the_open_windows(shape: dict[str, Any]) -> None:
    run = Numbered(spec(**shape))
    run.window = replace(run.window, quality=False)
    run.engine = run._engine()
    run.feed("k", 1)
    for on in (True, False):
        run.window = replace(run.window, quality=on)
        run.restart()
    out = [*run.feed("k", 2), *run.engine.flush()]
    assert [(one.count, one.quality) for one in out] == [(2, None)]
