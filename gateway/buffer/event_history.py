"""Finds the events of a range of event time, a stretch of rows at a time: no snapshot outlives one statement.

There is no index on the event time, which would cost every append a fifth. What bears a time arrived at
most `ahead_ms` before it, and ids grow with the arrival: so a search begins there, and looks at all since.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from gateway.buffer.reader import Reader
from gateway.core.events import Kind

STRETCH_ROWS = 10_000
"""Some 10 ms of looking: the log cannot be reset meanwhile."""
_DAY_MS = 24 * 3600 * 1000
_WILDCARDS = frozenset("+#")
_STRETCH = """
WITH stretch AS MATERIALIZED (
  SELECT id, stream, event_time, kind FROM buffer_events WHERE id > ? AND {kinds} ORDER BY id LIMIT ?
)
SELECT json_array(coalesce(max(id), 0)), json_group_array(id) FILTER (
  WHERE kind IN (SELECT value FROM json_each(?)) AND stream IN (SELECT value FROM json_each(?))
  AND event_time >= ? AND event_time < ?
) FROM stretch
"""


@dataclass(frozen=True)
class TimeRange:
    """A range of event times: `from_ms` is included, `to_ms` is not."""

    stream: str
    kinds: frozenset[Kind]
    from_ms: int
    to_ms: int
    ahead_ms: int = _DAY_MS


def found_in(reader: Reader, wanted: TimeRange, after_id: int = 0) -> Iterator[list[int]]:
    """The ids behind `after_id`, in their order, of one stretch after the other; some have none."""
    streams = orjson.dumps(_streams(reader, wanted.stream)).decode()
    kinds = orjson.dumps([int(kind) for kind in wanted.kinds]).decode()
    sql = _STRETCH.format(kinds="true" if Kind.RAW in wanted.kinds else "kind <> 0")
    at_id = max(after_id, reader.first_since(wanted.from_ms - wanted.ahead_ms) - 1)
    while True:
        (last_id,), ids = reader.arrays(
            sql, at_id, STRETCH_ROWS, kinds, streams, wanted.from_ms, wanted.to_ms
        )
        yield ids
        if not last_id:
            return
        at_id = last_id


def _streams(reader: Reader, topic_filter: str) -> list[int]:
    """The numbers of the streams that a filter means."""
    named = "topic_matches(?, name)" if _WILDCARDS & {*topic_filter} else "name = ?"
    (ids,) = reader.arrays(f"SELECT json_group_array(id) FROM streams WHERE {named}", topic_filter)  # noqa: S608
    return ids
