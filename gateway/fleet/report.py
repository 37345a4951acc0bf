"""The report of a run: what was read, what could not be used and where it stands, what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gateway.fleet.fold import GatewayFold
from gateway.fleet.job import Input
from gateway.fleet.records import line_number, name_of

NAMED = 20
"""Lines and gaps that a summary names; more are only counted."""


class Fault(NamedTuple):
    """A line of the input that was left out, or the first of several with the same reason."""

    place: str
    line: int | None  # None: a row of a table
    reason: str
    count: int  # type: ignore[assignment] # hides tuple.count, which nobody needs


class GatewayReport(NamedTuple):
    """The outcome of one gateway."""

    gateway: str
    events: int
    streams: int
    results: int
    until_ms: int | None
    missing: int
    replaced: int
    undecoded: int
    holes: list[Any]


class FleetReport(NamedTuple):
    """The outcome of a run."""

    lines: int
    results: int
    gateways: list[GatewayReport]
    doubled: int
    faults: list[Fault]

    @property
    def events(self) -> int:
        """Number of raw events, each once."""
        return sum(one.events for one in self.gateways)

    @property
    def missing(self) -> int:
        """Sequence numbers between the first and the last of their streams that the input does not have."""
        return sum(one.missing for one in self.gateways)

    @property
    def until_ms(self) -> int | None:
        """Arrival of the last event of the gateway whose events end first: nothing later is known of it."""
        return min((one.until_ms for one in self.gateways if one.until_ms is not None), default=None)

    @property
    def complete(self) -> bool:
        """True if no number is missing and every line could be used."""
        return not self.missing and not any(one.replaced for one in self.gateways) and not self.wrong

    @property
    def wrong(self) -> list[Fault]:
        """The faults but doubled lines, which change nothing."""
        return [fault for fault in self.faults if fault.reason != DOUBLED]


DOUBLED = "doubled: the event was there before"


def fold_fields(fold: GatewayFold) -> dict[str, Any]:
    """The report of a fold that is over, as plain JSON."""
    return {
        "gateway": name_of(fold.name),
        "events": fold.events,
        "streams": fold.streams,
        "results": fold.results,
        "until_ms": fold.until_ms,
        "missing": fold.missing,
        "replaced": fold.replaced,
        "undecoded": fold.undecoded,
        "holes": [[hole.stream, *hole.run] for hole in fold.holes],
        "doubled": {str(file): count for file, count in fold.doubled.items()},
        "first_doubled": {str(file): offset for file, offset in fold.first_doubled.items()},
        "troubles": fold.troubles,
    }


def report_of(
    inputs: Sequence[Input],
    splits: Iterable[Mapping[str, Any]],
    folds: Iterable[Mapping[str, Any]],
    common_results: int = 0,
) -> FleetReport:
    """Put the reports of all parts together."""
    gateways: dict[str, GatewayReport] = {}
    counts: Counter[tuple[int, str]] = Counter()
    firsts: dict[tuple[int, str], int] = {}
    lines = 0
    for split in splits:
        lines += split["lines"]
        for file, offset, reason in split["troubles"]:
            firsts[file, reason] = min(offset, firsts.get((file, reason), offset))
        for reason, count in split["trouble_counts"].items():
            counts[split["file"], reason] += count
    for fold in folds:
        name = fold["gateway"]
        gateways[name] = _joined(gateways.get(name), fold)
        for file, offset, reason in fold["troubles"]:
            counts[file, reason] += 1
            firsts[file, reason] = min(offset, firsts.get((file, reason), offset))
        for file, count in fold["doubled"].items():
            offset = fold["first_doubled"][file]
            counts[int(file), DOUBLED] += count
            firsts[int(file), DOUBLED] = min(offset, firsts.get((int(file), DOUBLED), offset))
    found = [
        _fault(inputs[file], firsts.get((file, reason)), reason, n) for (file, reason), n in counts.items()
    ]
    doubled = sum(count for (_, reason), count in counts.items() if reason == DOUBLED)
    results = sum(one.results for one in gateways.values()) + common_results
    return FleetReport(lines, results, [gateways[name] for name in sorted(gateways)], doubled, sorted(found))


def _joined(known: GatewayReport | None, fold: Mapping[str, Any]) -> GatewayReport:
    """Add a share of a gateway's streams to the shares before it."""
    new = GatewayReport(**{name: fold[name] for name in GatewayReport._fields})
    if known is None:
        return new
    newest = [one for one in (known.until_ms, new.until_ms) if one is not None]
    sums = {
        name: getattr(known, name) + getattr(new, name)
        for name in GatewayReport._fields
        if name not in ("gateway", "until_ms")
    }
    return GatewayReport(gateway=known.gateway, until_ms=max(newest, default=None), **sums)


def _fault(source: Input, offset: int | None, reason: str, count: int) -> Fault:
    line = None if offset is None or source.has_rows else line_number(Path(source.place), offset)
    return Fault(source.place, line, reason, count)
