"""Calendar windows: hours, days, weeks, months and years of a time zone, [start, end).

A day begins at the first instant of its local date, which is local midnight unless the clock leaps over it,
so it has 23 or 25 hours when the clocks change. An hour is a stretch in which the local clock shows one hour
and does not leap: when the clocks go back, the repeated hour is a window of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from gateway.core.timestamps import find_timezone
from gateway.windows.operators.grid import GridOperator
from gateway.windows.plugin import CombineFn
from gateway.windows.spec import WindowSpec

Every = Literal["hour", "day", "week", "month", "year"]

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

HOUR_MS = 3_600_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
# Where Python's dates end, less what the longest period may need; beyond lies one window on each side.
_FIRST_MS = (datetime(3, 1, 1, tzinfo=UTC) - _EPOCH) // _MS
_LAST_MS = (datetime(9998, 1, 1, tzinfo=UTC) - _EPOCH) // _MS
_BEYOND_MS = 1 << 50

MAX_KNOWN = 1_024
"""Windows whose bounds are remembered: times come from outside, and could fill the memory."""


class Calendar:
    """The arithmetic of a calendar's windows, as `Grid` has it; each window is one slice."""

    def __init__(self, every: Every, zone: ZoneInfo, week_starts: int = 0) -> None:
        self._every = every
        self._zone = zone
        self._week_starts = week_starts
        self._starts: list[int] = []  # of the windows whose bounds are known, ascending
        self._ends: dict[int, int] = {}

    def slice_of(self, time_ms: int) -> int:
        """The start of the window that holds a time."""
        at = bisect_right(self._starts, time_ms) - 1
        if at >= 0 and time_ms < self._ends[self._starts[at]]:
            return self._starts[at]
        start_ms, end_ms = self._find(time_ms)
        if len(self._starts) >= MAX_KNOWN:
            self._starts.clear()
            self._ends.clear()
        self._starts.insert(bisect_right(self._starts, start_ms), start_ms)
        self._ends[start_ms] = end_ms
        return start_ms

    def windows_of(self, slice_ms: int) -> tuple[int, ...]:
        """The starts of the windows that contain a slice: itself."""
        return (slice_ms,)

    def end_of(self, start_ms: int) -> int:
        """The end of the window that starts there."""
        return self._ends[self.slice_of(start_ms)]

    def start_of(self, end_ms: int) -> int:
        """The start of the window that ends there."""
        return self.slice_of(end_ms - 1)

    def next_of(self, start_ms: int) -> int:
        """The start of the window after the one that starts there."""
        return self.end_of(start_ms)

    def _find(self, time_ms: int) -> tuple[int, int]:
        if time_ms < _FIRST_MS:
            return _FIRST_MS - _BEYOND_MS, _FIRST_MS
        if time_ms >= _LAST_MS:
            return _LAST_MS, _LAST_MS + _BEYOND_MS
        start_ms, end_ms = self._hour(time_ms) if self._every == "hour" else self._period(time_ms)
        return max(start_ms, _FIRST_MS), min(end_ms, _LAST_MS)

    def _hour(self, time_ms: int) -> tuple[int, int]:
        offset_ms = self._offset_ms(time_ms)
        start_ms = time_ms - (time_ms + offset_ms) % HOUR_MS
        end_ms = start_ms + HOUR_MS
        if self._offset_ms(start_ms) != offset_ms:
            start_ms = self._leap(start_ms, time_ms)
        if self._offset_ms(end_ms) != offset_ms:
            end_ms = self._leap(time_ms, end_ms)
        return start_ms, end_ms

    def _period(self, time_ms: int) -> tuple[int, int]:
        first = self._first_day(self._local_date(time_ms))
        start_ms, end_ms = self._begin(first), self._begin(self._next(first))
        while time_ms >= end_ms:  # the clock went back over midnight: its date is the old one again
            first = self._next(first)
            start_ms, end_ms = end_ms, self._begin(self._next(first))
        return start_ms, end_ms

    def _first_day(self, day: date) -> date:
        match self._every:
            case "week":
                return day - timedelta(days=(day.weekday() - self._week_starts) % 7)
            case "month":
                return day.replace(day=1)
            case "year":
                return day.replace(month=1, day=1)
        return day

    def _next(self, first: date) -> date:
        match self._every:
            case "week":
                return first + timedelta(days=7)
            case "month":
                return (first + timedelta(days=31)).replace(day=1)
            case "year":
                return first.replace(year=first.year + 1)
        return first + timedelta(days=1)

    def _begin(self, day: date) -> int:
        """The first instant of a local date."""
        midnight = datetime(day.year, day.month, day.day, tzinfo=self._zone)
        early_ms, late_ms = sorted((midnight.replace(fold=fold) - _EPOCH) // _MS for fold in (0, 1))
        # They differ where the clock leaps over midnight (the leap is between them) or shows it twice.
        if early_ms < late_ms and self._local_date(early_ms) < day:
            return self._leap(early_ms, late_ms)
        return early_ms

    def _leap(self, before_ms: int, after_ms: int) -> int:
        """The first instant after `before_ms` with the offset from UTC that `after_ms` has."""
        offset_ms = self._offset_ms(after_ms)
        while after_ms - before_ms > 1:
            middle_ms = (before_ms + after_ms) // 2
            if self._offset_ms(middle_ms) == offset_ms:
                after_ms = middle_ms
            else:
                before_ms = middle_ms
        return after_ms

    def _offset_ms(self, time_ms: int) -> int:
        offset = self._local(time_ms).utcoffset()
        return 0 if offset is None else offset // _MS

    def _local_date(self, time_ms: int) -> date:
        return self._local(time_ms).date()

    def _local(self, time_ms: int) -> datetime:
        return (_EPOCH + timedelta(milliseconds=time_ms)).astimezone(self._zone)


class CalendarOperator(GridOperator):
    """Windows of a calendar."""

    def __init__(self, spec: WindowSpec, plugin: CombineFn, fingerprint: str) -> None:
        super().__init__(spec, plugin, fingerprint, calendar_of(spec))


def calendar_of(spec: WindowSpec) -> Calendar:
    """The calendar of a window's specification."""
    zone = find_timezone(spec.timezone or "UTC")
    return Calendar(spec.every or "day", zone, WEEKDAYS.index(spec.week_starts or "monday"))
