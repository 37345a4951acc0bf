import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import ConfigError
from gateway.core.events import Flag
from gateway.core.timestamps import (
    NAMED_FORMATS,
    TimeBound,
    check_format,
    parse_time_bound,
    timestamp_reader,
)
from gateway.timekeeping.normalize import SkewPolicy, normalize_timestamp

MAY_FIRST_MS = 1_777_593_600_000  # 2026-05-01T00:00:00Z


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("2026-05-01T00:00:00Z", MAY_FIRST_MS),
        ("2026-05-01t00:00:00z", MAY_FIRST_MS),
        ("2026-05-01T00:00:00", MAY_FIRST_MS),
        ("2026-05-01 00:00:00", MAY_FIRST_MS),
        ("2026-05-01T02:00:00+02:00", MAY_FIRST_MS),
        ("2026-04-30T19:00:00-0500", MAY_FIRST_MS),
        ("2026-05-01T00:00:00.5Z", MAY_FIRST_MS + 500),
        ("2026-05-01T00:00:00.123999999+00:00", MAY_FIRST_MS + 123),
        ("2026-05-01T00:00:00.001Z", MAY_FIRST_MS + 1),
        (" 2026-05-01T00:00:00Z\n", MAY_FIRST_MS),
    ],
)
def test_iso_times_are_read_with_and_without_zone_and_with_any_fraction(
    text: str, expected_ms: int | None
) -> None:
    assert timestamp_reader("iso")(text) == expected_ms


@pytest.mark.parametrize(
    ("layout", "value", "expected_ms"),
    [
        ("unix", 1_777_593_600, MAY_FIRST_MS),
        ("unix", 1_777_593_600.0014, MAY_FIRST_MS + 1),
        ("unix", "1777593600", MAY_FIRST_MS),
        ("unix", 1.61, 1610),
        ("unix_ms", MAY_FIRST_MS + 7, MAY_FIRST_MS + 7),
        ("unix_ms", str(MAY_FIRST_MS), MAY_FIRST_MS),
        ("unix_us", MAY_FIRST_MS * 1000 + 999, MAY_FIRST_MS),
        ("unix_ns", MAY_FIRST_MS * 1_000_000 + 999_999, MAY_FIRST_MS),
        ("unix_ns", f"{MAY_FIRST_MS * 1_000_000 + 1}", MAY_FIRST_MS),
        ("%d.%m.%Y %H:%M", "01.05.2026 00:00", MAY_FIRST_MS),
        ("%Y%m%d%H%M%S%z", "20260501020000+0200", MAY_FIRST_MS),
    ],
)
def test_unix_times_and_layouts_are_read_to_the_millisecond(
    layout: str, value: object, expected_ms: int | None
) -> None:
    assert timestamp_reader(layout)(value) == expected_ms


@pytest.mark.parametrize("layout", NAMED_FORMATS)
@pytest.mark.parametrize(
    "value",
    [None, "", 0, 0.0, "0", -1, "-1", True, False, "soon", float("nan"), float("inf"), [], {}, 10**400],
)
def test_what_is_no_usable_time_gives_none(layout: str, value: object) -> None:
    assert timestamp_reader(layout)(value) is None


@given(
    st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans()), st.sampled_from(NAMED_FORMATS)
)
def test_a_reader_never_raises_and_gives_a_positive_time_or_none(value: object, layout: str) -> None:
    read = timestamp_reader(layout, "America/New_York")(value)
    assert read is None or read > 0


def test_a_local_time_is_read_in_the_routes_time_zone() -> None:
    berlin = timestamp_reader("iso", "Europe/Berlin")
    assert berlin("2026-05-01T02:00:00") == MAY_FIRST_MS
    assert berlin("2026-01-01T01:00:00") == timestamp_reader("iso")("2026-01-01T00:00:00")


def test_a_local_time_that_occurs_twice_is_the_first_of_both() -> None:
    # 2026-10-25: 03:00 summer time becomes 02:00 winter time.
    berlin, utc = timestamp_reader("iso", "Europe/Berlin"), timestamp_reader("iso")
    assert berlin("2026-10-25T02:30:00") == utc("2026-10-25T00:30:00Z")


