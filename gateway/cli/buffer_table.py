"""Events of a buffer as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from gateway.core.printable import printable

SHORT_COLUMNS = 80
_Rows = Sequence[Mapping[str, Any]]


def event_lines(rows: _Rows, columns: int | None) -> Iterator[str]:
    """Yield a heading and a line for each event.

    Where these do not fit into `columns`, each event takes two lines, which are cut. None: any width fits.
    """
    lines = [*_long_lines(rows)]
    if columns is None or max(map(len, lines)) <= columns:
        yield from lines
        return
    yield f"{'EVENT ID':36} {'STATUS':8}{'KIND':10}{'EVENT TIME (UTC)':19}"
    for row in rows:
        yield f"{row['event_id']:36} {row['status']:8}{row['kind']:10}{_time(row)}"
        yield _cut(f"    {_place(row)}, {row['stored_bytes']} bytes", columns)


def short_lines(rows: _Rows) -> Iterator[str]:
    """Yield a heading and a line for each event, without its id and none longer than SHORT_COLUMNS."""
    yield f"{'STATUS':8} {'KIND':9} {'EVENT TIME (UTC)':19} {'BYTES':>6} STREAM"
    for row in rows:
        start = f"{row['status']:8} {row['kind']:9} {_time(row)}"
        yield _cut(f"{start} {row['stored_bytes']:6} {printable(row['stream'])}", SHORT_COLUMNS)


def _long_lines(rows: _Rows) -> Iterator[str]:
    yield f"{'EVENT ID':36}  {'STATUS':8} {'KIND':9} {'EVENT TIME (UTC)':19} {'BYTES':>6}  NUMBER OF STREAM"
    for row in rows:
        start = f"{row['event_id']:36}  {row['status']:8} {row['kind']:9} {_time(row)}"
        yield f"{start} {row['stored_bytes']:6}  {_place(row)}"


def _place(row: Mapping[str, Any]) -> str:
    refusal = f"  ({printable(row['refusal'])})" if row["refusal"] else ""
    return f"{row['sequence_num']} of {printable(row['stream'])}{refusal}"


def _time(row: Mapping[str, Any]) -> str:
    return f"{datetime.fromtimestamp(row['event_time_ms'] / 1000, UTC):%F %T}"


def _cut(line: str, columns: int) -> str:
    return line if len(line) <= columns else line[: columns - 1] + "…"
