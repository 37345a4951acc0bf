"""What the comparison of two commits says of its figures."""

from __future__ import annotations

from benchmarks.compare import Figure, middle, remark


def test_only_what_is_more_than_five_percent_worse_is_warned_of() -> None:
    assert remark(Figure(100, "/s", more_is_better=True), Figure(96, "/s", more_is_better=True)) == ""
    assert "6% worse" in remark(Figure(100, "/s", more_is_better=True), Figure(94, "/s", more_is_better=True))
    assert remark(Figure(100, "ms"), Figure(50, "ms")) == remark(Figure(100, "ms"), Figure(104, "ms")) == ""
    assert "50% worse" in remark(Figure(100, "ms"), Figure(200, "ms"))


def test_a_figure_is_the_median_of_its_rounds() -> None:
    assert middle([Figure(each, "s") for each in (3.0, 1.0, 50.0)]) == Figure(3.0, "s")
