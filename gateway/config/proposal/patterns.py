"""Topics that no preset knows, as patterns with named levels: `home/{room}/{quantity}`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from gateway.config.proposal.heard import HeardTopic
from gateway.config.proposal.quantities import is_quantity
from gateway.config.proposal.shapes import Shape

QUANTITY = "quantity"
_GENERIC = {
    "state",
    "status",
    "data",
    "sensor",
    "sensors",
    "json",
    "telemetry",
    "up",
    "update",
    "value",
    "tele",
}
_NAMES = ("device", "place", "area", "site", "group", "branch")
_MOST_NAMED = len(_NAMES)
_SHARED_TAILS = 0.5


class Pattern(NamedTuple):
    """Topics of one kind of payload under one filter with named levels."""

    topic: str
    kind: str
    topics: tuple[HeardTopic, ...]


def patterns_of(topics: Iterable[HeardTopic], shapes: Mapping[str, Shape]) -> list[Pattern]:
    """Return the patterns of topics; each topic is in one of them."""
    groups: dict[tuple[str, int, str], list[HeardTopic]] = defaultdict(list)
    for topic in topics:
        levels = topic.name.split("/")
        groups[shapes[topic.name].kind, len(levels), levels[0]].append(topic)
    merged = _merged(groups)
    return [Pattern(_pattern(some, kind), kind, tuple(some)) for kind, some in merged]


def _merged(groups: Mapping[tuple[str, int, str], list[HeardTopic]]) -> list[tuple[str, list[HeardTopic]]]:
    """The groups; those that only their first level tells apart are one, such as `hall/temperature` and
    `bath/temperature`."""
    found: list[tuple[tuple[str, int], set[str], list[HeardTopic]]] = []
    for (kind, length, _), topics in groups.items():
        tails = {topic.name.partition("/")[2] for topic in topics}
        for place, known, some in found:
            shared = len(tails & known) / min(len(tails), len(known))
            if length > 1 and place == (kind, length) and shared >= _SHARED_TAILS:
                some.extend(topics)
                known.update(tails)
                break
        else:
            found.append(((kind, length), tails, topics[:]))
    return [(kind, topics) for (kind, _), _, topics in found]


def _pattern(topics: Sequence[HeardTopic], kind: str) -> str:
    rows = [topic.name.split("/") for topic in topics]
    values = [[*dict.fromkeys(column)] for column in zip(*rows, strict=True)]
    variable = [at for at, found in enumerate(values) if len(found) > 1]
    last = len(values) - 1
    is_quantities = kind != "json" and last > 0 and any(map(is_quantity, values[last]))
    if not variable:
        variable = _assumed([found[0] for found in values], kind)
    named = [at for at in variable if not (is_quantities and at == last)]
    names = dict(zip(reversed(named), _NAMES, strict=False))
    if is_quantities and last in variable:
        names[last] = QUANTITY
    return "/".join(
        f"{{{names[at]}}}" if at in names else ("+" if at in variable else found[0])
        for at, found in enumerate(values)
    )


def _assumed(levels: Sequence[str], kind: str) -> list[int]:
    """The level that would differ for a second device, where only one was heard."""
    at = len(levels) - 1
    if at > 0 and kind != "json" and is_quantity(levels[at]):
        at -= 1
    while at > 0 and levels[at].lower() in _GENERIC:
        at -= 1
    return [at] if len(levels) > 1 else []
