"""What a window holds, when it fires, and what becomes of readings that come late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from gateway.core.events import Reading, Sample
from gateway.windows.engine import gathered
from gateway.windows.operators.grid import Grid
from gateway.windows.spec import WindowSpec
from tests.support.windowing import Timeline, seen, spec


def starts(size_ms: int, slide_ms: int, time_ms: int, offset_ms: int = 0) -> list[int]:
    grid = Grid(size_ms, slide_ms, offset_ms)
    return list(grid.windows_of(grid.slice_of(time_ms)))


# --- the grid ---


@pytest.mark.parametrize(
    ("size_ms", "slide_ms", "time_ms", "expected"),
    [
        (10, 10, 20, [20]),
        (10, 10, 19, [10]),
        (10, 10, -1, [-10]),
        (10, 10, -10, [-10]),
        (10, 5, 13, [5, 10]),
        (10, 5, 15, [10, 15]),
        (10, 5, -3, [-10, -5]),
        (10, 3, 11, [3, 6, 9]),
        (10, 3, 12, [3, 6, 9, 12]),
        (10, 3, -1, [-9, -6, -3]),
        (10, 7, 14, [7, 14]),
        (10, 7, 17, [14]),
        (10, 7, -4, [-7]),
    ],
)
def test_a_time_belongs_to_the_windows_of_the_grid_that_contain_it(
    size_ms: int, slide_ms: int, time_ms: int, expected: list[int]
) -> None:
    assert starts(size_ms, slide_ms, time_ms) == expected


def test_an_offset_moves_the_grid() -> None:
    assert starts(60, 60, 14, offset_ms=15) == [-45]
    assert starts(60, 60, 15, offset_ms=15) == [15]


# --- firing ---


def test_a_window_is_closed_at_its_start_and_open_at_its_end() -> None:
    # [0 . . . . . . . . . 10)[10 . . .
    #  x                   x  x
    run = Timeline(spec(size_ms=10))
    run.event(0)
    run.event(9)
    assert seen(run.event(10)) == [("on_time", 0, 10, 2.0)]


def test_a_window_fires_when_the_watermark_reaches_its_end() -> None:
    # watermark = highest time - 3; the window [0, 10) waits for 13
    run = Timeline(spec(size_ms=10, out_of_orderness_ms=3))
    run.event(1)
    run.event(12)
    assert seen(run.event(9)) == []
    assert seen(run.event(13)) == [("on_time", 0, 10, 2.0)]


def test_windows_that_close_together_come_in_the_order_of_their_ends_and_keys() -> None:
    run = Timeline(spec(size_ms=10, out_of_orderness_ms=100))
    run.event(11, key="b")
    run.event(1, key="b")
    run.event(2, key="a")
    assert seen(run.event(200)) == [
        ("a", "on_time", 0, 10, 1.0),
        ("b", "on_time", 0, 10, 1.0),
        ("b", "on_time", 10, 20, 1.0),
    ]


def test_a_window_without_readings_gives_nothing() -> None:
    run = Timeline(spec(size_ms=10))
    run.event(1)
    assert len(run.event(1_000)) == 1


def test_end_of_input_closes_every_window() -> None:
    run = Timeline(spec(size_ms=10))
    run.event(1)
    assert seen(run.end()) == [("on_time", 0, 10, 1.0)]


def test_the_clock_of_1969_floors() -> None:
    run = Timeline(spec("hopping", size_ms=4, slide_ms=2))
    run.event(1)
    assert seen(run.end()) == [("on_time", -2, 2, 1.0), ("on_time", 0, 4, 1.0)]


def test_a_hopping_window_that_is_no_multiple_of_its_slide_holds_what_it_should() -> None:
    # [0 ----------- 10)        1 and 2 are in the first only, 8 in both, 12 in the second only
    #        [7 ----------- 17)
    run = Timeline(spec("hopping", size_ms=10, slide_ms=7, out_of_orderness_ms=100))
    for time_ms in (1, 2, 8, 12):
        run.event(time_ms, float(time_ms))
    assert seen(run.end())[1:3] == [("on_time", 0, 10, 11.0), ("on_time", 7, 17, 20.0)]


# --- lateness ---


def test_an_event_behind_the_watermark_is_not_late_while_its_window_is_open() -> None:
    run = Timeline(spec(size_ms=10))
    run.event(8)
    assert run.event(2) == []
    assert seen(run.event(10)) == [("on_time", 0, 10, 2.0)]


def test_a_late_event_within_the_allowed_lateness_corrects_its_window_at_once() -> None:
    #   [0 ---- 10)    x 4: late, lateness ends at 15
    #           wm 10 ------- 15
    run = Timeline(spec(size_ms=10, allowed_lateness_ms=5))
    run.event(1, 1.0)
    run.event(10, 100.0)
    first, second = run.event(4, 2.0)[0], run.event(5, 4.0)[0]
    assert seen([first, second]) == [("correction", 0, 10, 3.0), ("correction", 0, 10, 7.0)]
    assert (first.revision, second.revision, second.count) == (1, 2, 3)


def test_an_event_at_the_end_of_the_allowed_lateness_is_dropped_counted_and_reported() -> None:
    run = Timeline(spec(size_ms=10, allowed_lateness_ms=5))
    run.event(1)
    run.event(15)
    (dropped,) = run.event(4, 7.0)
    assert seen([dropped]) == [("dropped", 4)]
    assert dropped.reason == "late"
    assert dropped.result == {"topic": "t/s", "value": 7.0, "windows": [[0, 10]]}
    assert run.counters.late_dropped == 1
    assert seen(run.end()) == [("on_time", 10, 20, 1.0)]


def test_a_late_event_for_a_window_that_was_empty_is_a_correction_too() -> None:
    run = Timeline(spec(size_ms=10, allowed_lateness_ms=50))
    run.event(30)
    (late,) = run.event(3)
    assert (late.kind, late.revision) == ("correction", 1)


def test_lateness_is_judged_for_each_window_of_an_event() -> None:
    # [0 ------ 3)           wm 3: expired
    #    [1 ------ 4)        still open
    #       [2 ------ 5)     still open
    #            x 2.4 (all times in tens)
    run = Timeline(spec("hopping", size_ms=30, slide_ms=10))
    run.event(30)
    (dropped,) = run.event(24)
    assert dropped.result == {"topic": "t/s", "value": 1.0, "windows": [[0, 30]]}
    assert seen(run.event(50)) == [("on_time", 10, 40, 2.0), ("on_time", 20, 50, 2.0)]


def test_the_identity_of_each_result_is_its_own() -> None:
    run = Timeline(spec(size_ms=10, allowed_lateness_ms=50, early_count=1))
    out = run.event(1) + run.event(2, key="j") + run.event(10) + run.event(3) + run.event(3)
    out += run.event(1_000) + run.event(1) + run.event(1)
    assert {one.kind for one in out} == {"early", "on_time", "correction", "dropped"}
    assert len({one.identity for one in out}) == len(out)


def test_the_readings_of_one_message_are_judged_together_whatever_their_order() -> None:
    run = Timeline(spec(size_ms=10))
    samples = [Sample(time_ms, {"key": "k", "value": 1.0}) for time_ms in (35, 12, 3)]
    out = gathered(run.engine.process("t/s", None, {}, samples, 35))
    assert seen(out) == [("on_time", 0, 10, 1.0), ("on_time", 10, 20, 1.0)]
    assert seen(run.event(12)) == [("dropped", 12)]


# --- sessions ---


def test_a_session_ends_a_gap_after_its_last_event() -> None:
    # x x   x                x
    # [1 ------- 5+10)       [30 --
    run = Timeline(spec("session", gap_ms=10))
    for time_ms in (1, 2, 5):
        run.event(time_ms)
    assert seen(run.event(30)) == [("on_time", 1, 15, 3.0)]


def test_events_exactly_a_gap_apart_are_two_sessions() -> None:
    run = Timeline(spec("session", gap_ms=10))
    run.event(9)
    assert seen(run.event(19)) == [("on_time", 9, 19, 1.0)]
    assert seen(run.end()) == [("on_time", 19, 29, 1.0)]


def test_an_event_between_two_sessions_joins_them() -> None:
    run = Timeline(spec("session", gap_ms=10, out_of_orderness_ms=100))
    run.event(0)
    run.event(15)
    run.event(8)
    assert seen(run.end()) == [("on_time", 0, 25, 3.0)]


def test_a_late_event_that_joins_sessions_replaces_what_they_emitted() -> None:
    # [1000 ----- 11500) [11600 -- 14600)    both have fired; 10000 bridges them
    run = Timeline(spec("session", gap_ms=3_000, allowed_lateness_ms=10_000, out_of_orderness_ms=10))
    for time_ms in (1_000, 2_000, 4_500, 7_000, 8_500):
        run.event(time_ms)
    run.event(11_600)
    assert seen(run.event(14_700, key="clock")) == [("on_time", 11_600, 14_600, 1.0)]
    (bridge,) = run.event(10_000)
    assert seen([bridge]) == [("correction", 1_000, 14_600, 7.0)]
    assert bridge.replaces == ((1_000, 11_500), (11_600, 14_600))
    assert run.event(14_500) == []
    (last, clock) = run.event(20_000, key="clock")
    assert (seen([last]), last.replaces) == ([("on_time", 1_000, 17_500, 8.0)], ((1_000, 14_600),))
    assert clock.key == "clock"


def test_a_late_event_inside_a_session_that_fired_replaces_nothing() -> None:
    run = Timeline(spec("session", gap_ms=10, allowed_lateness_ms=50))
    run.event(0)
    run.event(9)
    run.event(40, key="clock")
    (inside,) = run.event(5)
    assert (inside.kind, inside.revision, inside.replaces) == ("correction", 1, ())


def test_a_late_event_that_extends_a_session_moves_its_firing_too() -> None:
    # [0 -- 10) fired at 12, kept until 110; 9 makes it [0 -- 19), which fires at 19 and not at 110
    run = Timeline(spec("session", gap_ms=10, allowed_lateness_ms=100))
    run.event(0)
    assert seen(run.event(12, key="clock")) == [("on_time", 0, 10, 1.0)]
    assert run.event(9) == []
    assert seen(run.event(19, key="clock")) == [("on_time", 0, 19, 2.0)]


def test_a_late_event_that_no_kept_session_takes_is_dropped() -> None:
    run = Timeline(spec("session", gap_ms=10))
    run.event(0)
    run.event(40, key="clock")
    assert seen(run.event(5)) == [("dropped", 5)]


# --- windows without a grid ---


def test_a_count_window_holds_n_readings_and_starts_over() -> None:
    run = Timeline(spec("count", count=2))
    assert run.event(2, 1.0) == []
    assert seen(run.event(4, 4.0)) == [("on_time", 2, 4, 5.0)]
    assert run.event(12, 2.0) == []
    assert run.end() == []


def test_a_global_window_accumulates_from_firing_to_firing() -> None:
    run = Timeline(spec("global", trigger_count=2))
    out = [run.event(time_ms) for time_ms in (5, 1, 3, 2)]
    assert seen(out[1] + out[3]) == [("on_time", 1, 5, 2.0), ("on_time", 1, 5, 4.0)]
    assert [one.revision for one in out[1] + out[3]] == [0, 1]


def test_a_discarding_global_window_starts_over() -> None:
    run = Timeline(spec("global", trigger_count=2, mode="discarding"))
    out = [one for time_ms in (5, 1, 3, 2) for one in run.event(time_ms)]
    assert seen(out) == [("on_time", 1, 5, 2.0), ("on_time", 2, 3, 2.0)]
    assert len({one.identity for one in out}) == 2


def test_a_global_window_gives_what_is_new_at_the_end_of_input() -> None:
    run = Timeline(spec("global", trigger_count=10))
    for time_ms in range(9):
        assert run.event(time_ms) == []
    assert seen(run.end()) == [("on_time", 0, 8, 9.0)]


def test_a_time_trigger_fires_what_is_new_as_time_passes_at_the_gateway() -> None:
    run = Timeline(spec("global", trigger_every_ms=10))
    run.tick(100)
    run.event(7, at=103)
    assert run.tick(109) == []
    assert seen(run.tick(110)) == [("on_time", 7, 7, 1.0)]
    assert run.tick(120) == []
    run.event(9, at=121)
    assert seen(run.end()) == [("on_time", 7, 9, 2.0)]


# --- early results ---


def test_early_results_come_every_n_readings_and_leave_the_window_open() -> None:
    run = Timeline(spec(size_ms=10, early_count=2))
    out = [run.event(time_ms) for time_ms in (1, 2, 3, 4, 10)]
    assert seen(out[1] + out[3] + out[4]) == [
        ("early", 0, 10, 2.0),
        ("early", 0, 10, 4.0),
        ("on_time", 0, 10, 4.0),
    ]
    assert [one.revision for one in out[1] + out[3] + out[4]] == [0, 1, 0]


@pytest.mark.parametrize("kind", ["tumbling", "session"])
def test_early_results_come_as_time_passes_if_there_is_something_new(kind: str) -> None:
    run = Timeline(spec(kind, size_ms=1_000, gap_ms=1_000, early_every_ms=10))
    run.tick(0)
    run.event(5, at=5)
    assert [one[0] for one in seen(run.tick(10))] == ["early"]
    assert run.tick(20) == []


@pytest.mark.parametrize(
    "timed",
    [
        pytest.param(spec(size_ms=10**9, early_every_ms=10), id="early.every"),
        pytest.param(spec("global", trigger_every_ms=10, mode="accumulating"), id="trigger.every"),
    ],
)
def test_results_by_time_go_by_the_gateways_clock_and_not_by_the_readings_times(timed: WindowSpec) -> None:
    """Event time jumps by hours and comes from years ago: neither brings a result, nor keeps one away."""
    run = Timeline(timed)
    run.tick(1_000)
    for time_ms in (5, 3_600_000, 7_200_000):
        assert run.event(time_ms, at=1_001) == []
    assert run.tick(1_009) == []
    assert len(run.tick(1_010)) == 1
    run.event(6, at=1_011)
    assert run.tick(1_019) == []
    assert len(run.tick(1_023)) == 1
    assert run.tick(1_030) == []


def test_a_discarding_window_gives_only_what_is_new_since_it_last_gave_something() -> None:
    run = Timeline(spec(size_ms=10, allowed_lateness_ms=50, mode="discarding"))
    run.event(1, 1.0)
    run.event(10, 0.0)
    assert seen(run.event(2, 2.0)) == [("correction", 0, 10, 2.0)]


def test_early_results_by_count_come_once_for_all_readings_of_a_message() -> None:
    run = Timeline(spec(size_ms=100, early_count=2))
    samples = [Sample(time_ms, {"key": "k", "value": 1.0}) for time_ms in range(5)]
    assert seen(gathered(run.engine.process("t/s", None, {}, samples, 5))) == [("early", 0, 100, 5.0)]
    assert run.event(6) == []
    assert seen(run.event(7)) == [("early", 0, 100, 7.0)]


def test_overlapping_windows_that_discard_each_give_what_is_new_to_them() -> None:
    # [-5 ---- 5)      fires at 5: 1.0; a late 2.0 at 3 is new to it, and to [0, 10)
    #      [0 ---- 10)
    run = Timeline(spec("hopping", size_ms=10, slide_ms=5, allowed_lateness_ms=50, mode="discarding"))
    run.event(1, 1.0)
    assert seen(run.event(5, 4.0)) == [("on_time", -5, 5, 1.0)]
    assert seen(run.event(3, 2.0)) == [("correction", -5, 5, 2.0)]
    assert seen(run.event(10, 0.0)) == [("on_time", 0, 10, 7.0)]


def test_panes_that_were_stored_before_windows_shared_slices_are_read() -> None:
    # [0 ---- 10)      has 1.0 in a pane of its own,
    #      [5 ---- 15)  and this one too
    run = Timeline(spec("hopping", size_ms=10, slide_ms=5, allowed_lateness_ms=50, mode="discarding"))
    run.event(6, 1.0)
    run.rows.update({(window, row): state for window, row, state in run.engine.take_changes()})
    (at,) = [at for at in run.rows if at[1][:1] == b"k"]
    state = orjson.loads(run.rows[at] or b"")
    ((_, accumulator, count),), windows, early = state[5]["shared"]
    state[5] = [[[start_ms, accumulator, count] for start_ms, _ in windows], windows, early]
    run.rows[at] = orjson.dumps(state)
    run = run.restarted()
    run.event(7, 2.0)
    run = run.restarted()
    assert seen(run.event(15, 0.0)) == [("on_time", 0, 10, 3.0), ("on_time", 5, 15, 3.0)]


class FullAfterTwo:
    """Sums two values at most."""

    def create_accumulator(self) -> list[float]:
        return []

    def add_input(self, accumulator: list[float], reading: Reading) -> list[float]:
        if len(accumulator) == 2:
            raise ValueError("full")
        accumulator.append(reading.value)
        return accumulator

    def merge_accumulators(self, accumulators: Sequence[list[float]]) -> list[float]:
        return [value for one in accumulators for value in one]

    def extract_output(self, accumulator: list[float]) -> dict[str, float]:
        return {"sum": sum(accumulator)}


def test_a_reading_that_a_later_window_refuses_is_taken_out_of_the_earlier_ones() -> None:
    window = spec("hopping", size_ms=10, slide_ms=5, allowed_lateness_ms=50, mode="discarding")
    run = Timeline(window, FullAfterTwo())
    run.event(6, 1.0)
    run.event(7, 2.0)  # [0, 10) and [5, 15) have two
    run.event(10, 0.0)  # [0, 10) has fired and is empty; [5, 15) refuses this one
    late = run.event(8, 4.0)  # [0, 10) would take it, [5, 15) refuses it
    assert not any(one.kind == "correction" for one in late)
    results = seen(run.end())
    assert ("on_time", 5, 15, 3.0) in results
    assert not any(row[1:3] == (0, 10) for row in results), "its first result has been given"


# --- corrections that are gathered ---


def test_late_readings_make_one_correction_when_its_time_has_come() -> None:
    run = Timeline(spec(size_ms=10, allowed_lateness_ms=1_000, corrections="every", corrections_every_ms=50))
    run.event(1, 1.0)
    run.event(10, 0.0)
    assert run.event(2, 2.0, at=100) == run.event(3, 4.0, at=120) == run.tick(149) == []
    run = run.restarted()
    assert seen(run.tick(150)) == [("correction", 0, 10, 7.0)]
    assert run.tick(1_000) == []
    assert run.counters.corrections == 1


def test_what_is_owed_is_sent_before_the_window_is_forgotten() -> None:
    run = Timeline(spec(size_ms=10, allowed_lateness_ms=50, corrections="every", corrections_every_ms=10_000))
    run.event(1, 1.0)
    run.event(10, 0.0)
    assert run.event(2, 2.0) == []
    assert seen(run.event(60, 0.0)) == [("on_time", 10, 20, 0.0), ("correction", 0, 10, 3.0)]


def test_corrections_that_are_off_are_counted() -> None:
    run = Timeline(spec(size_ms=10, allowed_lateness_ms=50, corrections="off"))
    run.event(30)
    assert run.event(3) == run.event(4) == []
    run = run.restarted()
    assert [one[0] for one in seen(run.end())] == ["on_time"]
    assert run.counters.corrections_withheld == 0


def test_windows_of_keys_with_clocks_of_their_own_come_by_their_ends_then_keys() -> None:
    run = Timeline(spec(size_ms=10, watermark="per_key"))
    run.event(1, key="b")
    run.event(5, key="a")
    samples = [
        Sample(at, {"key": key, "value": 1.0}) for at, key in [(35, "b"), (12, "a"), (22, "b"), (40, "a")]
    ]
    out = gathered(run.engine.process("t/s", None, {}, samples, 35))
    assert [(one.end_ms, one.key) for one in out] == [(10, "a"), (10, "b"), (20, "a"), (30, "b")]


# --- computed ---


def test_a_value_is_computed_over_the_results_of_fields_from_several_topics() -> None:
    compute = {
        "dew_point": "temperature.mean - (100 - humidity.mean) / 5",
        "readings": "temperature.count + humidity.count",
        "twice": "readings * 2",
        "unknown": "temperature.nothing + 1",
    }
    run = Timeline(spec(size_ms=10, fields=("temperature", "humidity"), compute=compute))
    run.sample(1, {"key": "k", "temperature": 20.0}, source="thermometer")
    run.sample(2, {"key": "k", "temperature": 22.0}, source="thermometer")
    run.sample(3, {"key": "k", "humidity": 50.0}, source="hygrometer")
    result: Any = run.end()[0].result
    assert (result["dew_point"], result["readings"], result["twice"]) == (11.0, 3.0, 6.0)
    assert result["unknown"] is None
    assert result["temperature"]["mean"] == 21.0
    assert run.counters.compute_misses == 1


def test_a_window_of_one_field_computes_over_its_result() -> None:
    run = Timeline(spec(size_ms=10, compute={"span": "max - min", "same": "value.max - value.min"}))
    run.event(1, 3.0)
    run.event(2, 5.0)
    result: Any = run.end()[0].result
    assert (result["span"], result["same"]) == (2.0, 2.0)
