"""The course of a number: as many points as a chart can show, and holes where nothing was measured."""

from __future__ import annotations

from gateway.http.fold import Point, chosen_of, folded, numbers_in, with_holes

MINUTE = 60_000


def values(points: list[Point]) -> list[float | None]:
    return [point.value for point in points]


def test_few_points_stay_as_they_are_in_order_of_time() -> None:
    found, width_ms = folded([Point(2, 20), Point(1, 10)], 10)
    assert (values(found), width_ms) == ([10, 20], 0)


def test_many_points_become_means_with_the_least_and_the_most_of_what_they_stand_for() -> None:
    found, width_ms = folded([Point(n * 1000, n % 10, weight=1) for n in range(1000)], 100)
    assert len(found) <= 101
    assert width_ms >= 9990
    assert {(point.low, point.high) for point in found[1:-1]} <= {(0, 9), (0, 8), (1, 9)}
    assert all(4 <= (point.value or 0) <= 5 for point in found[1:-1])


def test_a_mean_of_means_weighs_what_each_was_made_of_and_keeps_the_outermost_values() -> None:
    found, _ = folded([Point(0, 10, 5, 15, weight=3), Point(1, 20, 18, 40, weight=1), Point(9, 1)], 2)
    assert found[0] == Point(1, 12.5, 5, 40, 4)


def test_a_missing_result_of_a_grid_is_a_hole() -> None:
    points = [Point(n * MINUTE, n) for n in (1, 2, 3, 6, 7)]
    assert values(with_holes(points, MINUTE, 0)) == [1, 2, 3, None, 6, 7]


def test_a_device_slower_than_the_windows_is_not_silent_all_the_time() -> None:
    points = [Point(n * MINUTE, n) for n in (0, 3, 6, 9, 15)]
    assert values(with_holes(points, MINUTE, 0)) == [0, 3, 6, 9, None, 15]


def test_a_device_that_reports_when_it_likes_is_silent_after_five_usual_intervals() -> None:
    points = [Point(at * 30_000, at) for at in (0, 1, 2, 3, 7, 13, 14)]
    assert values(with_holes(points, None, 0)) == [0, 1, 2, 3, 7, None, 13, 14]


def test_a_fold_of_wide_points_is_no_silence() -> None:
    points = [Point(n * 10 * MINUTE, n) for n in range(5)]
    assert None not in values(with_holes(points, MINUTE, 10 * MINUTE))


def test_results_of_several_fields_have_names_with_dots() -> None:
    result = {"count": 3, "t": {"mean": 1.5, "unit": "C"}, "ok": True}
    assert numbers_in(result) == {"count": 3, "t.mean": 1.5}
    assert numbers_in(7) == {"": 7}
    assert numbers_in(None) == numbers_in("x") == {}


def test_the_mean_is_drawn_unless_another_number_is_wanted() -> None:
    assert chosen_of(["count", "t.min", "t.mean"], None) == "t.mean"
    assert chosen_of(["count", "mean"], "count") == "count"
    assert chosen_of(["count", "mean"], "gone") == "mean"
    assert chosen_of(["total"], None) == "total"
    assert chosen_of([], None) == ""
