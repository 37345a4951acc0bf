"""A day of readings with disorder, late ones and two restarts, against a computation over the whole day."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator

from gateway.core.events import Emission, Sample
from gateway.windows.engine import WindowEngine, gathered
from tests.support.windowing import shipped, spec

HOUR_MS = 3_600_000
LAG_MS, LATENESS_MS = 30_000, 300_000
DEVICES = 20

Event = tuple[int, int, str, float]  # arrival, event time, device, value


def day() -> list[Event]:
    """A reading of each device every 30 s; 5 % up to 25 s late, 1 % late by minutes, a few by hours."""
    draw = random.Random(24)
    events = []
    for tick_ms in range(0, 24 * HOUR_MS, 30_000):
        for device in range(DEVICES):
            time_ms = tick_ms + draw.randrange(1_000)
            fate = draw.random()
            delay_ms = draw.randrange(500)
            if fate < 0.05:
                delay_ms = draw.randrange(25_000)
            elif fate < 0.06:
                delay_ms = draw.choice([100_000, 200_000, 3 * HOUR_MS])
            value = 20 + 5 * math.sin(time_ms / HOUR_MS) + draw.gauss(0, 1)
            events.append((time_ms + delay_ms, time_ms, f"d{device}", value))
    return sorted(events)


class Run:
    """The engine with a checkpoint every 5 minutes; `restart` goes back to the last one and replays."""

    def __init__(self) -> None:
        self.window = spec(
            size_ms=900_000,
            key="{device}",
            topic="t/{device}",
            watermark="per_key",
            out_of_orderness_ms=LAG_MS,
            allowed_lateness_ms=LATENESS_MS,
        )
        self.engine = self._new()
        self.rows: dict[tuple[str, bytes], bytes] = {}
        self.log: list[Event] = []
        self.checkpointed = 0
        self.out: dict[str, Emission] = {}

    def _new(self) -> WindowEngine:
        return WindowEngine([self.window], {"w": shipped("stats")})

    def _process(self, event: Event) -> None:
        arrival_ms, time_ms, device, value = event
        sample = Sample(time_ms, {"value": value})
        for one in gathered(self.engine.process(f"t/{device}", None, {}, [sample], arrival_ms)):
            self.out.setdefault(one.identity, one)

    def take(self, event: Event) -> None:
        self.log.append(event)
        self._process(event)
        if event[0] - self.log[self.checkpointed][0] > 300_000:
            for window, row, state in self.engine.take_changes():
                if state is None:
                    self.rows.pop((window, row), None)
                else:
                    self.rows[window, row] = state
            self.checkpointed = len(self.log) - 1

    def restart(self) -> None:
        self.engine = self._new()
        assert self.engine.restore((*at, state) for at, state in self.rows.items()) == []
        for event in self.log[self.checkpointed + 1 :]:
            self._process(event)

    def finish(self) -> Iterator[Emission]:
        yield from self.out.values()
        yield from self.engine.flush()


def test_a_day_with_disorder_and_restarts_equals_an_offline_computation() -> None:
    events = day()
    run = Run()
    for number, event in enumerate(events):
        run.take(event)
        if number in (len(events) // 3, len(events) // 2):
            run.restart()
    latest: dict[tuple[str, int], Emission] = {}
    dropped: list[tuple[str, int]] = []
    for one in run.finish():
        if one.kind == "dropped":
            dropped.append((one.key, one.event_time_ms))
        else:
            assert one.start_ms is not None
            latest[one.key, one.start_ms] = max(
                one, latest.get((one.key, one.start_ms), one), key=lambda result: result.revision
            )
    expected = defaultdict(list)
    gone = list(dropped)
    for _, time_ms, device, value in events:
        if (device, time_ms) in gone:
            gone.remove((device, time_ms))
        else:
            expected[device, time_ms - time_ms % 900_000].append(value)
    assert gone == []
    assert dropped
    assert any(one.revision for one in latest.values())
    assert latest.keys() == expected.keys()
    for at, values in expected.items():
        result = latest[at].result
        assert isinstance(result, dict)
        assert result["count"] == len(values)
        assert math.isclose(result["sum"], math.fsum(values), rel_tol=1e-9)
        assert (result["min"], result["max"]) == (min(values), max(values))


def test_only_readings_that_are_late_beyond_what_is_allowed_are_dropped() -> None:
    run = Run()
    for event in day():
        run.take(event)
    delay_ms = {(device, time_ms): arrival_ms - time_ms for arrival_ms, time_ms, device, _ in run.log}
    for one in run.finish():
        if one.kind == "dropped":
            assert delay_ms[one.key, one.event_time_ms] > LATENESS_MS
