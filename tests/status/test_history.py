"""Rates for the charts, from totals that are made up."""

from __future__ import annotations

from gateway.delivery.forecast import Totals
from gateway.status.history import KEPT_ROWS, History


def history(*totals: Totals) -> History:
    made = History()
    for each in totals:
        made.add(round(each.at_s * 1000), each)
    return made


def test_before_the_first_second_nothing_is_claimed() -> None:
    assert History().rate("taken_in") == 0


def test_a_rate_is_what_was_added_over_the_last_seconds() -> None:
    made = history(*(Totals(at_s, taken_in=100 * at_s if at_s < 10 else 1000) for at_s in range(20)))
    assert made.rate("taken_in") == 0
    assert [round(row.in_per_s) for row in made.rows()][:11] == [0, *[100] * 10]


def test_the_history_is_bounded() -> None:
    made = history(*(Totals(at_s) for at_s in range(KEPT_ROWS + 5)))
    assert len([*made.rows()]) == KEPT_ROWS
