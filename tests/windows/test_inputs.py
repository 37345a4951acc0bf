"""What counts as a reading and a key, limits on keys, and plugins that fail."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.core.events import Emission, Reading, Sample
from gateway.windows.emission import emission_json
from gateway.windows.engine import WindowEngine, gathered
from gateway.windows.plugin_runner import BREAKER_FAILURES, BREAKER_PAUSE_MS
from gateway.windows.values import number
from tests.support.windowing import FailsOnNegative, Timeline, seen, shipped, spec

MISSING = object()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1.0), (2.5, 2.5), (True, 1.0), (False, 0.0), ("21.5", 21.5), (" 3 ", 3.0), ("-1e3", -1000.0)],
)
def test_numbers_booleans_and_numbers_in_quotes_are_readings(value: Any, expected: float) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(
    "value",
    [MISSING, None, "", "on", "1_000", "nan", "inf", float("nan"), float("inf"), 10**400, [1], {"a": 1}],
)
def test_what_is_no_number_is_a_counted_miss_and_not_zero(value: Any) -> None:
    run = Timeline(spec(size_ms=10))
    run.sample(1, {"key": "k"} if value is MISSING else {"key": "k", "value": value})
    assert run.end() == []
    assert (run.counters.misses, run.counters.events) == (1, 0)


def test_a_miss_does_not_move_the_watermark() -> None:
    run = Timeline(spec(size_ms=10))
    run.event(1)
    assert run.event(1_000, None) == []
    assert run.event(2) == []


# --- keys ---


def test_a_key_is_made_of_topic_levels_and_fields() -> None:
    engine = WindowEngine(
        [spec(size_ms=10, topic="home/{room}/+", key="{room}/{device}-{n}")], {"w": shipped("stats")}
    )
    gathered(engine.process("home/hall/x", None, {}, [Sample(1, {"device": "d", "n": 7, "value": 1})], 1))
    assert [one.key for one in engine.flush()] == ["hall/d-7"]


def test_a_key_with_a_missing_part_is_a_counted_miss() -> None:
    run = Timeline(spec(size_ms=10))
    for key in (None, "", 1.5):
        run.sample(1, {"key": key, "value": 1.0})
    assert run.counters.key_misses == 2
    assert [one.key for one in run.end()] == ["1.5"]


def test_a_window_without_a_key_has_one_key() -> None:
    run = Timeline(spec(size_ms=10, key=""))
    run.sample(1, {"value": 1.0})
    run.sample(2, {"value": 1.0}, source="other")
    assert [(one.key, one.count) for one in run.end()] == [("all", 2)]


def test_a_window_reads_only_its_route_or_topics() -> None:
    windows = [
        spec(size_ms=10, key="", name="by_route", route="r", topic=None),
        spec(size_ms=10, key="{device}", name="by_topic", topic="a/{device}"),
    ]
    engine = WindowEngine(windows, {one.name: shipped("stats") for one in windows})
    for topic, route in (("a/1", "r"), ("a/2", "other"), ("b/3", "r"), ("b/4", None)):
        gathered(engine.process(topic, route, {}, [Sample(1, {"value": 1.0})], 1))
    assert [(one.window, one.key, one.count) for one in engine.flush()] == [
        ("by_route", "all", 2),
        ("by_topic", "1", 1),
        ("by_topic", "2", 1),
    ]


def test_new_keys_beyond_the_limit_are_counted_and_the_others_are_unharmed() -> None:
    run = Timeline(spec(size_ms=10, max_keys=2))
    for key in ("a", "b", "c", "a", "c"):
        run.event(1, key=key)
    assert run.counters.keys_rejected == 2
    assert [(one.key, one.count) for one in run.end()] == [("a", 2), ("b", 1)]


def test_sampling_keeps_whole_keys_whatever_the_order_in_which_they_come() -> None:
    names = [f"d{number}" for number in range(200)]
    kept = []
    for order in (names, names[::-1]):
        run = Timeline(spec(size_ms=10, max_keys=50, max_keys_policy="sample", watermark="per_key"))
        for _ in range(2):
            for key in order:
                run.event(1, key=key)
        assert run.counters.keys <= 50
        assert run.counters.keys_rejected + run.counters.keys_forgotten > 0
        kept.append([(one.key, one.count) for one in run.end()])
    assert kept[0] == kept[1]
    assert len(kept[0]) > 10
    assert {count for _, count in kept[0]} == {2}


@pytest.mark.parametrize("kind", ["tumbling", "session", "global"])
def test_a_key_that_outlives_its_time_gives_what_it_holds_and_is_forgotten(kind: str) -> None:
    run = Timeline(spec(kind, size_ms=100, gap_ms=50, trigger_count=9, ttl_ms=1_000, watermark="per_key"))
    run.event(5, at=0)
    run.event(6, at=500)
    assert run.tick(1_499) == []
    assert [one.count for one in run.tick(1_500)] == [2]
    assert run.engine.progressed
    assert (run.counters.keys, run.counters.open_windows, run.counters.keys_forgotten) == (0, 0, 1)


# --- several fields ---


def test_several_fields_are_gathered_side_by_side() -> None:
    run = Timeline(spec(size_ms=10, fields=("t", "h")))
    run.sample(1, {"key": "k", "t": 20.0, "h": 50.0})
    run.sample(2, {"key": "k", "t": 22.0, "h": None})
    run.sample(3, {"key": "k", "h": "x"})
    (one,) = run.end()
    assert isinstance(one.result, dict)
    assert (one.count, one.result["t"]["sum"], one.result["h"]["sum"]) == (2, 42.0, 50.0)
    assert run.counters.misses == 1


# --- plugins that fail ---


class Sum(FailsOnNegative):
    """Fails on results beyond a hundred too, and gives none for nothing."""

    def extract_output(self, acc: Any) -> Any:
        if acc > 100:
            raise OverflowError("too much")
        return acc if acc else None


def test_a_reading_that_a_plugin_fails_on_is_reported_and_the_rest_goes_on() -> None:
    run = Timeline(spec(size_ms=10), Sum())
    run.event(1, 2.0)
    (dropped,) = run.event(2, -1.0)
    assert (dropped.kind, dropped.reason, dropped.event_time_ms) == ("dropped", "plugin_error", 2)
    assert dropped.result == {"topic": "t/s", "value": -1.0, "error": "ValueError: negative"}
    run.event(3, 3.0)
    (result,) = run.end()
    assert (result.result, result.count) == (5.0, 2)
    assert run.counters.plugin_errors == 1


def test_a_result_that_a_plugin_fails_on_is_reported_and_other_keys_go_on() -> None:
    run = Timeline(spec(size_ms=10), Sum())
    run.event(1, 200.0, key="a")
    run.event(1, 2.0, key="b")
    bad, good = run.end()
    assert (bad.key, bad.reason, good.key, good.result) == ("a", "plugin_error", "b", 2.0)


def test_a_plugin_that_keeps_failing_on_a_key_gets_a_pause_for_that_key_only() -> None:
    run = Timeline(spec(size_ms=10**6), Sum())
    for _ in range(BREAKER_FAILURES):
        run.event(1, -1.0, at=1)
    assert run.event(2, 5.0, at=BREAKER_PAUSE_MS) == []
    run.event(2, 7.0, key="j", at=BREAKER_PAUSE_MS)
    assert (run.counters.skipped, run.counters.plugin_errors) == (1, BREAKER_FAILURES)
    run.event(3, 6.0, at=BREAKER_PAUSE_MS + 1)
    assert [(one.key, one.result) for one in run.end()] == [("j", 7.0), ("k", 6.0)]


def test_a_success_ends_a_row_of_failures() -> None:
    run = Timeline(spec(size_ms=10**6), Sum())
    for value in (-1.0, -1.0, -1.0, -1.0, 1.0, -1.0, 1.0):
        run.event(1, value, at=1)
    assert run.counters.skipped == 0


def test_a_result_that_is_no_json_is_an_error_of_its_plugin_only() -> None:
    class Sets(Sum):
        def extract_output(self, acc: Any) -> Any:
            return {acc}

    run = Timeline(spec(size_ms=10), Sets())
    run.event(1)
    (dropped,) = run.end()
    assert (dropped.reason, run.counters.plugin_errors) == ("plugin_error", 1)


def test_state_that_cannot_be_stored_costs_its_own_key_only() -> None:
    class Huge(Sum):
        def add_input(self, acc: Any, reading: Reading) -> Any:
            return 2**70 if reading.value > 1 else acc + reading.value

    run = Timeline(spec(size_ms=10), Huge())
    run.event(1, 5.0, key="bad")
    run.event(1, 1.0)
    again = run.restarted()
    assert (run.counters.plugin_errors, run.counters.state_dropped, run.counters.open_windows) == (1, 1, 1)
    assert [(one.key, one.result) for one in again.end()] == [("k", 1.0)]


def test_a_plugin_that_has_nothing_to_say_says_nothing() -> None:
    run = Timeline(spec(size_ms=10), Sum())
    run.event(1, 0.0)
    assert run.end() == []
    assert run.counters.held_back == 1


def test_a_plugin_may_make_the_key() -> None:
    class Keyed(Sum):
        def key(self, reading: Reading) -> str:
            return "high" if reading.value > 10 else str(1 / (reading.value - 1))

    run = Timeline(spec(size_ms=10, key=""), Keyed())
    for value in (20.0, 2.0, 1.0):
        run.event(1, value)
    assert [one.key for one in run.end()] == ["1.0", "high"]
    assert run.counters.key_misses == 1


def test_a_plugin_that_reports_sees_the_windows_of_each_key_in_order() -> None:
    class Rises(Sum):
        def report(self, carry: Any, output: Any) -> tuple[Any, Any]:
            return output, None if carry is None else output - carry

    run = Timeline(spec(size_ms=10, allowed_lateness_ms=5, early_count=1), Rises())
    out = [
        one
        for time_ms, value in ((1, 5.0), (11, 7.0), (12, 1.0), (21, 4.0))
        for one in run.event(time_ms, value)
    ]
    out += run.event(18, 90.0) + run.restarted().event(31, 1.0)
    assert seen(out) == [("on_time", 10, 20, 3.0), ("on_time", 20, 30, -4.0)]


# --- cost ---


def test_a_stopwatch_shows_what_samples_cost() -> None:
    ticks = iter(range(0, 10_000, 7))
    engine = WindowEngine(
        [spec(size_ms=10, key="")], {"w": shipped("stats")}, stopwatch_ns=lambda: next(ticks)
    )
    for _ in range(200):
        gathered(engine.process("t/s", None, {}, [Sample(1, {"value": 1.0})], 1))
    assert (engine.counters["w"].timed_ns, engine.counters["w"].timed_samples) == (14, 2)


def test_topics_from_outside_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.windows.engine.MAX_BOUND_TOPICS", 10)
    monkeypatch.setattr("gateway.windows.watermark.MAX_SOURCES", 10)
    run = Timeline(spec(size_ms=10, key=""))
    for number_of in range(100):
        run.event(1, source=str(number_of))
    assert len(run.engine._bound) <= 10
    assert run.counters.sources_ignored == 90
    assert [one.count for one in run.end()] == [100]


# --- the payload ---


def test_the_payload_of_an_aggregate_has_the_agreed_members() -> None:
    run = Timeline(spec(size_ms=10))
    run.event(1, 4)
    (one,) = run.end()
    assert orjson.loads(emission_json(one)) == {
        "window": "w",
        "key": "k",
        "start_ms": 0,
        "end_ms": 10,
        "kind": "on_time",
        "revision": 0,
        "count": 1,
        "result": one.result,
        "replaces": [],
    }
    assert one.result == {
        "count": 1,
        "sum": 4.0,
        "mean": 4.0,
        "min": 4.0,
        "max": 4.0,
        "stddev": 0.0,
        "first": 4.0,
        "last": 4.0,
    }


def test_the_payload_is_json_whatever_is_in_it() -> None:
    odd = Emission(
        *('w"%d', "k\\\n%b💥", "correction", None, None, 3, 7, {"x": None}, ((1, 2), (3, 4)), "id", 9, ""),
        partial=b"[1,2]",
        quality={"late": 1},
        unit="°C",
    )
    payload = orjson.loads(emission_json(odd, 'g"1'))
    assert list(payload)[-5:] == ["replaces", "unit", "partial", "quality", "source"]
    assert (payload["window"], payload["key"], payload["start_ms"]) == (odd.window, odd.key, None)
    assert (payload["unit"], payload["partial"], payload["source"]) == ("°C", [1, 2], 'g"1')
    assert (payload["result"], payload["replaces"]) == ({"x": None}, [[1, 2], [3, 4]])
    assert emission_json(odd._replace(encoded=b'{"x":null}'), 'g"1') == emission_json(odd, 'g"1')


def test_the_report_of_a_late_reading_says_what_was_dropped_and_why() -> None:
    run = Timeline(spec(size_ms=10))
    run.event(30)
    late: list[Emission] = run.event(3, 8.0)
    assert orjson.loads(emission_json(late[0])) == {
        "window": "w",
        "key": "k",
        "kind": "dropped",
        "event_time_ms": 3,
        "reason": "late",
        "dropped": {"topic": "t/s", "value": 8.0, "windows": [[0, 10]]},
    }
