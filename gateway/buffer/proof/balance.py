"""Does the buffer balance? Both sums of promise P3, and the rows against the counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from gateway.buffer.dropped_messages import shed_ranges
from gateway.buffer.reader import Reader
from gateway.core.events import Status
from gateway.flow.dropped_ranges import DroppedRange


class StreamNumbers(NamedTuple):
    """The sequence numbers of all streams together. Each stream counts from 1."""

    streams: int  # that have events here
    given_out: int
    present: int
    repeated: int


class Audit(NamedTuple):
    """The numbers behind both balances; `problems` says where they do not add up."""

    messages: dict[str, int]  # by outcome
    appended: dict[str, int]  # by kind
    statuses: dict[str, int]  # counted from the rows
    evicted: dict[str, int]  # by reason
    streams: int
    shed: tuple[DroppedRange, ...]
    problems: tuple[str, ...]


def audit(reader: Reader) -> Audit:
    """Count everything anew in one snapshot. Takes about a second per million events."""
    with reader.snapshot():
        counters = reader.counters()
        rows = reader.count_by_status()
        numbers = _count_numbers(reader)
        # A file of an earlier version that was not opened by a gateway since has only the counters.
        shed = tuple(shed_ranges(reader)) if reader.has_table("shed_ranges") else None
    found = Audit(
        _labelled(counters, "outcome"),
        _labelled(counters, "appended"),
        {status.name.lower(): rows.pop(status, 0) for status in Status},
        _labelled(counters, "evicted"),
        numbers.streams,
        shed or (),
        (),
    )
    problems = [
        f"{count} rows have the status {status}, which does not exist" for status, count in rows.items()
    ]
    problems += _sums(found, _labelled(counters, "status"))
    problems += _sequence(found, numbers, sum(_labelled(counters, "skipped").values()))
    if shed is not None:
        problems += _shed(found, _labelled(counters, "rejected"))
    return found._replace(problems=tuple(problems))


def _count_numbers(reader: Reader) -> StreamNumbers:
    """Count how many sequence numbers were given out, and how many rows have one: slow on a large buffer.

    Corrupt events do not count: their numbers may be what is damaged.
    """
    (row,) = reader.rows(
        "SELECT count(newest), coalesce(sum(max(last_sequence, coalesce(newest, 0))), 0),"
        " coalesce(sum(numbers), 0), coalesce(sum(events - numbers), 0) FROM streams LEFT JOIN"
        " (SELECT stream, max(sequence_num) AS newest, count(DISTINCT sequence_num) AS numbers,"
        " count(*) AS events FROM buffer_events WHERE status <> ? GROUP BY stream)"
        " ON stream = streams.id",
        int(Status.CORRUPT),
    )
    return StreamNumbers(*row)


def _sums(found: Audit, counted: Mapping[str, int]) -> list[str]:
    problems = []
    buffered, raw = found.messages.get("buffered", 0), found.appended.get("raw", 0)
    if buffered != raw:
        problems.append(f"{buffered} messages count as buffered, but {raw} raw events were appended")
    appended, evicted = sum(found.appended.values()), sum(found.evicted.values())
    kept = sum(found.statuses.values())
    if appended != kept + evicted:
        problems.append(f"{appended} events were appended, but {kept} are here and {evicted} evicted")
    for status, rows in found.statuses.items():
        if counted.get(status.upper(), 0) != rows:
            problems.append(f"{rows} rows are {status}, the counter says {counted.get(status.upper(), 0)}")
    return problems


def _sequence(found: Audit, numbers: StreamNumbers, skipped: int) -> list[str]:
    """Check sequence numbers: every event takes the next one of its stream, so a missing number was evicted.

    That is exact, unless damage made events corrupt or skipped numbers: then it holds within these.
    """
    problems = []
    appended, evicted = sum(found.appended.values()), sum(found.evicted.values())
    unsure = found.statuses["corrupt"] + skipped
    if abs(numbers.given_out - appended) > unsure:
        problems.append(f"{numbers.given_out} sequence numbers were given to {appended} events")
    missing = numbers.given_out - numbers.present
    if abs(missing - evicted) > unsure:
        problems.append(f"{missing} sequence numbers are missing, but {evicted} events were evicted")
    if numbers.repeated:
        problems.append(f"{numbers.repeated} events have a sequence number that another one has")
    return problems


def _shed(found: Audit, rejected: Mapping[str, int]) -> list[str]:
    """Check that the ranges of dropped messages add up to their counters."""
    counted = Counter(rejected) + Counter(sampled=found.messages.get("sampled", 0))
    ranges: Counter[str] = Counter()
    for one in found.shed:
        ranges[one.reason] += one.messages
    return [
        f"{counted[reason]} messages count as {reason}, but the ranges have {ranges[reason]}"
        for reason in sorted(counted.keys() | ranges.keys())
        if counted[reason] != ranges[reason]
    ]


def _labelled(counters: Mapping[tuple[str, str], int], name: str) -> dict[str, int]:
    return {label: value for (counter, label), value in counters.items() if counter == name}
