"""The plugins that ship: the contract, for each, and what each of them computes."""

from __future__ import annotations

import math
import random
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.events import Reading
from gateway.pipeline.plugins_loader import find_plugins, load_window_plugin
from gateway.testing import check_plugin, fold, reading, result_of
from gateway.windows.plugin import alike
from gateway.windows.spec import WindowSpec
from tests.support.windowing import Timeline, shipped, spec

OPTIONS: dict[str, dict[str, Any]] = {"threshold": {"above": 1}, "deadband": {"band": 1}}
FIELDS = {"distance": ("lat", "lon")}
NAMES = sorted(find_plugins())


def readings(*values: float, step_ms: int = 1_000) -> list[Reading]:
    return [reading(value, at * step_ms) for at, value in enumerate(values)]


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_plugin_keeps_the_contract_and_says_what_it_does(name: str) -> None:
    found = find_plugins()
    window = WindowSpec(
        "w", "tumbling", name, OPTIONS.get(name, {}), FIELDS.get(name, ("value",)), size_ms=10
    )
    check_plugin(load_window_plugin(window, found), name)
    assert found[name].summary.endswith((".", "one:", "degrees.", "sketch DDSketch.", "numbers."))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("distance", "state_duration")])
@given(
    values=st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=30),
    cut=st.integers(0, 30),
)
def test_merging_in_time_order_gives_what_adding_gives(name: str, values: list[float], cut: int) -> None:
    plugin = shipped(name, **OPTIONS.get(name, {}))
    parts = readings(*values)[:cut], readings(*values)[cut:]
    merged = plugin.merge_accumulators([fold(plugin, part) for part in parts])
    whole = result_of(plugin, readings(*values))
    if name == "circular_mean":  # opposite directions may leave a remainder of any direction
        assert math.isclose(
            plugin.extract_output(merged)["concentration"], whole["concentration"], abs_tol=1e-9
        )
    else:
        assert close(plugin.extract_output(merged), whole)


