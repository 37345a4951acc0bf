"""Topics that the gateway publishes under: any key has one of its own, and a broker takes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.own_topics import OwnTopics
from gateway.core.topics import check_topic

OUTPUT = OwnTopics("gateway", "g1")
ALIKE = st.text(st.sampled_from("+#\x00 \x1f_a/~0\uffff"), min_size=1, max_size=8)


@pytest.mark.parametrize(
    "key",
    ["a\nb", "\x85", "\ufffe", "\ufdd0", "\U0003ffff", "x" * 70_000, "a/" * 500, "+#", "ü" * 40_000, ""],
)
def test_any_key_becomes_a_topic_that_a_broker_takes(key: str) -> None:
    topic = OUTPUT.aggregate("w", key)
    check_topic(topic)
    assert topic.startswith("gateway/g1/aggregates/w/")
    assert len(topic) < 2000
    assert topic.count("/") < 100
    assert not any(
        ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or ord(char) & 0xFFFE == 0xFFFE for char in topic
    )


def test_an_ordinary_key_is_its_own_topic_levels() -> None:
    assert OUTPUT.aggregate("w", "hall/7 grün") == "gateway/g1/aggregates/w/hall/7 grün"


def test_long_keys_stay_apart() -> None:
    assert OUTPUT.aggregate("w", "x" * 5000 + "1") != OUTPUT.aggregate("w", "x" * 5000 + "2")


@pytest.mark.parametrize("keys", [("+", "#", "\x00", "_"), ("HM #1", "HM +1", "HM _1"), ("a\nb", "a_b")])
def test_keys_that_differ_in_what_a_topic_cannot_hold_stay_apart(keys: tuple[str, ...]) -> None:
    assert len({OUTPUT.aggregate("w", key) for key in keys}) == len(keys)


@given(ALIKE, ALIKE)
def test_different_keys_never_share_a_topic(one: str, other: str) -> None:
    assert (OUTPUT.aggregate("w", one) == OUTPUT.aggregate("w", other)) == (one == other)


def test_not_even_a_key_that_looks_like_the_topic_of_another_one() -> None:
    topic = OUTPUT.aggregate("w", "#")
    assert OUTPUT.aggregate("w", topic.rpartition("/")[2]) != topic


def test_the_one_key_of_a_window_without_keys_is_called_all() -> None:
    assert OUTPUT.aggregate("w", "") == "gateway/g1/aggregates/w/all"
