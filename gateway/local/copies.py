"""Choice of one copy of a message, where a broker sends one per matching subscription.

MQTT 5 names the subscriptions that a message was sent for. Each filter gets an identifier of its own, and of
those that match a topic the copy for one counts: that with the highest QoS, then the lowest identifier.

Invariants:
- A copy is ignored only if the one that counts comes for certain: its filter was granted, and stood when the
  message was queued. In doubt a message is taken twice rather than never.
- An identifier is never given to another filter while the broker may still hold messages with it. So filters
  that change start a new generation, and the earlier ones are judged among themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from gateway.core.topics import filter_matches

_GENERATIONS = 16  # configurations whose messages may still be queued
_CACHED = 10_000


class Identified(NamedTuple):
    """A subscription with its identifier. `qos` is what the broker granted, -1 before it did."""

    id: int
    topic_filter: str
    wanted_qos: int
    qos: int = -1


class Copies:
    """Subscriptions over several generations. For the link's thread. `generations` is what `saved` gave on an
    earlier run."""

    def __init__(self, generations: Iterable[Sequence[Sequence[int | str]]] = ()) -> None:
        self._generations = [[Identified(*entry) for entry in each] for each in generations]  # type: ignore[arg-type]
        self._owners: dict[tuple[int, str], int | None] = {}

    @property
    def saved(self) -> list[list[Identified]]:
        """State for the next run."""
        return list(self._generations)

    def renew(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """The identifiers for `wanted`: (filter, QoS). The same ones while these are the same."""
        newest = self._generations[-1] if self._generations else []
        if [(one.topic_filter, one.wanted_qos) for one in newest] != list(wanted.items()):
            first = 1 + max((one.id for each in self._generations for one in each), default=0)
            newest = [Identified(first + at, *pair) for at, pair in enumerate(wanted.items())]
            self._generations = [*self._generations[1 - _GENERATIONS :], newest]
            self._owners.clear()
        return {one.topic_filter: one.id for one in newest}

    def answered(self, topic_filter: str, qos: int) -> None:
        """The broker granted `qos`, or refused the filter: then -1."""
        if not self._generations:
            return
        newest = self._generations[-1]
        renewed = [one._replace(qos=qos) if one.topic_filter == topic_filter else one for one in newest]
        if renewed != newest:
            self._generations[-1] = renewed
            self._owners.clear()

    def is_copy(self, topic: str, ids: Sequence[int]) -> bool:
        """Return True if a message that came for the subscriptions `ids` is to be ignored."""
        if not ids:
            return False
        for number, generation in enumerate(self._generations):
            if any(one.id in ids for one in generation):
                owner = self._owner(number, topic)
                return owner is not None and owner not in ids
        return False

    def _owner(self, number: int, topic: str) -> int | None:
        key = number, topic
        if key not in self._owners:
            if len(self._owners) >= _CACHED:
                self._owners.clear()
            matching = (
                one
                for one in self._generations[number]
                if one.qos >= 0 and filter_matches(one.topic_filter, topic)
            )
            best = min(matching, key=lambda one: (-one.qos, one.id), default=None)
            self._owners[key] = best and best.id
        return self._owners[key]