@pytest.mark.parametrize(
    ("layout", "zone", "told"),
    [
        ("unixms", "UTC", "unix_ms"),
        ("iso", "Europe/Berln", "Europe/Berlin"),
        ("iso", "../../etc/passwd", "Europe/Berlin"),
        ("%Q", "UTC", "%Q"),
    ],
)
def test_an_unknown_format_or_zone_is_an_error_that_helps(layout: str, zone: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        timestamp_reader(layout, zone)
    assert told in f"{raised.value} {raised.value.hint}"


def test_a_bound_is_an_instant_or_a_distance() -> None:
    assert parse_time_bound("2026-05-01") == TimeBound(MAY_FIRST_MS)
    assert parse_time_bound("2h") == TimeBound(7_200_000, relative=True)
    with pytest.raises(ConfigError):
        parse_time_bound("later")


NOW_MS = MAY_FIRST_MS
POLICY = SkewPolicy(
    future_tolerance_ms=5_000, acceptable_skew_ms=1_000, max_clock_skew_ms=60_000, correction_factor=0.5
)


@pytest.mark.parametrize(
    ("device_offset_ms", "event_offset_ms", "flags", "verdict"),
    [
        # far behind ........ max skew ........ acceptable | now | acceptable .. tolerance ........ far ahead
        (-60_001, -30_001, Flag.CLOCK_SKEW | Flag.CORRECTED, "blended"),
        (-60_000, -30_000, Flag.CORRECTED, "blended"),
        (-1_001, -501, Flag.CORRECTED, "blended"),
        (-1_000, -1_000, 0, "device"),
        (0, 0, 0, "device"),
        (1_000, 1_000, 0, "device"),
        (2_000, 1_000, Flag.CORRECTED, "blended"),
        (5_000, 2_500, Flag.CORRECTED, "blended"),
        (5_001, 0, Flag.CORRECTED, "future"),
        (60_001, 0, Flag.CLOCK_SKEW | Flag.CORRECTED, "future"),
    ],
)
def test_a_device_time_is_believed_blended_or_replaced(
    device_offset_ms: int, event_offset_ms: int, flags: Flag, verdict: str
) -> None:
    settled = normalize_timestamp(NOW_MS + device_offset_ms, NOW_MS, POLICY)
    assert settled.event_time_ms - NOW_MS == pytest.approx(event_offset_ms, abs=1)
    assert (settled.flags, settled.verdict) == (flags, verdict)


def test_a_factor_of_one_takes_the_arrival_time_and_zero_the_device_time() -> None:
    whole, none = SkewPolicy(correction_factor=1.0), SkewPolicy(correction_factor=0.0)
    assert normalize_timestamp(NOW_MS - 30_000, NOW_MS, whole).event_time_ms == NOW_MS
    kept = normalize_timestamp(NOW_MS - 30_000, NOW_MS, none)
    assert (kept.event_time_ms, kept.flags) == (NOW_MS - 30_000, 0)


@given(st.integers(1, 2**45), st.integers(1, 2**45), st.floats(0, 1))
def test_the_event_time_lies_between_device_and_arrival_time(
    device_ms: int, arrival_ms: int, factor: float
) -> None:
    settled = normalize_timestamp(device_ms, arrival_ms, SkewPolicy(correction_factor=factor))
    assert min(device_ms, arrival_ms) <= settled.event_time_ms <= max(device_ms, arrival_ms)
    assert bool(settled.flags & Flag.CORRECTED) == (settled.event_time_ms != device_ms)


def test_a_layout_that_names_a_part_twice_is_refused() -> None:
    with pytest.raises(ConfigError):
        check_format("%c %Y")


# Forms of the field


@pytest.mark.parametrize(
    "text",
    [
        "2026-05-01 00:00:00 UTC",
        "2026-05-01 00:00:00 GMT",
        "2026-05-01 00:00:00 +0000 UTC",
        "2026-05-01 02:00:00.000000001 +0200 CEST m=+0.012",
        "2026-05-01T00:00:00 Z",
        "2026-05-01 02:00:00 CEST",
        "2026-04-30 20:00:00 EDT",
        "2026-04-30T24:00:00Z",
        "2026-04-30T24:00Z",
        "20260430T240000Z",
        "2026-04-30T23:59:60Z",
        "20260430T235960Z",
        "/Date(1777593600000)/",
        r"\/Date(1777593600000+0200)\/",
    ],
)
def test_a_zone_by_name_midnight_as_24_and_a_leap_second_are_read(text: str) -> None:
    assert timestamp_reader("iso", "Asia/Kolkata")(text) == MAY_FIRST_MS


@pytest.mark.parametrize(
    "text",
    [
        *("2026-05-01 00:00:00 XYZ", "2026-05-01T24:01:00Z", "2026-05-01T25:00:00Z", "2026-05-01T00:60:00Z"),
        *("2026-05-01T00:00:61Z", "2026-13-01T24:00:00Z", "/Date(-1)/", "/Date()/", "2026-05-01 24 UTC UTC"),
    ],
)
def test_what_is_no_such_form_is_no_time(text: str) -> None:
    assert timestamp_reader("iso")(text) is None


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        ("%a, %d %b %Y %H:%M:%S %Z", "Fri, 01 May 2026 00:00:00 GMT"),
        ("%d %b %Y %H:%M:%S %Z", "01 May 2026 02:00:00 CEST"),
        ("%Y-%m-%d %H:%M %Z", "2026-04-30 17:00 PDT"),
        ("%Y-%m-%d %H:%M:%S %z %Z", "2026-05-01 02:00:00 +0200 CEST"),
        ("%d.%m.%Y %H:%M:%S %Z", "30.04.2026 23:59:60 UTC"),
        ("%d.%m.%Y %H:%M %z", "30.04.2026 24:00 +0000"),
    ],
)
def test_a_zone_in_the_text_goes_before_that_of_the_route(layout: str, text: str) -> None:
    assert timestamp_reader(layout, "America/Lima")(text) == MAY_FIRST_MS


