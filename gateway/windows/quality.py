"""The quality of a result: its readings, the late ones, what it lacks, its sources' sequence numbers.

Kept for windows with `publish: {quality: true}`. A reading that no result has is told in the result of its
own window if that has not fired yet, else of the newest such window of the key, else of the next to open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

LATE, DROPPED, MISSES = range(3)

Tally = list[int]
"""[late, dropped, misses]"""
Sources = dict[str, list[int]]
"""[first, last] sequence number of the readings, by stream."""
NO_TALLY: Tally = [0, 0, 0]
"""In the place of one where none is kept; never changed. Like NO_SOURCES."""
NO_SOURCES: Sources = {}


class Quality(NamedTuple):
    """Facts about the readings of one result, beside their number."""

    tally: Tally
    sources: Sources

    def fields(self, readings: int) -> dict[str, object]:
        """Return it as the aggregate has it."""
        late, dropped, misses = self.tally
        return {
            "readings": readings,
            "late": late,
            "dropped": dropped,
            "misses": misses,
            "sources": self.sources,
        }


def new_tally() -> Tally:
    """Return the tally of nothing."""
    return [0, 0, 0]


def note(sources: Sources, stream: str, number: int) -> None:
    """Note the number of a reading's event; 0 is none."""
    span = sources.get(stream)
    if span is None:
        if number:
            sources[stream] = [number, number]
    elif number > span[1]:
        span[1] = number
    elif 0 < number < span[0]:
        span[0] = number


def joined(some: Iterable[Sources]) -> Sources:
    """Return sources that have all of these, in the order of their names."""
    found: Sources = {}
    for sources in some:
        for stream, (first, last) in sources.items():
            note(found, stream, first)
            note(found, stream, last)
    return dict(sorted(found.items()))


def merged(parts: Iterable[tuple[str, Mapping[str, Any] | None]], own: Tally) -> Quality:
    """Return the quality of a result that merges those of several gateways, each with its gateway's name.

    Streams are named after their gateways, whose numbers are their own. `own` is of the merging window: late
    results are nothing new to it, and what it dropped is in no result.
    """
    tally, sources = [0, own[DROPPED], own[MISSES]], []
    for source, quality in parts:
        if quality is not None:
            told = (quality["late"], quality["dropped"], quality["misses"])
            tally = [ours + theirs for ours, theirs in zip(tally, told, strict=True)]
            sources.append({f"{source}:{name}": span for name, span in quality["sources"].items()})
    return Quality(tally, joined(sources))
