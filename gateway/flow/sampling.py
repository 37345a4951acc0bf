"""Choice of messages when a gateway cannot take all: evenly per stream, and fairly between streams.

Fair is max-min fair: every stream gets what it needs up to a common limit, and a busier one is thinned to
it. So one device that floods loses its own messages, and not those of its neighbours. Within a stream the
kept ones are evenly spread (error diffusion), and the same input always keeps the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

MAX_STREAMS = 65_536
"""Streams that are told apart; with more, counting starts anew: topics come from outside."""

MAX_SKIPPED = 255
"""Messages left out between two kept ones: what an event can say that it stands for (`Flag`)."""


def fair_limit(counts: Iterable[int], share: float) -> float:
    """The limit per stream with which `share` of all messages is kept (water-filling).

    `counts` are messages per stream. Infinite when `share` is 1 or more, or nothing was counted.
    """
    ordered = sorted(counts)
    left = share * sum(ordered)
    if share >= 1 or not ordered:
        return float("inf")
    for position, count in enumerate(ordered):
        limit = left / (len(ordered) - position)
        if count > limit:
            return limit
        left -= count
    return float(ordered[-1])


class FairSampler:
    """Keeps a share of the messages of the streams that it is asked about."""

    def __init__(self) -> None:
        self.share = 1.0
        self._limit = float("inf")
        self._counts: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._credit: dict[str, float] = {}
        self._skipped: dict[str, int] = {}

    def turn(self, share: float) -> None:
        """Keep `share` from now on, with limits from what was counted since the last turn."""
        self.share = share
        if share >= 1:
            self._forget()
        else:
            self._limit = fair_limit(self._counts.values(), share)
            self._before, self._counts = self._counts, {}

    def admit(self, topic: str) -> int | None:
        """Return how many messages were left out since the last one kept; None leaves this one out as
        well."""
        if len(self._credit) > MAX_STREAMS:
            self._forget()
        self._counts[topic] = self._counts.get(topic, 0) + 1
        credit = self._credit.get(topic)
        if credit is None:
            credit = (crc32(topic.encode()) & 0xFFFF) / 0x10000  # or the first of each stream would be kept
        credit += self._rate(topic)
        skipped = self._skipped.pop(topic, 0)
        keep = credit >= 1 or skipped >= MAX_SKIPPED
        self._credit[topic] = credit - 1 if credit >= 1 else credit
        if keep:
            return skipped
        self._skipped[topic] = skipped + 1
        return None

    def _forget(self) -> None:
        self._counts, self._before, self._credit, self._skipped = {}, {}, {}, {}

    def _rate(self, topic: str) -> float:
        """Return the rate of a stream. A stream that is new in this turn gets the limit of one message, so
        that a flood of ever new topics is thinned too."""
        if not self._before:
            return self.share
        return min(1.0, self._limit / self._before.get(topic, 1))