def close(left: Any, right: Any) -> bool:
    """Rounding of sums of numbers up to a million."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(close(left[one], right[one]) for one in left)
    if isinstance(left, float):
        return math.isclose(left, right, rel_tol=1e-6, abs_tol=1e-3)
    return alike(left, right)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_stats_are_those_of_the_standard_library(values: list[float]) -> None:
    result = result_of(shipped("stats"), readings(*values))
    assert result["count"] == len(values)
    assert (result["min"], result["max"]) == (min(values), max(values))
    assert (result["first"], result["last"]) == (values[0], values[-1])
    assert math.isclose(result["sum"], math.fsum(values), rel_tol=1e-9, abs_tol=1e-6)
    assert math.isclose(result["mean"], statistics.fmean(values), rel_tol=1e-9, abs_tol=1e-6)
    assert math.isclose(result["stddev"], statistics.pstdev(values), rel_tol=1e-6, abs_tol=1e-6)


def test_stats_keep_their_digits_far_from_zero() -> None:
    values = [1e9 + value for value in (4.0, 7.0, 13.0, 16.0)]
    assert result_of(shipped("stats"), readings(*values))["stddev"] == pytest.approx(math.sqrt(22.5))


def test_first_and_last_go_by_event_time() -> None:
    result = result_of(
        shipped("stats"), [reading(1.0, 20), reading(2.0, 10), reading(3.0, 30), reading(4.0, 30)]
    )
    assert (result["first"], result["last"]) == (2.0, 4.0)


def test_percentiles_are_within_their_accuracy() -> None:
    draw = random.Random(3)
    values = [draw.lognormvariate(3, 1) for _ in range(5_000)] + [
        -draw.expovariate(0.1) for _ in range(5_000)
    ]
    result = result_of(shipped("percentiles", percentiles=[5, 50, 99.9], accuracy=0.02), readings(*values))
    ordered = sorted(values)
    for percentile in (5, 50, 99.9):
        exact = ordered[math.floor(percentile / 100 * 9_999)]
        assert result[f"p{percentile:g}"] == pytest.approx(exact, rel=0.02)


def test_percentiles_take_zeros_and_extremes_in_a_bounded_sketch() -> None:
    plugin = shipped("percentiles")
    acc = fold(plugin, readings(0.0, 1e-300, 1e300, -1e300, 5.0))
    assert plugin.extract_output(acc)["p50"] == 0.0
    assert (plugin.extract_output(acc)["min"], plugin.extract_output(acc)["max"]) == (-1e300, 1e300)
    many = fold(plugin, readings(*(10.0 ** (at / 10) for at in range(-3_000, 3_000))))
    assert len(many["above"]) < 3_000


@pytest.mark.parametrize(
    "options", [{"percentiles": [101]}, {"percentiles": "p50"}, {"accuracy": 0.9}, {"accurcy": 1}]
)
def test_percentiles_refuse_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"percentiles|accuracy"):
        shipped("percentiles", **options)


def test_a_counter_rises_over_resets() -> None:
    result = result_of(shipped("counter"), readings(10, 15, 15, 2, 6, 1))
    assert (result["increase"], result["resets"]) == (5 + 2 + 4 + 1, 2)
    assert result["rate_per_s"] == pytest.approx(12 / 5)


def test_a_counter_may_wrap() -> None:
    assert result_of(shipped("counter", wraps_at=256), readings(250, 4))["increase"] == 10


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40), st.randoms())
def test_a_counter_is_exact_whatever_the_order_of_arrival(steps: list[tuple[int, bool]], draw: Any) -> None:
    value, total, made = 0, 0, []
    for at, (step, resets) in enumerate(steps):
        if resets and value > step:
            value = 0
        total += step if at else 0
        value += step
        made.append(reading(float(value), 10 * at))
    draw.shuffle(made)
    assert result_of(shipped("counter"), made)["increase"] == total


def test_a_record_of_many_readings_stays_short_and_right() -> None:
    plugin = shipped("counter")
    acc = fold(plugin, readings(*range(1_000), *range(500), *range(300)))
    assert len(acc) < 200
    assert plugin.extract_output(acc)["increase"] == 999 + 499 + 299
    on_off = [("on" if at // 400 % 2 else "off") for at in range(2_000)]
    acc = fold(shipped("state_duration"), states(*((1_000 * at, state) for at, state in enumerate(on_off))))
    assert len(acc) < 200
    assert shipped("state_duration").extract_output(acc)["seconds"] == {"off": 1_199.0, "on": 800.0}


def test_what_falls_all_the_time_is_no_counter() -> None:
    plugin = shipped("counter")
    acc = fold(plugin, readings(*range(1_000, 0, -1)))
    before = [list(point) for point in acc]
    with pytest.raises(OverflowError, match="more than 1000"):
        plugin.add_input(acc, reading(-5.0, 10**9))
    assert acc == before


def test_a_fall_within_the_tolerance_is_no_reset() -> None:
    result = result_of(shipped("counter", tolerance="10%"), readings(1000, 1001, 1000.5, 995, 1002, 100, 103))
    assert (result["increase"], result["resets"], result["last"]) == (2 + 100 + 3, 1, 103)


def test_zeros_that_come_back_are_no_reset() -> None:
    result = result_of(shipped("counter"), readings(1000, 0, 0, 1001, 0, 3))
    assert (result["increase"], result["resets"], result["left_out"]) == (1 + 3, 1, 2)


def test_a_rise_that_no_meter_makes_is_left_out() -> None:
    plugin = shipped("counter", max_rate=10)
    result = result_of(plugin, readings(100, 105, 1_000_000, 110, 120))
    assert (result["increase"], result["resets"], result["left_out"]) == (20, 0, 1)
    # A new level is believed once the time that has passed allows for it.
    assert result_of(plugin, readings(100, 125, 125, 125))["increase"] == 25


@pytest.mark.parametrize(
    "options", [{"tolerance": "ten"}, {"tolerance": 2}, {"max_rate": 0}, {"wraps_at": -1}]
)
def test_a_counter_refuses_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        shipped("counter", **options)


@pytest.mark.parametrize("plugin", ["counter", "delta"])
@pytest.mark.parametrize("fields", [("value",), ("value", "other")])
def test_whole_numbers_beyond_two_to_the_53_stay_exact(plugin: str, fields: tuple[str, ...]) -> None:
    big = 2**63 - 10
    run = Timeline(spec(size_ms=10, fields=fields), shipped(plugin))
    run.sample(1, {"key": "k", "value": big, "other": 1})
    run = run.restarted()
    run.sample(2, {"key": "k", "value": str(big + 3), "other": 2})
    result: Any = run.end()[0].result
    found = result if len(fields) == 1 else result["value"]
    assert found["increase" if plugin == "counter" else "delta"] == 3
    assert (found["first"], found["last"]) == (big, big + 3)


def step_integral(points: list[tuple[int, float]], until_ms: int, hold_ms: float) -> tuple[float, float]:
    """The integral of a step function, millisecond by millisecond, and how many it covers."""
    total = covered = 0.0
    for time_ms in range(points[0][0], until_ms):
        at, value = max(
            (one for one in enumerate(points) if one[1][0] <= time_ms), key=lambda one: one[1][0]
        )[1]
        if time_ms - at < hold_ms:
            total, covered = total + value, covered + 1
    return total, covered


@pytest.mark.parametrize("hold", [False, True, "7ms"])
@given(
    values=st.dictionaries(st.integers(0, 59), st.integers(-50, 50), min_size=1, max_size=20),
    draw=st.randoms(use_true_random=False),
)
def test_time_weighted_is_the_integral_of_a_step_function(
    hold: bool | str, values: dict[int, int], draw: random.Random
) -> None:
    points = [(at, float(value)) for at, value in sorted(values.items())]
    shuffled = draw.sample(points, len(points))
    window = spec("hopping", size_ms=60, slide_ms=20, out_of_orderness_ms=1_000)
    run = Timeline(window, shipped("time_weighted", hold=hold))
    for time_ms, value in shuffled:
        run.event(time_ms, value)
    (whole,) = [one for one in run.end() if one.start_ms == 0]
    until_ms = 60 if hold else points[-1][0]
    total, covered = step_integral(points, until_ms, 7 if hold == "7ms" else math.inf)
    result: Any = whole.result
    assert result["integral_per_h"] * 3_600_000 == pytest.approx(total)
    assert result["seconds"] * 1_000 == pytest.approx(covered)
    assert result["mean"] == pytest.approx(total / covered if covered else points[-1][1])


def test_time_weighted_sums_up_old_readings_and_stays_short() -> None:
    plugin = shipped("time_weighted")
    made = [reading(float(at % 7), at * 1_000) for at in range(10_000)]
    whole = fold(plugin, made)
    assert len(whole[7]) <= 128
    parts = [fold(plugin, made[at : at + 999]) for at in range(0, 10_000, 999)]
    for acc in (whole, plugin.merge_accumulators(parts)):
        result = plugin.extract_output(acc)
        assert result["integral_per_h"] * 3_600 == pytest.approx(sum(one.value for one in made[:-1]))
        assert (result["seconds"], result["out_of_order"]) == (9_999, 0)


def test_an_exponential_mean_halves_what_is_a_half_life_old() -> None:
    plugin = shipped("exponential_mean", half_life="10s")
    assert result_of(plugin, readings(0, 3, step_ms=10_000))["mean"] == pytest.approx(2)
    assert result_of(plugin, [*reversed(readings(0, 3, step_ms=10_000))])["mean"] == pytest.approx(2)
    with pytest.raises(ValueError, match="half_life"):
        shipped("exponential_mean", half_life="soon")


def test_percentiles_come_before_what_goes_with_them() -> None:
    result = result_of(shipped("percentiles"), readings(1, 2, 3))
    assert list(result) == ["p50", "p90", "p95", "p99", "min", "max", "count"]


def test_delta_is_last_minus_first() -> None:
    result = result_of(shipped("delta"), [reading(5.0, 2_000), reading(3.0, 1_000), reading(9.0, 4_000)])
    assert result == {"delta": 6.0, "first": 3.0, "last": 9.0, "span_s": 3.0}


def alerts(values: list[float], **options: Any) -> list[tuple[int | None, str]]:
    """(end of the window, alert) over windows of ten seconds with one reading each."""
    run = Timeline(spec(size_ms=10_000), shipped("threshold", **options))
    out = [one for at, value in enumerate(values) for one in run.event(10_000 * at, value)] + run.end()
    return [(one.end_ms and one.end_ms // 10_000, one.result["alert"]) for one in out]  # type: ignore[index]


def test_a_threshold_alerts_once_and_clears_once() -> None:
    assert alerts([29, 31, 32, 30.5, 30, 31, 20], above=30) == [
        (2, "raised"),
        (5, "cleared"),
        (6, "raised"),
        (7, "cleared"),
    ]


def test_a_threshold_with_hysteresis_does_not_flap() -> None:
    assert alerts([29, 31, 29.5, 31, 29, 31], above=30, clear=29) == [
        (2, "raised"),
        (5, "cleared"),
        (6, "raised"),
    ]


def test_a_threshold_waits_until_it_has_been_crossed_for_long_enough() -> None:
    # Windows of ten seconds: above from the 2nd on, but for the 3rd, so that it counts anew from the 4th.
    values = [20.0, 31, 20, 31, 31, 31, 31, 20]
    assert alerts(values, above=30, **{"for": "20s"}) == [(6, "raised"), (8, "cleared")]


def test_a_threshold_says_it_again_while_it_lasts() -> None:
    told = [(2, "raised"), (4, "raised"), (6, "raised"), (7, "cleared")]
    assert alerts([20, 31, 31, 31, 31, 31, 20], above=30, repeat="20s") == told


def test_a_threshold_may_lie_below() -> None:
    assert alerts([5, 1, 3, 5], below=2, clear=4) == [(2, "raised"), (4, "cleared")]


def test_the_mean_of_five_minutes_above_thirty_is_an_alert() -> None:
    window = spec("hopping", size_ms=300_000, slide_ms=60_000)
    run = Timeline(window, shipped("threshold", above=30))
    values = [20.0] * 5 + [40.0] * 5 + [20.0] * 6
    out = [one for at, value in enumerate(values) for one in run.event(60_000 * at, value)]
    assert [(one.end_ms, one.result) for one in out] == [
        (480_000, {"alert": "raised", "mean": 32.0, "limit": 30.0}),
        (780_000, {"alert": "cleared", "mean": 28.0, "limit": 30.0}),
    ]


@pytest.mark.parametrize(
    "options",
    [{}, {"above": 1, "below": 2}, {"above": "hot"}, {"above": 3, "clear": 4}, {"above": 1, "of": "p99"}],
)
def test_a_threshold_refuses_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"above|clear|of is"):
        shipped("threshold", **options)


def sent(values: list[float], **options: Any) -> list[float]:
    run = Timeline(spec("count", count=1), shipped("deadband", **options))
    out = [one for at, value in enumerate(values) for one in run.event(1_000 * at, value)]
    return [one.result["value"] for one in out]  # type: ignore[index]


def test_a_deadband_sends_what_has_left_the_band() -> None:
    assert sent([20.0, 20.4, 20.5, 20.6, 20.2, 19.9], band=0.5) == [20.0, 20.6, 19.9]


def test_a_deadband_may_be_a_share_of_the_value() -> None:
    assert sent([100.0, 109.0, 111.0, 120.0, 123.0], percent=10) == [100.0, 111.0, 123.0]


def test_a_deadband_may_send_now_and_then_whatever_happens() -> None:
    assert sent([20.0] * 8, band=1, every_s=3) == [20.0, 20.0, 20.0]


def states(*points: tuple[int, Any]) -> list[Reading]:
    return [Reading(math.nan, time_ms, {"value": state}, "t") for time_ms, state in points]


def test_each_state_lasts_until_the_next_reading() -> None:
    made = states((0, "on"), (1_000, "on"), (3_000, "off"), (4_500, "on"), (5_000, True))
    assert result_of(shipped("state_duration"), made) == {
        "seconds": {"off": 1.5, "on": 3.5, "true": 0.0},
        "changes": 3,
        "first": "on",
        "last": "true",
    }


def test_states_that_come_out_of_order_are_put_in_their_place() -> None:
    made = states((0, "on"), (4_000, "off"), (5_000, "off"), (2_000, "off"), (3_000, "on"))
    assert result_of(shipped("state_duration"), made)["seconds"] == {"off": 2.0, "on": 3.0}


def test_a_window_over_states_takes_text_and_counts_what_is_none() -> None:
    run = Timeline(spec(size_ms=10_000), shipped("state_duration"))
    for time_ms, state in ((0, "open"), (2_000, "closed"), (3_000, None), (4_000, ""), (5_000, "open")):
        run.event(time_ms, state)
    assert [one.result["seconds"] for one in run.end()] == [{"closed": 3.0, "open": 2.0}]  # type: ignore[index]
    assert run.counters.misses == 2


def position(time_ms: int, lat: Any, lon: Any) -> Reading:
    return Reading(0.0, time_ms, {"lat": lat, "lon": lon}, "t")


def test_a_degree_along_the_equator_is_111_kilometres() -> None:
    plugin = shipped("distance", fields=["lat", "lon"])
    result = result_of(plugin, [position(0, 0, 0), position(1, 0, 1), position(2, 0, 0)])
    assert result["way_m"] == pytest.approx(2 * 111_195, rel=1e-4)
    assert result["beeline_m"] == 0


def test_the_way_over_the_date_line_is_short() -> None:
    plugin = shipped("distance", fields=["lat", "lon"])
    assert result_of(plugin, [position(0, 0, 179.9), position(1, 0, -179.9)])["way_m"] < 23_000


def test_a_geofence_tells_whether_the_last_position_is_inside() -> None:
    plugin = shipped("distance", fields=["lat", "lon"], center_lat=52.5, center_lon=13.4, radius_m=500)
    inside = [result_of(plugin, [position(0, 52.5, lon)])["inside"] for lon in (13.405, 13.41)]
    assert inside == [True, False]


def test_a_window_over_positions_counts_a_miss_when_one_half_is_missing() -> None:
    window = spec(size_ms=10, fields=("lat", "lon"))
    run = Timeline(window, shipped("distance", fields=["lat", "lon"]))
    run.sample(1, {"key": "k", "lat": 1.0, "lon": 1.0})
    run.sample(2, {"key": "k", "lat": 1.0})
    run.sample(3, {"key": "k", "lat": 95.0, "lon": 1.0})
    assert [one.count for one in run.end()] == [1]
    assert (run.counters.misses, run.counters.plugin_errors) == (1, 1)


def test_north_is_the_mean_of_350_and_10_degrees() -> None:
    result = result_of(shipped("circular_mean"), readings(350.0, 10.0))
    assert min(result["mean"], 360 - result["mean"]) == pytest.approx(0, abs=1e-9)
    assert result["concentration"] == pytest.approx(math.cos(math.radians(10)))


def test_opposite_directions_have_no_mean() -> None:
    assert result_of(shipped("circular_mean"), readings(90.0, 270.0))["mean"] is None
