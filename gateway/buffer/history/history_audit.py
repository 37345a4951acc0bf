"""Does the history balance? Its rows and blocks against its counters, and each block against what it says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import apsw

from gateway.buffer.connection import BUSY_TIMEOUT_S
from gateway.buffer.history.blocks import unpack
from gateway.core.errors import DecodeError

_BLOCKS_AT_ONCE = 200


class HistoryAudit(NamedTuple):
    """The numbers of a history; `problems` says where they do not add up."""

    results: int
    oldest_ms: int | None
    removed: dict[str, int]
    missed: int
    problems: tuple[str, ...]


def audit_history(path: Path) -> HistoryAudit:
    """Count everything anew in one snapshot. Raises apsw.Error."""
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
        connection.set_busy_timeout(BUSY_TIMEOUT_S * 1000)
        connection.execute("PRAGMA query_only = 1").fetchall()
        connection.execute("BEGIN")
        numbers = dict(connection.execute("SELECT name, value FROM numbers"))
        (row,) = connection.execute(
            "SELECT (SELECT count(*) FROM fresh), (SELECT coalesce(sum(results), 0) FROM segments),"
            " (SELECT coalesce(sum(results), 0) FROM blocks),"
            " (SELECT min(ms) FROM (SELECT min(stored_ms) AS ms FROM fresh"
            " UNION ALL SELECT min(stored_ms) FROM segments))"
        )
        fresh, in_segments, in_blocks, oldest_ms = row
        damaged = [*_damaged_blocks(connection)]
        connection.execute("COMMIT")
    removed = {
        name.removeprefix("removed_"): count for name, count in numbers.items() if name.startswith("removed_")
    }
    problems = []
    expected = numbers["stored"] - sum(removed.values())
    if fresh + in_blocks != expected:
        problems.append(f"history: {expected} results should be here, but {fresh + in_blocks} are")
    if in_segments != in_blocks:
        problems.append(f"history: the segments say {in_segments} results, their blocks {in_blocks}")
    if damaged:
        problems.append(f"history: {len(damaged)} blocks are damaged; the first is {damaged[0]}")
    return HistoryAudit(fresh + in_blocks, oldest_ms, removed, numbers["missed"], tuple(problems))


def _damaged_blocks(connection: apsw.Connection) -> Iterator[int]:
    at_id = 0
    while blocks := connection.execute(
        "SELECT id, results, data FROM blocks WHERE id > ? ORDER BY id LIMIT ?", (at_id, _BLOCKS_AT_ONCE)
    ).fetchall():
        for number, results, data in blocks:
            at_id = int(number)  # type: ignore[arg-type]
            try:
                found = len(unpack("", data))  # type: ignore[arg-type]
            except DecodeError:
                found = -1
            if found != results:
                yield at_id