def test_an_abbreviation_means_what_it_means_in_the_zone_of_the_route() -> None:
    layout, text = "%Y-%m-%d %H:%M %Z", "2026-05-01 08:00 CST"
    assert timestamp_reader(layout, "Asia/Shanghai")(text) == MAY_FIRST_MS
    assert timestamp_reader(layout, "America/Chicago")(text) == MAY_FIRST_MS + 14 * 3_600_000
    assert timestamp_reader(layout, "Europe/Berlin")(text) is None


SUMMER_HALF_PAST_MS = 1_792_888_200_000  # 2026-10-25T00:30:00Z: 02:30 in Berlin for the first time
HOUR_MS = 3_600_000


@pytest.mark.parametrize("layout", ["dsmr", "%y%m%d%H%M%SS or %y%m%d%H%M%SW"])
def test_the_season_of_a_dsmr_time_tells_the_two_hours_apart(layout: str) -> None:
    read = timestamp_reader(layout, "Europe/Berlin")
    assert read("261025023000S") == SUMMER_HALF_PAST_MS
    assert read("261025023000W") == SUMMER_HALF_PAST_MS + HOUR_MS
    assert read("260501020000S") == MAY_FIRST_MS
    assert read("260501020000") is None


def test_a_dsmr_time_without_a_time_zone_is_the_time_of_amsterdam() -> None:
    read = timestamp_reader("dsmr")
    assert read("261025023000S") == SUMMER_HALF_PAST_MS
    assert read("261025023000W") == SUMMER_HALF_PAST_MS + HOUR_MS


def test_a_local_time_that_occurs_twice_is_the_first_and_one_that_is_left_out_keeps_the_old_offset() -> None:
    read = timestamp_reader("iso", "Europe/Berlin")
    assert read("2026-10-25T02:30:00") == SUMMER_HALF_PAST_MS
    before_ms = read("2026-03-29T01:59:59")
    assert before_ms is not None
    assert read("2026-03-29T02:30:00") == before_ms + 1_000 + HOUR_MS // 2
    assert read("2026-03-29T03:30:00") == before_ms + 1_000 + HOUR_MS // 2


def test_a_counter_of_local_seconds_is_read_in_the_zone_of_the_route() -> None:
    local_s = MAY_FIRST_MS // 1000 + 2 * 3600
    assert timestamp_reader("unix_local", "Europe/Berlin")(local_s) == MAY_FIRST_MS
    assert timestamp_reader("unix_ms_local", "Europe/Berlin")(local_s * 1000 + 5) == MAY_FIRST_MS + 5
    assert timestamp_reader("unix_local", "Europe/Berlin")("soon") is None


@pytest.mark.parametrize(
    ("layout", "value"),
    [
        ("unix_ms", MAY_FIRST_MS // 1000),
        ("unix_ms", str(MAY_FIRST_MS // 1000)),
        ("unix_us", MAY_FIRST_MS // 1000),
        ("unix_us", MAY_FIRST_MS),
        ("unix_ns", MAY_FIRST_MS // 1000),
        ("unix_ns", MAY_FIRST_MS),
        ("unix_ns", MAY_FIRST_MS * 1000),
        ("unix", MAY_FIRST_MS),
    ],
)
def test_a_time_in_a_coarser_unit_than_is_said_is_no_time_instead_of_one_in_1970(
    layout: str, value: object
) -> None:
    assert timestamp_reader(layout)(value) is None


@given(st.text(max_size=40), st.sampled_from([*NAMED_FORMATS, "%Y %Z", "%H:%M:%S", "%y%m%d%H%M%SW", "%z %Z"]))
def test_no_text_makes_a_reader_raise(text: str, layout: str) -> None:
    found = timestamp_reader(layout, "Europe/Berlin")(text)
    assert found is None or found > 0
