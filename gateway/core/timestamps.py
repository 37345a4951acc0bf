"""Device timestamps in the forms that devices use, read as milliseconds since the epoch, UTC.

A reader gives None for what is no usable time: absent, empty, zero, negative, a boolean, or not in the
format. It never raises, whatever the value, so that a broken clock cannot stop a message.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from gateway.core.errors import ConfigError, UnitError
from gateway.core.units import parse_duration_ms

TimestampReader = Callable[[object], "int | None"]

_MS_PER_UNIT = {"unix": 1_000.0, "unix_ms": 1.0, "unix_us": 1e-3, "unix_ns": 1e-6}
_UNITS_PER_MS = {"unix_us": 1_000, "unix_ns": 1_000_000}
NAMED_FORMATS = ("iso", *_MS_PER_UNIT)
_OR = " or "

# The year 9999: the last that ISO forms can say, and far inside what a signed 64-bit column holds.
_LAST_MS = 253_402_300_799_999
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class TimeBound:
    """One end of what a route takes for a plausible device time.

    `ms` is an instant, or, where `relative`, a distance from the arrival time.
    """

    ms: int
    relative: bool = False


def parse_time_bound(text: str) -> TimeBound:
    """Read `2020-01-01`, `2020-01-01T06:00:00Z` or a distance from the arrival such as `1h`.

    Raises ConfigError with the valid forms.
    """
    try:
        return TimeBound(parse_duration_ms(text), relative=True)
    except UnitError:
        instant_ms = timestamp_reader("iso")(text)
    if instant_ms is None:
        raise ConfigError(
            f"{text!r} is neither a time nor a duration", hint="write 2020-01-01, or 1h before/after arrival"
        )
    return TimeBound(instant_ms)


def timestamp_reader(layout: str, timezone: str = "UTC") -> TimestampReader:
    """A function that reads values of the format `layout`: a name in NAMED_FORMATS, a strptime layout, or
    several of them such as `unix or iso`, which are tried in turn.

    `timezone` is for times that carry no zone. A local time that occurs twice, when clocks go back, is
    taken for the first of the two. Raises ConfigError when the layout or the time zone is unknown.
    """
    zone = find_timezone(timezone)
    check_format(layout)
    if _OR in layout:
        return _first_of([timestamp_reader(each, timezone) for each in layout.split(_OR)])
    if layout == "iso":
        return _iso_reader(zone)
    if layout in _UNITS_PER_MS:
        return _fine_unix_reader(_UNITS_PER_MS[layout])
    if layout in _MS_PER_UNIT:
        return _unix_reader(_MS_PER_UNIT[layout])
    return _layout_reader(layout, zone)


def find_timezone(name: str) -> ZoneInfo:
    """The time zone `Europe/Berlin`. Raises ConfigError with the nearest names that exist."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near = difflib.get_close_matches(name, sorted(available_timezones()), n=1)
        raise ConfigError(
            f"unknown time zone {name!r}",
            hint=f"did you mean {near[0]!r}?" if near else "write a name such as Europe/Berlin",
        ) from None


def check_format(layout: str) -> None:
    """Raise ConfigError unless `layout` is a known format or a strptime layout that Python can read, or
    several of them."""
    if _OR in layout:
        for each in layout.split(_OR):
            check_format(each)
        return
    if layout in NAMED_FORMATS:
        return
    if "%" not in layout:
        near = difflib.get_close_matches(layout, NAMED_FORMATS, n=1)
        raise ConfigError(
            f"unknown timestamp format {layout!r}",
            hint=f"did you mean {near[0]!r}?"
            if near
            else f"write {', '.join(NAMED_FORMATS)} or a strptime layout",
        )
    try:
        datetime.strptime(datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC).strftime(layout), layout)
    except (ValueError, re.error) as exc:  # it makes a regular expression of the layout
        raise ConfigError(f"strptime cannot read the layout {layout!r}: {exc}") from exc


def _usable(ms: float) -> int | None:
    return int(ms) if 0 < ms <= _LAST_MS else None


def _number(value: object) -> int | float | None:
    """The number in a JSON number or a numeric string; None for all else, so that True is not 1."""
    if type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else None
    if type(value) is not str or "_" in value:
        return None
    try:
        # An integer is kept exact: a float has too few bits for nanoseconds.
        return int(value) if value.strip().isdecimal() and len(value) < 40 else _number(float(value))
    except ValueError:
        return None


def _first_of(readers: list[TimestampReader]) -> TimestampReader:
    def read(value: object) -> int | None:
        return next((ms for each in readers if (ms := each(value)) is not None), None)

    return read


def _unix_reader(ms_per_unit: float) -> TimestampReader:
    def read(value: object) -> int | None:
        number = _number(value)
        return None if number is None or number > _LAST_MS else _usable(round(number * ms_per_unit))

    return read


def _fine_unix_reader(units_per_ms: int) -> TimestampReader:
    def read(value: object) -> int | None:
        number = _number(value)
        return None if number is None else _usable(number // units_per_ms)

    return read


def _iso_reader(zone: ZoneInfo) -> TimestampReader:
    def read(value: object) -> int | None:
        if type(value) is not str:
            return None
        try:
            return _milliseconds(datetime.fromisoformat(value), zone)
        except (ValueError, OverflowError):
            return retry(value.strip().upper())

    def retry(value: str) -> int | None:
        """RFC 3339 allows a small `t` and `z`, which Python does not read."""
        try:
            return _milliseconds(datetime.fromisoformat(value), zone)
        except (ValueError, OverflowError):
            return None

    return read


def _layout_reader(layout: str, zone: ZoneInfo) -> TimestampReader:
    def read(value: object) -> int | None:
        if type(value) not in (str, int, float):
            return None
        try:
            return _milliseconds(datetime.strptime(str(value), layout), zone)
        except (ValueError, OverflowError):
            return None

    return read


def _milliseconds(moment: datetime, zone: ZoneInfo) -> int | None:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    return _usable((moment - _EPOCH) // _MILLISECOND)
