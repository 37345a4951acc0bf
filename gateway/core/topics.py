"""MQTT topics, filters, and templates with named levels.

A template is a filter whose wildcards have names: `tele/{device}/SENSOR` is the filter `tele/+/SENSOR`
and reads the level `device` out of a topic; `{rest...}`, only at the end, is `#` and takes all further
levels, which may be none: `a/{rest...}` matches `a` too. Plain `+` and `#` work too and name nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest

from gateway.core.errors import TopicError

MAX_TOPIC_BYTES = 65_535  # the length field of an MQTT string has two bytes

_NAMED = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(\.\.\.)?\}")
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.\-]*)\}")


def check_topic(topic: str) -> None:
    """Raise TopicError unless a message may be published on `topic`."""
    if not topic or len(topic.encode()) > MAX_TOPIC_BYTES:
        raise TopicError("a topic has 1 to 65,535 bytes")
    if any(char in topic for char in "+#\0"):
        raise TopicError(f"topic {topic!r} contains a wildcard or a NUL")


def check_filter(topic_filter: str) -> None:
    """Raise TopicError unless `topic_filter` can be subscribed to."""
    if not topic_filter or len(topic_filter.encode()) > MAX_TOPIC_BYTES or "\0" in topic_filter:
        raise TopicError(f"topic filter {topic_filter!r} is empty, too long or contains a NUL")
    levels = topic_filter.split("/")
    for position, level in enumerate(levels):
        if "#" in level and (level != "#" or position != len(levels) - 1):
            raise TopicError(f"{topic_filter!r}: '#' stands alone and only at the end")
        if "+" in level and level != "+":
            raise TopicError(f"{topic_filter!r}: '+' stands for a whole level")


def filter_matches(topic_filter: str, topic: str) -> bool:
    """Return True if a broker would deliver `topic` to a subscription of `topic_filter` (MQTT 5, section
    4.7)."""
    if topic.startswith("$") and topic_filter[:1] in {"+", "#"}:
        return False
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position >= len(levels) or level not in ("+", levels[position]):
            return False
    return len(wanted) == len(levels)


def covers(wide: str, narrow: str) -> bool:
    """Return True if every topic that matches the filter `narrow` matches the filter `wide` too."""
    if narrow.startswith("$") and wide[:1] in {"+", "#"}:
        return False
    wanted, levels = _levels(wide), _levels(narrow)
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position >= len(levels) or (level == "+" and levels[position] == "#"):
            return False
        if level not in ("+", levels[position]):
            return False
    return len(wanted) == len(levels)


def overlap(one: str, other: str) -> bool:
    """Return True if any topic matches both filters."""
    if "$" in (one[:1], other[:1]) and one[:1] != other[:1]:
        return False
    left, right = _levels(one), _levels(other)
    for position in range(max(len(left), len(right))):
        here = left[position] if position < len(left) else None
        there = right[position] if position < len(right) else None
        if "#" in (here, there):
            return True  # `#` also takes none of the levels
        if here is None or there is None:
            return False
        if here != there and "+" not in (here, there):
            return False
    return True


def _levels(topic_filter: str) -> list[str]:
    """The levels of a filter. `/#` also takes none behind the slash, but no topic is without a character
    (MQTT 5, section 4.7.3): it is `/+/#`."""
    levels = topic_filter.split("/")
    return ["", "+", "#"] if levels == ["", "#"] else levels


def joined(one: str, other: str) -> str:
    """The narrowest filter that matches all that two overlapping filters match."""
    levels = []
    for here, there in zip_longest(one.split("/"), other.split("/")):
        if "#" in (here, there):
            levels.append("#")
            break
        levels.append(here if here == there else "+")
    return "/".join(levels)


def disjoint(filters: Mapping[str, int]) -> dict[str, int]:
    """Filters, of which no two overlap, that together match all that `filters` do, each with the highest QoS
    of those it stands for. They may match more: `a/+/t` and `a/d1/#` become `a/+/#`."""
    apart: dict[str, int] = {}
    waiting = list(filters.items())
    while waiting:
        name, qos = waiting.pop(0)
        met = next((other for other in apart if overlap(name, other)), None)
        if met is None:
            apart[name] = qos
        else:
            waiting.insert(0, (joined(name, met), max(qos, apart.pop(met))))
    return apart


@dataclass(frozen=True)
class TopicTemplate:
    """A topic filter with named levels. Raises TopicError when `text` is not well formed."""

    text: str

    def __post_init__(self) -> None:
        names = list(self._names.values())
        if len(names) != len(set(names)):
            raise TopicError(f"{self.text!r} names a level twice")
        check_filter(self.filter)

    @cached_property
    def filter(self) -> str:
        """The plain MQTT filter to subscribe to."""
        return "/".join(self._filter_level(level) for level in self.text.split("/"))

    @property
    def names(self) -> frozenset[str]:
        """The names that `match` will give."""
        return frozenset(self._names.values())

    def match(self, topic: str) -> dict[str, str] | None:
        """The named levels of `topic`, or None where the filter does not match it.

        Levels that stand literally in the template or behind an unnamed wildcard are not in the result.
        """
        if not filter_matches(self.filter, topic):
            return None
        levels = topic.split("/")
        return {
            name: "/".join(levels[position:]) if self._takes_rest(position) else levels[position]
            for position, name in self._names.items()
        }

    @cached_property
    def _names(self) -> dict[int, str]:
        found = {}
        for position, level in enumerate(self.text.split("/")):
            match = _NAMED.fullmatch(level)
            if match:
                found[position] = match[1]
            elif "{" in level or "}" in level:
                raise TopicError(f"{self.text!r}: a name such as {{device}} stands for a whole level")
        return found

    def _takes_rest(self, position: int) -> bool:
        return self.text.split("/")[position].endswith("...}")

    @staticmethod
    def _filter_level(level: str) -> str:
        match = _NAMED.fullmatch(level)
        if match is None:
            return level
        return "#" if match[2] else "+"


def placeholders(template: str) -> tuple[str, ...]:
    """The names in a key template such as `{room}/{device}`, in order."""
    return tuple(_PLACEHOLDER.findall(template))


def has_loose_braces(template: str) -> bool:
    """Return True if a brace in a key template belongs to no placeholder: it would be a part of every key."""
    return any(brace in _PLACEHOLDER.sub("", template) for brace in "{}")
