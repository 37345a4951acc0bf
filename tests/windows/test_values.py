"""What a field of a sample counts as in a window."""

import pytest

from gateway.windows.values import exact_number, number


@pytest.mark.parametrize("text", ["1e200", "-1e200", "1e400", "1e100", "nan", "9" * 120])
def test_a_number_in_quotes_has_the_bounds_of_one_without(text: str) -> None:
    assert number(text) is None
    assert exact_number(text) is None


@pytest.mark.parametrize("text", ["1e99", " 21.5 ", "-7", "18446744073709551616"])
def test_a_number_in_quotes_counts_within_them(text: str) -> None:
    assert number(text) == float(text)
