"""Rates and the forecast of the backlog, from totals that are made up."""

from __future__ import annotations

import pytest

from gateway.http.history import KEPT_ROWS, Forecast, History, Totals

GIB = 1024**3


def history(*totals: Totals) -> History:
    made = History()
    for each in totals:
        made.add(round(each.at_s * 1000), each)
    return made


def forecast(
    made: History, *, has_cloud: bool = True, connected: bool = True, max_bytes: int = GIB
) -> Forecast:
    return made.forecast(has_cloud=has_cloud, connected=connected, max_bytes=max_bytes)


def test_before_the_first_second_nothing_is_claimed() -> None:
    assert forecast(History()) == Forecast("live", 0, None, None)
    assert History().rate("taken_in") == 0


def test_a_rate_is_what_was_added_over_the_last_seconds() -> None:
    made = history(*(Totals(at_s, taken_in=100 * at_s if at_s < 10 else 1000) for at_s in range(20)))
    assert made.rate("taken_in") == 0
    assert [round(row.in_per_s) for row in made.rows()][:11] == [0, *[100] * 10]


def test_a_backlog_that_shrinks_says_when_it_is_gone() -> None:
    made = history(
        *(Totals(s, taken_in=50 * s, acked=1050 * s, waiting=20_000 - 1000 * s) for s in range(11))
    )
    state, waiting, empty_in_s, full_in_s = forecast(made)
    assert (state, waiting, full_in_s) == ("draining", 10_000, None)
    assert empty_in_s == pytest.approx(10)


def test_an_outage_says_when_the_disk_budget_is_used_up() -> None:
    made = history(*(Totals(s, taken_in=50 * s, waiting=50 * s, waiting_bytes=1000 * s) for s in range(11)))
    assert forecast(made, connected=False, max_bytes=20_000) == Forecast("outage", 500, None, 10.0)


def test_a_backlog_that_grows_although_the_line_is_up_is_called_growing() -> None:
    made = history(*(Totals(s, taken_in=900 * s, acked=100 * s, waiting=800 * s) for s in range(11)))
    assert forecast(made).state == "growing"


def test_what_is_under_way_anyway_is_no_backlog() -> None:
    made = history(*(Totals(s, taken_in=900 * s, acked=900 * s, waiting=450) for s in range(11)))
    assert forecast(made).state == "live"
    assert forecast(made, has_cloud=False).state == "local"


def test_no_progress_although_something_waits_is_a_stall_and_an_empty_buffer_is_none() -> None:
    waiting = history(Totals(0, acked=5), *(Totals(s, acked=9, waiting=3) for s in range(1, 100)))
    idle = history(*(Totals(s, acked=9) for s in range(100)))
    assert (waiting.stalled_s(), idle.stalled_s()) == (98, 0)


def test_the_history_is_bounded() -> None:
    made = history(*(Totals(at_s) for at_s in range(KEPT_ROWS + 5)))
    assert len([*made.rows()]) == KEPT_ROWS
