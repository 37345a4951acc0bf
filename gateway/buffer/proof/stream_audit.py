"""Each stream by itself: which of its numbers are here, failed, corrupt, lost or delivered and gone.

Every stream counts 1, 2, 3, … So a number that is not here has left, and what left before the cloud had it is
noted number by number; the rest was delivered and evicted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from gateway.buffer.proof.positions import KEPT
from gateway.buffer.reader import Reader
from gateway.core.events import Status

RANGES_SHOWN = 10


class Ranges:
    """A set of numbers: the first RANGES_SHOWN ranges and the total count."""

    def __init__(self) -> None:
        self.numbers = 0
        self.count = 0
        self.shown: list[tuple[int, int, int]] = []  # first, last, step

    def add(self, first: int, last: int, step: int = 1) -> None:
        self.numbers += (last - first) // step + 1
        self.count += 1
        if len(self.shown) < RANGES_SHOWN:
            self.shown.append((first, last, step))

    def as_json(self) -> dict[str, object]:
        return {"numbers": self.numbers, "ranges": self.count, "first_ranges": self.shown}

    def __str__(self) -> str:
        parts = [_text(*one) for one in self.shown]
        more = self.count - len(self.shown)
        return f"{self.numbers:,} ({', '.join(parts)}{f' and {more:,} more ranges' if more else ''})"


class StreamAudit(NamedTuple):
    """The audit of one stream. `missing` are numbers not in the buffer; `lost`, by reason, are those of them
    that left before the cloud had them."""

    stream: str
    given_out: int
    statuses: dict[str, int]
    missing: Ranges
    held: dict[str, Ranges]  # failed, corrupt
    lost: dict[str, Ranges]

    @property
    def gone_after_delivery(self) -> int:
        return self.missing.numbers - sum(ranges.numbers for ranges in self.lost.values())

    @property
    def is_complete(self) -> bool:
        """True if every event was delivered, still waits for delivery, or is meant to stay."""
        return not self.held and not self.lost.keys() - {KEPT}

    @property
    def problem(self) -> str:
        if self.gone_after_delivery >= 0 or "corrupt" in self.held:
            return ""
        lost = self.missing.numbers - self.gone_after_delivery
        missing = self.missing.numbers
        return f"{self.stream}: {lost:,} numbers are noted as lost, but only {missing:,} are missing"

    def as_json(self) -> dict[str, object]:
        return {
            "stream": self.stream,
            "given_out": self.given_out,
            "statuses": self.statuses,
            "missing": self.missing.as_json(),
            "gone_after_delivery": self.gone_after_delivery,
            **{name: ranges.as_json() for name, ranges in self.held.items()},
            "lost": {reason: ranges.as_json() for reason, ranges in self.lost.items()},
        }


def audit_streams(reader: Reader, topic_filter: str | None = None) -> Iterator[StreamAudit]:
    """Yield audits of all streams, or of those that the filter selects, in the order of their first events.
    Inside a snapshot."""
    runs = groupby(reader.rows(_RUNS, topic_filter), key=itemgetter(0))
    # A file of an earlier version that was not opened by a gateway since has only sums.
    noted = reader.rows(_LOST, topic_filter) if reader.has_table("loss_runs") else iter(())
    lost = groupby(noted, key=itemgetter(0))
    next_runs, next_lost = next(runs, None), next(lost, None)
    for stream, name, last_sequence in reader.rows(_STREAMS, topic_filter):
        found = _Folded(last_sequence)
        if next_runs is not None and next_runs[0] == stream:
            found.fold(next_runs[1])
            next_runs = next(runs, None)
        losses: dict[str, Ranges] = {}
        if next_lost is not None and next_lost[0] == stream:
            for _, reason, *run in next_lost[1]:
                losses.setdefault(reason, Ranges()).add(*run)
            next_lost = next(lost, None)
        yield found.audit(name, losses)


class _Folded:
    """The runs of equal status of one stream, put side by side."""

    def __init__(self, last_sequence: int) -> None:
        self._given_out = last_sequence
        self._expected = 1  # the number behind the last one that is here
        self._statuses: Counter[str] = Counter()
        self._missing = Ranges()
        self._held: dict[str, Ranges] = {}

    def fold(self, runs: Iterator[tuple[int, int, int, int]]) -> None:
        expected = self._expected
        for _, status, first, last in runs:
            name = Status(status).name.lower()
            self._statuses[name] += last - first + 1
            if status in (Status.FAILED, Status.CORRUPT):
                self._held.setdefault(name, Ranges()).add(first, last)
            if first > expected:
                self._missing.add(expected, first - 1)
            expected = max(expected, last + 1)
        self._expected = expected

    def audit(self, name: str, lost: dict[str, Ranges]) -> StreamAudit:
        given_out = max(self._given_out, self._expected - 1)
        if given_out >= self._expected:
            self._missing.add(self._expected, given_out)
        return StreamAudit(name, given_out, dict(self._statuses), self._missing, self._held, lost)


def _text(first: int, last: int, step: int) -> str:
    if first == last:
        return str(first)
    return f"{first}–{last}" + (f" every {step}" if step > 1 else "")


_STREAMS = """
SELECT id, name, last_sequence FROM streams WHERE ?1 IS NULL OR topic_matches(?1, name) ORDER BY id
"""
# Of a corrupt event any column may be damaged: what cannot be its number is left out.
_RUNS = """
SELECT stream, status, min(sequence_num), max(sequence_num) FROM
  (SELECT stream, status, sequence_num,
          sequence_num - row_number() OVER (PARTITION BY stream, status ORDER BY sequence_num) AS run
   FROM buffer_events
   WHERE stream IN (SELECT id FROM streams WHERE ?1 IS NULL OR topic_matches(?1, name))
     AND status BETWEEN 0 AND 5
     AND (status <> 4 OR typeof(sequence_num) = 'integer'
          AND sequence_num BETWEEN 1 AND (SELECT last_sequence FROM streams WHERE id = stream)))
GROUP BY stream, status, run ORDER BY stream, min(sequence_num)
"""
_LOST = """
SELECT stream, reason, first_sequence, last_sequence, step FROM loss_runs
WHERE stream IN (SELECT id FROM streams WHERE ?1 IS NULL OR topic_matches(?1, name))
ORDER BY stream, last_sequence
"""
