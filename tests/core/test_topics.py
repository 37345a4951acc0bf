"""Topics, filters and templates: what matches, what is read out, what is refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import TopicError
from gateway.core.topics import (
    TopicTemplate,
    check_filter,
    check_topic,
    covers,
    disjoint,
    filter_matches,
    overlap,
    placeholders,
)

levels = st.sampled_from(["a", "b", "", "$c"])
topic_names = st.lists(levels, min_size=1, max_size=4).map("/".join).filter(bool)
filters = st.builds(
    lambda parts, rest: "/".join([*parts, *rest]),
    st.lists(levels | st.just("+"), max_size=3),
    st.sampled_from([["#"], ["a"], ["+"]]),
)

# Enough to tell filters apart that have up to four of these levels; x stands in none of them.
EVERY_TOPIC = [
    topic
    for depth in range(1, 6)
    for parts in itertools.product(["a", "b", "", "$c", "x"], repeat=depth)
    if (topic := "/".join(parts))
]


@pytest.mark.parametrize(
    "topic_filter, topic, matches",
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/", True),
        ("a/+/c", "a/b/c", True),
        ("+", "a", True),
        ("+", "/a", False),
        ("+/+", "/a", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("#", "a/b", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("A", "a", False),
    ],
)
def test_filters_match_as_in_mqtt(topic_filter: str, topic: str, matches: bool) -> None:
    assert filter_matches(topic_filter, topic) is matches


@pytest.mark.parametrize("topic", ["", "a/+", "a/#", "a\0b", "x" * 65_536, "ü" * 32_768])
def test_a_topic_that_cannot_be_published_on_is_refused(topic: str) -> None:
    with pytest.raises(TopicError):
        check_topic(topic)


@pytest.mark.parametrize("topic", ["a", "/", "a//b", "$x", "x" * 65_535, "grün"])
def test_other_topics_can_be_published_on(topic: str) -> None:
    check_topic(topic)


@pytest.mark.parametrize("text", ["", "a/b#", "#/a", "a/#/b", "a+", "a/+b/c", "\0", "x" * 65_536])
def test_a_filter_that_cannot_be_subscribed_to_is_refused(text: str) -> None:
    with pytest.raises(TopicError):
        check_filter(text)


@settings(max_examples=150, deadline=None)
@given(filters, filters)
def test_a_filter_covers_another_if_it_matches_all_that_the_other_matches(wide: str, narrow: str) -> None:
    matched = [topic for topic in EVERY_TOPIC if filter_matches(narrow, topic)]
    contains = all(filter_matches(wide, topic) for topic in matched)
    # `+/#` matches all that `#` does, for a reason that levels do not show: not seeing it costs nothing.
    assert covers(wide, narrow) is contains or (wide, narrow) == ("+/#", "#")


@pytest.mark.parametrize(
    "wide, narrow, contains",
    [("+/+/#", "/#", True), ("/+", "/#", False), ("/+/#", "/#", True), ("a/+/#", "a/#", False)],
)
def test_there_is_no_empty_topic_for_a_filter_to_match(wide: str, narrow: str, contains: bool) -> None:
    assert covers(wide, narrow) is contains


def test_what_no_topic_matches_is_no_overlap() -> None:
    assert not overlap("/#", "+")
    assert overlap("/#", "+/+")


@pytest.mark.parametrize(
    "wanted, subscribed",
    [
        ({"a/+/t": 1, "a/d1/#": 0}, {"a/+/#": 1}),
        ({"a/#": 0, "a/b": 1, "c": 1}, {"a/#": 1, "c": 1}),
        ({"+/x": 1, "$SYS/x": 1}, {"+/x": 1, "$SYS/x": 1}),
        ({"a/+/x": 1, "+/b/x": 1, "c/d/#": 1}, {"+/+/#": 1}),  # the first two, joined, reach the third
        ({"a/b": 1, "a/c": 1}, {"a/b": 1, "a/c": 1}),
    ],
)
def test_filters_that_overlap_become_one(wanted: dict[str, int], subscribed: dict[str, int]) -> None:
    assert disjoint(wanted) == subscribed


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(filters, st.sampled_from([0, 1]), max_size=4))
def test_disjoint_filters_match_each_topic_once_and_miss_none(wanted: dict[str, int]) -> None:
    apart = disjoint(wanted)
    for topic in EVERY_TOPIC[:800]:
        matching = [name for name in apart if filter_matches(name, topic)]
        asked = [qos for name, qos in wanted.items() if filter_matches(name, topic)]
        assert len(matching) <= 1
        assert not asked or apart[matching[0]] >= max(asked)


@given(filters)
def test_a_filter_covers_itself(topic_filter: str) -> None:
    assert covers(topic_filter, topic_filter)


def test_a_wildcard_at_the_start_does_not_cover_what_begins_with_a_dollar() -> None:
    assert not covers("#", "$SYS/broker/load")
    assert not covers("+/broker/load", "$SYS/broker/load")
    assert covers("$SYS/#", "$SYS/broker/load")


@pytest.mark.parametrize(
    "template, topic, expected",
    [
        ("tele/{device}/SENSOR", "tele/kitchen/SENSOR", {"device": "kitchen"}),
        ("tele/{device}/SENSOR", "tele/kitchen/STATE", None),
        ("{a}/{b}", "x/y", {"a": "x", "b": "y"}),
        ("z/{rest...}", "z/1/2/3", {"rest": "1/2/3"}),
        ("z/{rest...}", "z", {"rest": ""}),
        ("+/{device}/#", "x/y/z", {"device": "y"}),
        ("a/b", "a/b", {}),
        ("{device}", "$SYS", None),
        ("a/{d}", "a/", {"d": ""}),
    ],
)
def test_named_levels_are_read_out_of_a_topic(
    template: str, topic: str, expected: dict[str, str] | None
) -> None:
    assert TopicTemplate(template).match(topic) == expected


def test_the_filter_of_a_template_has_plain_wildcards() -> None:
    template = TopicTemplate("tele/{device}/+/{rest...}")
    assert template.filter == "tele/+/+/#"
    assert template.names == {"device", "rest"}


@pytest.mark.parametrize(
    "text",
    ["a/{x}/{x}", "a/{x}b", "a/{x", "a/x}", "{rest...}/a", "{}", "a/{1x}", "", "a/{x y}", "a/{x}{y}", "a#/b"],
)
def test_a_template_that_is_not_well_formed_is_refused(text: str) -> None:
    with pytest.raises(TopicError):
        TopicTemplate(text)


@given(topic_names)
def test_a_template_matches_what_its_filter_matches(topic: str) -> None:
    for text in ("{a}/{b}", "a/{rest...}", "{rest...}", "+/{x}/#"):
        template = TopicTemplate(text)
        found = template.match(topic)
        assert (found is not None) is filter_matches(template.filter, topic)
        assert found is None or found.keys() == template.names


def test_the_names_of_a_key_are_listed_in_order() -> None:
    assert placeholders("{room}/{device.id} and {x-y}") == ("room", "device.id", "x-y")
    assert placeholders("all") == ()
