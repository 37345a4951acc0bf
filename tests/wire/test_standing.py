"""Which of two results is about the newer window."""

from __future__ import annotations

import json

import pytest

from gateway.wire.standing import Standing, standing, superseded


def at(start_ms: int, end_ms: int, revision: int = 0, *, early: bool = False) -> Standing:
    return Standing(start_ms, end_ms, not early, revision)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (at(0, 10), at(10, 20)),
        (at(0, 10, revision=9), at(10, 20)),  # a correction
        (at(0, 10), at(10, 20, early=True)),  # an on-time result behind the next window's early one
        (at(0, 10), at(5, 15)),  # hopping
        (at(0, 10, revision=7, early=True), at(0, 10)),
        (at(0, 10), at(0, 10, revision=1)),
    ],
)
def test_an_older_window_or_revision_is_behind(older: Standing, newer: Standing) -> None:
    assert older.is_behind(newer)
    assert not newer.is_behind(older)


@pytest.mark.parametrize(
    ("later", "earlier"),
    [
        (at(0, 20), at(10, 20)),  # a late reading joined two sessions
        (at(10, 20), at(0, 365)),  # the window was of a year and is of days now
        (at(0, 365), at(10, 20)),
        (at(0, 10), at(0, 10)),  # the same again
    ],
)
def test_where_one_lies_in_the_other_the_later_result_counts(later: Standing, earlier: Standing) -> None:
    assert not later.is_behind(earlier)


def test_a_window_without_bounds_has_no_standing() -> None:
    assert standing({"start_ms": None, "end_ms": None, "kind": "on_time", "revision": 0}) is None


def test_the_mark_is_one_more_member() -> None:
    assert json.loads(superseded(b'{"a":1}')) == {"a": 1, "superseded": True}
