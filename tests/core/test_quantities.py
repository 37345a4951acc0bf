"""Numbers with a decimal comma, a unit, a base of sixteen; and texts that only look like them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.quantities import number_in


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("19,25", 19.25),
        ("19.25", 19.25),
        (" -7 ", -7),
        ("+3.5", 3.5),
        ("−4,5 °C", -4.5),
        ("18.4\u00a0°C", 18.4),
        ("23°C", 23),
        ("19.25 ℃", 19.25),
        ("68℉", 68),
        ("55 %", 55),
        ("55%", 55),
        ("-71 dBm", -71),
        ("-71 dbM", -71),
        ("1013,2 hPa", 1013.2),
        ("3.7 m/s", 3.7),
        ("12 m³", 12),
        ("12 m3", 12),
        ("0,4 l/min", 0.4),
        ("5 kWh/m2", 5),
        ("12 Вт", 12),
        ("0x1F", 31),
        ("-0x10", -16),
        ("1e3", 1000.0),
        ("2.5E-3 A", 0.0025),
        (".5", 0.5),
        ("7.", 7.0),
        ("3.5 kW", 3.5),
        ("293 K", 293),
        ("1,234", 1.234),
        ("1.234,5", 1234.5),
        ("1,234.5 kWh", 1234.5),
        ("1,234,567", 1_234_567),
        ("9007199254740993", 9_007_199_254_740_993),
    ],
)
def test_a_number_in_text_is_read_with_comma_unit_and_base(text: str, number: float) -> None:
    found = number_in(text)
    assert found == number
    assert type(found) is type(number) or isinstance(found, float)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "-",
            ".",
            ",",
            "on",
            "unavailable",
            "nan",
            "NaN",
            "inf",
            "-Infinity",
            "°C 21",
            "~21",
            "x1",
        ),
        *("21:30", "2026-03-02", "2026-03-02T10:00:05Z", "12 34", "1.2.3", "192.168.1.7", "5 of 10", "1_000"),
        *("0x", "0xZZ", "0x1F C", "1e999", "21 °C, 40 %", "1,23,456", "٢١", "9" * 80, "21.5;40", "3-4"),
        *("3.5k", "1.2 M"),
    ],
)
def test_what_only_looks_like_a_number_is_none(text: str) -> None:
    assert number_in(text) is None


@given(st.text(max_size=80))
def test_any_text_gives_a_finite_number_or_none(text: str) -> None:
    found = number_in(text)
    assert found is None or abs(found) < float("inf")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_what_python_prints_is_read_back(number: float) -> None:
    assert number_in(repr(number)) == number
