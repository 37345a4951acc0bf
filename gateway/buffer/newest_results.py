"""The newest window that was published of each window and key, so that a restart knows it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import apsw
import orjson

Row = tuple[int, int, int, bool, int]
"""Stream, start, end, whether it was final, revision."""

_KNOWN = (
    "SELECT stream, start_ms, end_ms, is_final, revision FROM newest_results"
    " WHERE stream IN (SELECT value FROM json_each(?))"
)


def save_newest(connection: apsw.Connection, rows: Iterable[Row]) -> None:
    """Note these as the newest of their streams. Part of the transaction."""
    connection.executemany("REPLACE INTO newest_results VALUES (?, ?, ?, ?, ?)", rows)


def newest_of(connection: apsw.Connection, streams: Sequence[int]) -> list[Row]:
    """Return the newest results of `streams` as of the last commit."""
    rows = connection.execute(_KNOWN, (orjson.dumps([*streams]).decode(),))
    return [(stream, start, end, bool(final), revision) for stream, start, end, final, revision in rows]
