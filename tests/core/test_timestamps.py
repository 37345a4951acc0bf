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
