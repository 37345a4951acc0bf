"""Output of `gateway buffer audit`: the sums, and the streams with missing events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import apsw
import typer

from gateway.buffer.history.history_audit import HistoryAudit, audit_history
from gateway.buffer.history.results_file import FILE_NAME
from gateway.buffer.proof.balance import Audit
from gateway.buffer.proof.stream_audit import StreamAudit, audit_streams
from gateway.buffer.reader import Reader
from gateway.core.printable import printable
from gateway.flow.dropped_ranges import DroppedRange

_PROBLEMS_SHOWN = 20
_SHED_SHOWN = 10


class StreamTable(NamedTuple):
    """`shown` are the first ones that are asked for; of all that were looked at, `incomplete` have lost,
    failed or corrupt events."""

    shown: list[StreamAudit]
    left_out: int
    incomplete: int
    problems: list[str]


def chosen_streams(
    reader: Reader, topic_filter: str | None, limit: int, looked_at: Callable[[], object] = lambda: None
) -> StreamTable:
    """The streams of the filter; without one, those that are incomplete. Inside a snapshot of the reader.

    `looked_at` is called for each stream that was looked at.
    """
    shown: list[StreamAudit] = []
    problems: list[str] = []
    wanted = incomplete = 0
    for one in audit_streams(reader, topic_filter):
        looked_at()
        incomplete += not one.is_complete
        if one.problem and len(problems) < _PROBLEMS_SHOWN:
            problems.append(one.problem)
        if topic_filter is not None or not one.is_complete:
            wanted += 1
            if len(shown) < limit:
                shown.append(one)
    return StreamTable(shown, wanted - len(shown), incomplete, problems)


def history_beside(buffer: Path) -> HistoryAudit | None:
    """The audit of the history beside a buffer; None where there is none."""
    path = buffer.with_name(FILE_NAME)
    if not path.exists():
        return None
    try:
        return audit_history(path)
    except apsw.Error as exc:
        return HistoryAudit(0, None, {}, 0, (f"history: {path} cannot be read: {exc}",))


def print_audit(
    found: Audit, streams: StreamTable, problems: Sequence[str], past: HistoryAudit | None = None
) -> None:
    """Print the audit as text: a line for each sum, and one for each stream with its losses."""
    typer.echo(f"messages   {_sum(found.messages)}")
    typer.echo(f"appended   {_sum(found.appended)}")
    typer.echo(f"here now   {_sum(found.statuses)}")
    typer.echo(f"evicted    {_sum(found.evicted)}")
    _print_shed(found.shed)
    if past is not None:
        _print_history(past)
    for one in streams.shown:
        _print_stream(one)
    if streams.left_out:
        typer.echo(f"           and {streams.left_out:,} more streams; --limit or --stream shows them")
    for problem in problems:
        typer.echo(f"PROBLEM    {printable(problem)}")
    if not problems:
        complete = found.streams - streams.incomplete
        typer.echo(f"balanced   appended = here + evicted, over {found.streams:,} streams")
        typer.echo(f"complete   {complete:,} streams have lost nothing")


def _print_shed(ranges: Sequence[DroppedRange]) -> None:
    for one in sorted(ranges, key=lambda one: -one.messages)[:_SHED_SHOWN]:
        stream = printable(one.stream) or "several streams"
        times = f"{_time(one.first_ms)} to {_time(one.last_ms)}" if one.last_ms else "at unknown times"
        typer.echo(f"shed       {one.messages:,} {one.reason}, {stream}: {times}")
    if len(ranges) > _SHED_SHOWN:
        typer.echo(f"           and {len(ranges) - _SHED_SHOWN:,} smaller ranges; --json shows them")


def _print_history(past: HistoryAudit) -> None:
    since = f" since {_time(past.oldest_ms)}" if past.oldest_ms else ""
    missed = f", {past.missed:,} missed" if past.missed else ""
    removed = "".join(f", {count:,} removed ({why})" for why, count in past.removed.items() if count)
    typer.echo(f"history    {past.results:,} results{since}{removed}{missed}")


def _print_stream(one: StreamAudit) -> None:
    here = ", ".join(f"{count:,} {name}" for name, count in one.statuses.items()) or "none here"
    gone = f", {one.gone_after_delivery:,} delivered and gone" if one.gone_after_delivery > 0 else ""
    typer.echo(f"stream     {printable(one.stream)}: {one.given_out:,} numbers, {here}{gone}")
    for name, ranges in [*one.held.items(), *((f"lost, {why}", ranges) for why, ranges in one.lost.items())]:
        typer.echo(f"           {name}: {ranges}")


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(sep=" ", timespec="milliseconds") if ms else "?"


def _sum(parts: dict[str, int]) -> str:
    terms = " + ".join(f"{value:,} {name}" for name, value in parts.items() if value)
    return f"{sum(parts.values()):,}" + (f" = {terms}" if terms else "")
