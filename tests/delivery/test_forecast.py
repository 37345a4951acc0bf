"""The rate of the drain and the forecast of the backlog, from totals that are made up."""

from __future__ import annotations

import pytest

from gateway.delivery.forecast import Forecast, Progress, Totals

GIB = 1024**3


def progress(*totals: Totals) -> Progress:
    made = Progress()
    for each in totals:
        made.add(each)
    return made


def forecast(
    made: Progress, *, has_cloud: bool = True, connected: bool = True, max_bytes: int = GIB
) -> Forecast:
    return made.forecast(has_cloud=has_cloud, connected=connected, max_bytes=max_bytes)


def test_a_backlog_that_shrinks_says_when_it_is_gone() -> None:
    made = progress(
        *(Totals(s, taken_in=50 * s, acked=1050 * s, waiting=20_000 - 1000 * s) for s in range(11))
    )
    state, waiting, empty_in_s, full_in_s = forecast(made)
    assert (state, waiting, full_in_s) == ("draining", 10_000, None)
    assert empty_in_s == pytest.approx(10)


def outage(seconds: int) -> Progress:
    """A line that was up for ten seconds, then down: 1000 bytes a second pile up."""
    return progress(
        *(Totals(s - 10, taken_in=50 * s, waiting=0, connected=True) for s in range(10)),
        *(
            Totals(s, taken_in=50 * s, waiting=50 * s, waiting_bytes=1000 * s, connected=False)
            for s in range(seconds + 1)
        ),
    )


def test_an_outage_of_a_minute_says_when_the_disk_budget_is_used_up() -> None:
    made = outage(60)
    assert forecast(made, connected=False, max_bytes=80_000) == Forecast("outage", 3000, None, 20.0)


def test_an_outage_of_seconds_claims_nothing_about_the_disk() -> None:
    made = outage(59)
    assert forecast(made, connected=False, max_bytes=80_000) == Forecast("outage", 2950, None, None)


def test_a_backlog_that_grows_although_the_line_is_up_is_called_growing() -> None:
    made = progress(*(Totals(s, taken_in=900 * s, acked=100 * s, waiting=800 * s) for s in range(11)))
    assert forecast(made).state == "growing"


def test_what_is_under_way_anyway_is_no_backlog() -> None:
    made = progress(*(Totals(s, taken_in=900 * s, acked=900 * s, waiting=450) for s in range(11)))
    assert forecast(made).state == "live"
    assert forecast(made, has_cloud=False).state == "local"


def test_before_the_first_second_nothing_is_claimed() -> None:
    assert forecast(Progress()) == Forecast("live", 0, None, None)
    assert Progress().drain_rate() == 0
    assert Progress().backlog_rate(0) is None


def outage_and_drain(outage_s: int, drain_s: int) -> Progress:
    """10 events a second come in; then 110 a second go out."""
    end_s = outage_s + drain_s
    return progress(
        *(
            Totals(
                s,
                taken_in=10 * s,
                stored=10 * s,
                acked=110 * max(0, s - outage_s),
                waiting=10_000 + 10 * s - 110 * max(0, s - outage_s),
            )
            for s in range(end_s + 1)
        )
    )


def test_an_outage_that_is_over_is_left_out_of_the_rate_and_the_forecast() -> None:
    made = outage_and_drain(50, 4)
    assert made.drain_rate() == pytest.approx(110)
    assert forecast(made).empty_in_s == pytest.approx((10_000 + 10 * 50 - 400) / 100)


def test_the_backlog_gets_what_live_events_leave_of_the_drain_and_at_least_half() -> None:
    assert outage_and_drain(5, 20).backlog_rate(10) == pytest.approx(100)
    crowded = progress(*(Totals(s, stored=90 * s, acked=100 * s, waiting=9000) for s in range(20)))
    assert crowded.backlog_rate(10) == pytest.approx(50)


def test_the_backlogs_rate_is_known_once_it_was_measured_for_long_enough() -> None:
    assert outage_and_drain(5, 9).backlog_rate(10) is None
    assert outage_and_drain(5, 10).backlog_rate(10) is not None
    assert outage_and_drain(20, 0).backlog_rate(10) is None


def test_only_the_last_minute_counts() -> None:
    made = progress(*(Totals(s, acked=min(s, 100) * 50, waiting=5) for s in range(200)))
    assert made.drain_rate() == 0


def test_no_progress_although_something_waits_is_a_stall_and_an_empty_buffer_is_none() -> None:
    waiting = progress(Totals(0, acked=5), *(Totals(s, acked=9, waiting=3) for s in range(1, 100)))
    idle = progress(*(Totals(s, acked=9) for s in range(100)))
    assert (waiting.stalled_s(), idle.stalled_s()) == (98, 0)


def test_a_backlog_has_no_rate_without_a_connection() -> None:
    made = progress(*(Totals(s, acked=100 * s, waiting=9000) for s in range(20)))
    assert made.backlog_rate(10) is not None
    made.add(Totals(20, acked=2000, waiting=9000, connected=False))
    assert made.backlog_rate(10) is None
