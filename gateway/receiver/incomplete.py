"""Finds results of windows whose events are not all in the output.

A result with `quality` names the sequence numbers that it was made of. The gateway had them all, so the
result is right; but the output has too little to compute it again. What is kept at the edge is no hole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from gateway.core.events import Kind
from gateway.core.sequence_sets import Stretch, size_of, without
from gateway.receiver.event_lines import StoredLine
from gateway.receiver.ledger import Ledger, Series, StreamLedger


class Incomplete(NamedTuple):
    """A result, and the numbers of its sources that are not here, by stream."""

    gateway_id: str
    window: str
    key: str
    start_ms: int
    end_ms: int
    revision: int
    missing: dict[str, tuple[Stretch, ...]]

    @property
    def events(self) -> int:
        """Number of events that are not here."""
        return sum(map(size_of, self.missing.values()))


def incomplete_results(stored: Iterable[StoredLine], ledger: Ledger) -> list[Incomplete]:
    """Return the results with holes, each with its newest revision, by window and time. `ledger` has seen
    only what is in the output."""
    holes = _Holes(ledger)
    found: dict[tuple[object, ...], Incomplete] = {}
    for each in stored:
        result = _result(each)
        if result is None:
            continue
        missing = dict(holes.of(each, result["quality"]["sources"]))
        if not missing:
            continue
        place = (each.gateway_id, result["window"], result["key"])
        one = Incomplete(*place, result["start_ms"], result["end_ms"], result["revision"], missing)
        known = found.get(one[:5])
        if known is None or known.revision < one.revision:
            found[one[:5]] = one
    return sorted(found.values(), key=lambda one: (one.gateway_id, one.window, one.start_ms, one.key))


class _Holes:
    """Numbers that a ledger has not seen."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._by_name: dict[tuple[str, str], list[StreamLedger]] = {}
        for series, stream in ledger:
            self._by_name.setdefault((series.gateway_id, series.stream), []).append(stream)

    def of(
        self, result: StoredLine, sources: dict[str, Stretch]
    ) -> Iterator[tuple[str, tuple[Stretch, ...]]]:
        """Yield the missing numbers of each source that has some."""
        for name, (first, last) in sources.items():
            known = self._streams(result, name)
            if not known and ":" in name:
                continue  # its gateway sends its events elsewhere, or nowhere
            kept = [
                part.stretches()
                for stream in known
                for each in stream.exempt
                if each.kept and (part := each.run.within(first, last)) is not None
            ]
            missing = tuple(without([(first, last)], *(stream.seen for stream in known), *kept))
            if missing:
                yield name, missing

    def _streams(self, result: StoredLine, name: str) -> list[StreamLedger]:
        """Return what is known of a source: a stream of the gateway, or of one whose results it merged."""
        own = self._ledger.of(Series(result.gateway_id, name, result.buffer_id))
        if own is not None:
            return [own]
        gateway_id, _, stream = name.partition(":")
        return self._by_name.get((result.gateway_id, name)) or self._by_name.get((gateway_id, stream)) or []


def _result(stored: StoredLine) -> Any:
    """Return the payload of a result that names its sources, else None."""
    if stored.event.kind != Kind.AGGREGATE:
        return None
    try:
        found = orjson.loads(stored.event.payload)
        ranges = found["quality"]["sources"].values()
        sound = all(type(first) is type(last) is int and first <= last for first, last in ranges)
        names = (found["window"], found["key"], found["start_ms"], found["end_ms"], found["revision"])
        return found if sound and [*map(type, names)] == [str, str, int, int, int] else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
