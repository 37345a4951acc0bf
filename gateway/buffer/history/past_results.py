"""Reading of past results: the history's segments first, then its fresh rows, a part at a time.

No statement reads more than a segment's blocks of the wanted series or some thousand rows, so the log of
the file can be reset between two of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import orjson

from gateway.buffer.connection import BUSY_TIMEOUT_S, teach
from gateway.buffer.event_history import TimeRange
from gateway.buffer.history.blocks import PastResult, unpack
from gateway.core.errors import DecodeError

_FRESH_AT_ONCE = 5000
_BLOCKS_AT_ONCE = 100
_FRESH = """
WITH stretch AS MATERIALIZED (SELECT * FROM fresh WHERE id > ? ORDER BY id LIMIT ?)
SELECT (SELECT json_array(max(id)) FROM stretch),
  (SELECT json_array(max(value) FILTER (WHERE name = 'position'), max(value) FILTER (WHERE name = 'offset'))
   FROM numbers),
  json_group_array(id), json_group_array(time_ms), json_group_array(topic), json_group_array(payload)
FROM (
  SELECT stretch.id, time_ms, topic, payload FROM stretch
  JOIN (SELECT id AS number, topic FROM series WHERE {named}) ON series = number
  WHERE time_ms >= ? AND time_ms < ? ORDER BY stretch.id
)
"""


class PastResults:
    """A connection that only reads `history.db`. For one thread. Raises apsw.Error."""

    def __init__(self, path: Path) -> None:
        self._connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        self._connection.set_busy_timeout(BUSY_TIMEOUT_S * 1000)
        for pragma in ("query_only = 1", "wal_autocheckpoint = 0", "cache_size = -4096"):
            self._connection.execute(f"PRAGMA {pragma}").fetchall()
        teach(self._connection)
        self.damaged_blocks = 0
        """Blocks that were left out because they cannot be read."""
        self.copied_to, self.offset = 0, 0
        """The buffer id up to which the last search of `found` has looked, and what was added to it."""

    def close(self) -> None:
        self._connection.close()

    def found(self, wanted: TimeRange, after_id: int = 0) -> Iterator[list[PastResult]]:
        """The results behind `after_id` in the order of their ids, in parts; some parts are empty.

        `copied_to` and `offset` say afterwards where the buffer goes on.
        """
        named = "topic_matches(?, topic)" if {*"+#"} & {*wanted.stream} else "topic = ?"
        series = dict(
            self._connection.execute(
                f"SELECT id, topic FROM series WHERE {named}",  # noqa: S608 - one of two
                (wanted.stream,),
            )
        )
        at_id = after_id
        while True:
            segment = self._connection.execute(
                "SELECT id, last_id, from_ms < ? AND to_ms >= ? FROM segments WHERE last_id > ?"
                " ORDER BY id LIMIT 1",
                (wanted.to_ms, wanted.from_ms, at_id),
            ).fetchone()
            if segment is not None:
                number, last_id, is_wanted = segment
                if is_wanted:
                    yield from self._of_segment(number, series, wanted, at_id)
                at_id = last_id
                continue
            last_id, rows = self._fresh(named, wanted, at_id)
            yield rows
            if last_id is None:
                return
            at_id = last_id

    def _of_segment(
        self, segment: int, series: dict[int, str], wanted: TimeRange, after_id: int
    ) -> Iterator[list[PastResult]]:
        """All of a segment are put in order before the first is given."""
        rows: list[PastResult] = []
        numbers = [*series]
        for start in range(0, len(numbers), _BLOCKS_AT_ONCE):
            some = orjson.dumps(numbers[start : start + _BLOCKS_AT_ONCE]).decode()
            blocks: Any = self._connection.execute(
                "SELECT series, data FROM blocks WHERE segment = ? AND from_ms < ? AND to_ms >= ?"
                " AND series IN (SELECT value FROM json_each(?))",
                (segment, wanted.to_ms, wanted.from_ms, some),
            ).fetchall()
            for number, data in blocks:
                rows += self._unpacked(series[number], data, wanted, after_id)
            yield []
        rows.sort()
        yield rows

    def _unpacked(self, topic: str, data: bytes, wanted: TimeRange, after_id: int) -> list[PastResult]:
        try:
            found = unpack(topic, data)
        except DecodeError:
            self.damaged_blocks += 1
            return []
        return [row for row in found if row.id > after_id and wanted.from_ms <= row.time_ms < wanted.to_ms]

    def _fresh(self, named: str, wanted: TimeRange, after_id: int) -> tuple[int | None, list[PastResult]]:
        """The last id that was looked at, None at the end, and the wanted rows. One statement, so that no
        result is copied between two looks."""
        row = next(
            self._connection.execute(
                _FRESH.format(named=named),
                (after_id, _FRESH_AT_ONCE, wanted.stream, wanted.from_ms, wanted.to_ms),
            )
        )
        (last_id,), (self.copied_to, self.offset), ids, times_ms, topics, payloads = map(orjson.loads, row)
        encoded = [payload.encode() for payload in payloads]
        return last_id, [*map(PastResult, ids, times_ms, topics, encoded)]
