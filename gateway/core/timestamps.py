"""Device timestamps in the forms that devices use, read as milliseconds since the epoch, UTC.

A reader gives None for what is no usable time: absent, empty, zero, negative, a boolean, or not in the
format. It never raises, whatever the value, so that a broken clock cannot stop a message.
"""

from __future__ import annotations

import difflib
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import timezone as timezone_type
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from gateway.core.errors import ConfigError, UnitError
from gateway.core.units import parse_duration_ms

TimestampReader = Callable[[object], "int | None"]

_MS_PER_UNIT = {"unix": 1_000.0, "unix_ms": 1.0, "unix_us": 1e-3, "unix_ns": 1e-6}
_UNITS_PER_MS = {"unix_us": 1_000, "unix_ns": 1_000_000}
_LOCAL = "_local"
DSMR_ZONE = "Europe/Amsterdam"
"""The time zone of all countries whose meters send DSMR telegrams."""
_NO_SUMMER = frozenset({"UTC", "Etc/UTC"})
NAMED_FORMATS = ("iso", *_MS_PER_UNIT, "unix_local", "unix_ms_local", "dsmr")
_OR = " or "

# The year 9999: the last that ISO forms can say, and far inside what a signed 64-bit column holds.
LAST_MS = 253_402_300_799_999
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_DAY_MS = 86_400_000

# Where a number of the current decades lies that counts seconds; finer units are multiples of it.
_FIRST_SECOND, _LAST_SECOND = 1_000_000_000, 4_300_000_000  # 2001, 2106
LEAST_CERTAIN_MS = _LAST_SECOND
"""The least integer that is milliseconds and can be nothing else, up to LAST_MS."""

# Abbreviations that mean one offset only, in minutes; others, such as CST and IST, need the route's zone.
_ZONES: Mapping[str, int] = {
    **dict.fromkeys(("Z", "UT", "UTC", "GMT", "WET"), 0),
    **dict.fromkeys(("WEST", "CET", "MET"), 60),
    **dict.fromkeys(("CEST", "MEST", "EET"), 120),
    **dict.fromkeys(("EEST", "MSK"), 180),
    **{"EST": -300, "EDT": -240, "CDT": -300, "MST": -420, "MDT": -360, "PST": -480, "PDT": -420},
    **{"HKT": 480, "JST": 540, "KST": 540, "AEST": 600, "AEDT": 660, "NZST": 720, "NZDT": 780},
}


@dataclass(frozen=True, slots=True)
class TimeBound:
    """A limit of the device times that a route finds plausible.

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
    taken for the first of the two; one that is left out, when clocks go forward, is read with the offset
    from before the change (both are zoneinfo's rule for `fold=0`). Raises ConfigError when the layout or the
    time zone is unknown.
    """
    zone = find_timezone(timezone)
    check_format(layout)
    if _OR in layout:
        return _first_of([timestamp_reader(each, timezone) for each in layout.split(_OR)])
    if layout == "iso":
        return _iso_reader(zone)
    if layout == "dsmr":
        zone = zone if zone.key not in _NO_SUMMER else find_timezone(DSMR_ZONE)
        return _first_of([_layout_reader(f"%y%m%d%H%M%S{season}", zone) for season in "SW"])
    if layout in NAMED_FORMATS and layout.endswith(_LOCAL):
        return _local_reader(_unix_reader_of(layout.removesuffix(_LOCAL)), zone)
    return _unix_reader_of(layout) if layout in NAMED_FORMATS else _layout_reader(layout, zone)


def _unix_reader_of(name: str) -> TimestampReader:
    if name in _UNITS_PER_MS:
        return _fine_unix_reader(_UNITS_PER_MS[name])
    return _unix_reader(_MS_PER_UNIT[name])


def uses_timezone(layout: str) -> bool:
    """Return True if the route's time zone can matter for times of the format `layout`."""
    if _OR in layout:
        return any(uses_timezone(each) for each in layout.split(_OR))
    return "%z" not in layout and (layout not in _MS_PER_UNIT)


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
    return int(ms) if 0 < ms <= LAST_MS else None


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
    coarser = (1,) if ms_per_unit == 1 else ()

    def read(value: object) -> int | None:
        number = _number(value)
        if number is None or number > LAST_MS or _is_coarser(number, coarser):
            return None
        return _usable(round(number * ms_per_unit))

    return read


def _is_coarser(number: float, factors: tuple[int, ...]) -> bool:
    """Return True if `number` is a time of these decades in a coarser unit than configured: seconds read as
    milliseconds would be a day in 1970. `factors` are those of the coarser units, in seconds."""
    for factor in factors:  # noqa: SIM110 - the generator of `any` takes twice the time
        if _FIRST_SECOND * factor <= number < _LAST_SECOND * factor:
            return True
    return False


def _local_reader(read_unix: TimestampReader, zone: ZoneInfo) -> TimestampReader:
    """Return a reader for devices whose counter counts the seconds of their local time."""

    def read(value: object) -> int | None:
        ms = read_unix(value)
        return None if ms is None else _milliseconds((_EPOCH + ms * _MILLISECOND).replace(tzinfo=None), zone)

    return read


