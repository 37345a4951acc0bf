"""Durations, sizes and rates as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import UnitError
from gateway.core.units import (
    format_bytes,
    format_duration,
    parse_duration_ms,
    parse_rate_bytes_per_s,
    parse_size_bytes,
)


@pytest.mark.parametrize(
    "text, expected_ms",
    [
        ("500ms", 500),
        ("10s", 10_000),
        ("5m", 300_000),
        ("5min", 300_000),
        ("1h", 3_600_000),
        ("2d", 172_800_000),
        ("1h30m", 5_400_000),
        ("1m 30s", 90_000),
        (" 1.5 s ", 1500),
        ("0", 0),
        (0, 0),
        ("0s", 0),
    ],
)
def test_a_duration_is_read(text: str | float, expected_ms: int) -> None:
    assert parse_duration_ms(text) == expected_ms


@pytest.mark.parametrize(
    "text",
    ["", "10", "s", "10 parsecs", "-5s", "5 S", "1e3s", "5s!", "1h 30", ".5s", "nan", "5s\n5", "1,5s"],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UnitError, match="not a duration") as refusal:
        parse_duration_ms(text)
    assert "500ms" in refusal.value.hint


@pytest.mark.parametrize("number", [10, 1.5, -1, float("nan"), float("inf")])
def test_a_bare_number_is_refused_because_nobody_knows_its_unit(number: float) -> None:
    with pytest.raises(UnitError, match="no unit"):
        parse_duration_ms(number)


@pytest.mark.parametrize("value", [True, False, None, [], {}])
def test_other_types_are_no_duration(value: object) -> None:
    with pytest.raises(UnitError):
        parse_duration_ms(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text, expected_bytes",
    [
        ("512", 512),
        (512, 512),
        (0, 0),
        ("1 kB", 1000),
        ("64KiB", 65_536),
        ("10MB", 10_000_000),
        ("1.5MiB", 1_572_864),
        ("2GiB", 2 << 30),
        ("1TB", 10**12),
        ("1TiB", 1 << 40),
        ("7B", 7),
    ],
)
def test_a_size_is_read(text: str | int, expected_bytes: int) -> None:
    assert parse_size_bytes(text) == expected_bytes


@pytest.mark.parametrize("text", ["", "-1", "1 mb", "1kib", "MiB", "1MiB/s", "1 2", -1, True, None, 1.5])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(UnitError, match="not a size"):
        parse_size_bytes(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1MiB/s", 1 << 20),
        ("500kB/s", 500_000),
        ("64kbit/s", 8000),
        ("1Mbit/s", 125_000),
        ("800bit/s", 100),
        ("1 MiB / s", 1 << 20),
    ],
)
def test_a_rate_is_read(text: str, expected: int) -> None:
    assert parse_rate_bytes_per_s(text) == expected


@pytest.mark.parametrize("text", ["", "1MiB", "1MiB/m", "1MiB/s/s", "/s", "fast/s", "-1kB/s", 5, None])
def test_what_is_no_rate_is_refused(text: object) -> None:
    with pytest.raises(UnitError, match="not a rate") as refusal:
        parse_rate_bytes_per_s(text)  # type: ignore[arg-type]
    assert "64kbit/s" in refusal.value.hint


@given(st.text(max_size=20))
def test_text_is_read_or_refused_with_a_unit_error(text: str) -> None:
    for parse in (parse_duration_ms, parse_size_bytes, parse_rate_bytes_per_s):
        try:
            assert parse(text) >= 0
        except UnitError as refusal:
            assert refusal.hint


@pytest.mark.parametrize(
    "count, expected",
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes_are_shown_for_people(count: int, expected: str) -> None:
    assert format_bytes(count) == expected


@pytest.mark.parametrize(
    "seconds, expected",
    [(0.25, "0.2s"), (12, "12s"), (60, "1m"), (5400, "1h 30m"), (90_000, "1d 1h"), (86_400, "1d")],
)
def test_durations_are_shown_for_people(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == expected
