"""Calendar windows against local clocks read every quarter of an hour, in all zones that change clocks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import groupby, pairwise
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest

from gateway.windows.operators.calendar import Calendar
from tests.support.windowing import Timeline, seen, spec

QUARTER_MS = 900_000
HOUR_MS = 4 * QUARTER_MS
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
QUARTERS = (365 + 365) * 96


def ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def changing_zones() -> list[str]:
    """One zone for each way in which clocks change in the two years."""
    found: dict[tuple[object, ...], str] = {}
    for name in sorted(available_timezones()):
        changes = tuple(clock_changes(ZoneInfo(name)))
        if changes:
            found.setdefault(changes, name)
    return sorted(found.values())


def clock_changes(zone: ZoneInfo) -> Iterator[tuple[int, timedelta | None]]:
    """Yield when the offset changes, in quarters of an hour, and the new one."""

    def offset(quarter: int) -> timedelta | None:
        return (BEGIN + timedelta(minutes=15 * quarter)).astimezone(zone).utcoffset()

    # No zone changes its clocks and changes them back within a week.
    for week in range(0, QUARTERS, 7 * 96):
        low, high = week, week + 7 * 96
        if (after := offset(high)) == offset(low):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if offset(middle) == after else (middle, high)
        yield high, after


@cache
def local_clock(name: str) -> list[datetime]:
    zone = ZoneInfo(name)
    return [(BEGIN + timedelta(minutes=15 * n)).astimezone(zone) for n in range(QUARTERS)]


LABELS = {
    "hour": lambda at: (at.date(), at.hour, at.utcoffset()),
    "day": lambda at: at.date(),
    "week": lambda at: at.date() - timedelta(days=at.weekday()),
    "month": lambda at: (at.year, at.month),
    "year": lambda at: at.year,
}


def naive_windows(zone: str, every: str) -> list[tuple[int, int]]:
    """Bounds of the stretches in which a local clock shows one hour, day, ...; without those at the ends."""
    starts = []
    at = 0
    for _, stretch in groupby(local_clock(zone), LABELS[every]):
        starts.append(ms(BEGIN) + at * QUARTER_MS)
        at += len(list(stretch))
    return list(pairwise(starts[1:]))


# By an hour, half an hour, two; in the month of Ramadan, at midnight, in the other half of the year.
TELLING_ZONES = (
    *("Europe/Berlin", "Australia/Lord_Howe", "Antarctica/Troll", "Africa/Casablanca", "Asia/Beirut"),
    *("Africa/Cairo", "America/Miquelon", "America/Santiago", "Australia/Adelaide"),
)


@pytest.mark.slow
def test_windows_are_what_the_local_clock_shows_in_every_zone() -> None:
    for zone in changing_zones():
        check_zone(zone)


@pytest.mark.parametrize("zone", TELLING_ZONES)
def test_windows_are_what_the_local_clock_shows(zone: str) -> None:
    check_zone(zone)


def check_zone(zone: str) -> None:
    draw = random.Random(zone)
    for every in LABELS:
        calendar = Calendar(every, ZoneInfo(zone))  # type: ignore[arg-type]
        windows = naive_windows(zone, every)
        odd = [one for one in windows if every == "hour" and one[1] - one[0] != HOUR_MS]
        shown = draw.sample(windows, min(len(windows), 400))
        # Around each change of the clocks all hours, elsewhere some.
        clock = local_clock(zone)
        for n in range(1, len(clock)):
            if clock[n].utcoffset() != clock[n - 1].utcoffset():
                moment_ms = ms(clock[n])
                shown += [one for one in windows if abs(one[0] - moment_ms) < 30 * HOUR_MS]
        for start_ms, end_ms in shown + odd:
            for time_ms in (start_ms, draw.randrange(start_ms, end_ms), end_ms - 1):
                assert calendar.slice_of(time_ms) == start_ms, (every, time_ms)
            assert calendar.end_of(start_ms) == calendar.next_of(start_ms) == end_ms
            assert calendar.start_of(end_ms) == start_ms


def test_a_day_has_23_hours_when_the_clocks_go_forward_and_25_when_they_go_back() -> None:
    run = Timeline(spec("calendar", every="day", timezone="Europe/Berlin", out_of_orderness_ms=10**12))
    for day in (datetime(2026, 3, 29, 12, tzinfo=UTC), datetime(2026, 10, 25, 12, tzinfo=UTC)):
        run.event(ms(day))
    hours = [(one.end_ms - one.start_ms) / HOUR_MS for one in run.end()]  # type: ignore[operator]
    assert hours == [23, 25]


def test_weeks_start_on_the_day_that_is_said() -> None:
    run = Timeline(spec("calendar", every="week", timezone="UTC", week_starts="sunday"))
    run.event(ms(datetime(2026, 11, 28, 1, tzinfo=UTC)))
    start, end = datetime(2026, 11, 22, tzinfo=UTC), datetime(2026, 11, 29, tzinfo=UTC)
    assert seen(run.end()) == [("on_time", ms(start), ms(end), 1.0)]


def test_a_day_that_a_place_skipped_makes_no_window() -> None:
    # Samoa went from 29 to 31 December 2011.
    calendar = Calendar("day", ZoneInfo("Pacific/Apia"))
    skip_ms = ms(datetime(2011, 12, 30, 10, tzinfo=UTC))
    assert calendar.slice_of(skip_ms) == skip_ms
    assert calendar.end_of(calendar.slice_of(skip_ms - 1)) == skip_ms


def test_clocks_that_go_back_over_midnight_still_give_one_window_for_each_day() -> None:
    # St. John's in 2010: at 00:01 of 7 November back to 23:01 of the 6th.
    calendar = Calendar("day", ZoneInfo("America/St_Johns"))
    begin_ms = ms(datetime(2010, 11, 7, 2, 30, tzinfo=UTC))
    for minute in range(24 * 60):
        assert calendar.slice_of(begin_ms + minute * 60_000) == begin_ms
    assert calendar.slice_of(begin_ms - 1) < begin_ms


@pytest.mark.parametrize("every", LABELS)
@pytest.mark.parametrize("time_ms", [-(10**15), 0, 10**15])
def test_times_far_from_any_calendar_have_a_window_too(every: Any, time_ms: int) -> None:
    calendar = Calendar(every, ZoneInfo("Asia/Kolkata"))
    start_ms = calendar.slice_of(time_ms)
    assert start_ms <= time_ms < calendar.end_of(start_ms)


def test_late_readings_correct_a_calendar_window_and_a_restart_keeps_it() -> None:
    given = {"every": "hour", "timezone": "Asia/Kathmandu", "allowed_lateness_ms": 2 * HOUR_MS}
    run = Timeline(spec("calendar", **given))
    hour_ms = ms(datetime(2026, 1, 1, 0, 15, tzinfo=UTC))  # 06:00 there
    run.event(hour_ms)
    assert seen(run.event(hour_ms + HOUR_MS)) == [("on_time", hour_ms, hour_ms + HOUR_MS, 1.0)]
    run = run.restarted()
    assert seen(run.event(hour_ms + 5)) == [("correction", hour_ms, hour_ms + HOUR_MS, 2.0)]
    run = run.restarted()
    run.event(hour_ms + 4 * HOUR_MS)
    assert seen(run.event(hour_ms)) == [("dropped", hour_ms)]