def _fine_unix_reader(units_per_ms: int) -> TimestampReader:
    coarser = (1, 1_000) if units_per_ms == 1_000 else (1, 1_000, 1_000_000)

    def read(value: object) -> int | None:
        number = _number(value)
        return None if number is None or _is_coarser(number, coarser) else _usable(number // units_per_ms)

    return read


_ISO = re.compile(
    r"(?P<date>\d{4}-?\d\d-?\d\d)[T ](?P<time>[\d:.,]{2,24}) *(?P<offset>Z|[+-]\d\d(?::?\d\d){0,2})?"
    r"(?: *(?P<zone>[A-Z]{1,5}))?(?: M=[+-][\d.]+)?"  # the last is what Go adds
)
_DOTNET = re.compile(r"\\?/Date\((\d{1,15})(?:[+-]\d{4})?\)\\?/", re.IGNORECASE)
_MIDNIGHT = re.compile(r"24:?00(?::?00(?:[.,]0+)?)?")
_LEAP_SECOND = re.compile(r"(\d\d:?\d\d:?)60([.,]\d+)?")


def _iso_reader(zone: ZoneInfo) -> TimestampReader:
    words = _zone_words(zone)

    def read(value: object) -> int | None:
        if type(value) is not str:
            return None
        try:
            return _milliseconds(datetime.fromisoformat(value), zone)
        except (ValueError, OverflowError):
            return _near_iso(value.strip().upper(), zone, words)

    return read


def _near_iso(text: str, zone: ZoneInfo, words: Mapping[str, int]) -> int | None:
    """Read forms that Python does not know: a small `t` or `z`, a zone by its name, 24:00, a leap second,
    /Date(ms)/."""
    dotnet = _DOTNET.fullmatch(text)
    if dotnet:
        return _usable(int(dotnet[1]))
    found = _ISO.fullmatch(text)
    if found is None or not (found["offset"] or found["zone"] is None or found["zone"] in words):
        return None
    clock, later_ms = _regular_clock(found["time"])
    try:
        moment = datetime.fromisoformat(f"{found['date']}T{clock}{found['offset'] or ''}")
    except (ValueError, OverflowError):
        return None
    if found["zone"] and not found["offset"]:
        moment = moment.replace(tzinfo=_fixed(words[found["zone"]]))
    return _later(_milliseconds(moment, zone), later_ms)


def _regular_clock(clock: str) -> tuple[str, int]:
    """A time of day that Python reads, and how much later the one that is meant is, in ms."""
    if _MIDNIGHT.fullmatch(clock):
        return "00:00", _DAY_MS
    leap = _LEAP_SECOND.fullmatch(clock)
    return (f"{leap[1]}59{leap[2] or ''}", 1_000) if leap else (clock, 0)


def _later(ms: int | None, by_ms: int) -> int | None:
    return None if ms is None else ms + by_ms


def _zone_words(zone: ZoneInfo) -> dict[str, int]:
    """Offsets by abbreviation, in minutes; the route's own zone goes before what they mean elsewhere."""
    own = [datetime(2025, month, 1, tzinfo=zone) for month in (1, 7)]
    offsets = {moment.tzname() or "": moment.utcoffset() or timedelta() for moment in own}
    return {**_ZONES, **{name: int(offset.total_seconds() // 60) for name, offset in offsets.items()}}


def _fixed(minutes: int) -> timezone_type:
    return timezone_type(timedelta(minutes=minutes))


_WORD = re.compile(r"(?<![A-Za-z])[A-Z]{1,5}(?![A-Za-z])")


def _layout_reader(layout: str, zone: ZoneInfo) -> TimestampReader:
    """Reads what `layout` describes. A zone's name in the text (`%Z`) goes before `zone`, an offset
    before the name; an `S` or `W` behind the seconds, as in DSMR telegrams, tells summer from winter time
    where clocks go back."""
    words = _zone_words(zone)
    names_zone, has_offset = "%Z" in layout, "%z" in layout
    fold = int(layout.endswith("%SW"))
    layout = layout.replace("%Z", "" if has_offset else "%z")

    def read(value: object) -> int | None:
        if type(value) not in (str, int, float):
            return None
        text = str(value)
        if names_zone:
            named = next((word for word in reversed(list(_WORD.finditer(text))) if word[0] in words), None)
            if named is None:
                return None
            offset = "" if has_offset else _offset_text(words[named[0]])
            text = text[: named.start()] + offset + text[named.end() :]
        try:
            return _milliseconds(datetime.strptime(text, layout), zone, fold)
        except (ValueError, OverflowError):
            return _irregular(text, layout, zone)

    return read


def _offset_text(minutes: int) -> str:
    sign, size = "-" if minutes < 0 else "+", abs(minutes)
    return f"{sign}{size // 60:02}{size % 60:02}"


def _irregular(text: str, layout: str, zone: ZoneInfo) -> int | None:
    """A leap second or 24:00, which strptime makes no date of."""
    regular = re.sub(r"(?<!\d)24:00", "00:00", text, count=1)
    later_ms = _DAY_MS if regular != text else 0
    try:
        parts = time.strptime(regular, layout)
    except ValueError:
        return None
    if not later_ms and parts.tm_sec < 60:
        return None
    later_ms += max(0, parts.tm_sec - 59) * 1_000
    moment = datetime(*parts[:5], min(parts.tm_sec, 59))
    if parts.tm_gmtoff is not None:
        moment = moment.replace(tzinfo=timezone_type(timedelta(seconds=parts.tm_gmtoff)))
    return _later(_milliseconds(moment, zone), later_ms)


def _milliseconds(moment: datetime, zone: ZoneInfo, fold: int = 0) -> int | None:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone, fold=fold)
    return _usable((moment - _EPOCH) // _MILLISECOND)
