"""What goes to the cloud, and what stays at the edge."""

from __future__ import annotations

import pytest

from gateway.config.forward_model import ForwardModel
from gateway.core.events import FieldValue, Sample
from gateway.decode.forwarding import Forwarding, ForwardSpec


def sent(forwarding: Forwarding, *messages: dict[str, FieldValue], every_ms: int = 1000) -> list[int]:
    """Which of the messages of one stream go up, by their place; they arrive that far apart."""
    return [
        at
        for at, fields in enumerate(messages)
        if not forwarding.keeps("t", {"device": "d1"}, [Sample(at, fields)], at * every_ms)
    ]


def test_everything_or_nothing() -> None:
    assert sent(Forwarding(ForwardSpec()), {"p": 1}, {"p": 1}) == [0, 1]
    assert sent(Forwarding(ForwardSpec(everything=False)), {"p": 1}, {"p": 2}) == []


def test_a_change_is_judged_from_what_was_sent_last() -> None:
    forwarding = Forwarding(ForwardSpec(everything=False, least_changes={"p": 5.0}))
    assert sent(forwarding, {"p": 10}, {"p": 13}, {"p": 14.9}, {"p": 15}, {"p": 11}, {"p": 9}) == [0, 3, 5]


def test_text_and_switches_change_when_they_differ_and_absence_is_no_change() -> None:
    forwarding = Forwarding(ForwardSpec(everything=False, least_changes={"on": 0.5, "mode": 1.0}))
    messages: list[dict[str, FieldValue]] = [
        {"on": True, "mode": "a"},
        {"on": True},
        {"on": False},
        {"mode": "a"},
        {"mode": "b"},
    ]
    assert sent(forwarding, *messages) == [0, 2, 4]


def test_after_a_while_the_next_one_goes_in_any_case() -> None:
    spec = ForwardModel.model_validate({"on_change": {"p": 5.0, "every": "3s"}}).spec()
    repeated: list[dict[str, FieldValue]] = [{"p": 1.0}] * 8
    assert sent(Forwarding(spec), *repeated) == [0, 3, 6]


def test_a_condition_sees_fields_and_levels() -> None:
    spec = ForwardModel.model_validate({"where": "p > 10 && device == 'd1'"}).spec()
    assert sent(Forwarding(spec), {"p": 9}, {"p": 11}, {"q": 12}) == [1]


def test_streams_are_told_apart_and_what_cannot_be_read_goes_up() -> None:
    forwarding = Forwarding(ForwardSpec(everything=False, least_changes={"p": 5.0}))
    assert not forwarding.keeps("a", {}, [Sample(0, {"p": 1})], 0)
    assert not forwarding.keeps("b", {}, [Sample(0, {"p": 1})], 0)
    assert forwarding.keeps("a", {}, [Sample(0, {"p": 1})], 0)
    assert not forwarding.keeps("a", {}, [], 0)


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"on_change": {"every": "10m"}},
        {"on_change": {"p": "5m"}},
        {"on_change": {"p": 1.0, "every": 600}},
        {"on_change": {"p": 1.0}, "where": "p > 1"},
    ],
)
def test_what_says_nothing_clear_is_refused(written: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"on_change|either"):
        ForwardModel.model_validate(written)
