"""Choice of the events to send next, and of the streams that pause after a refusal.

Invariants:
- The most urgent go first, then the oldest. Within a priority no event overtakes an earlier one of its
  stream: what is refused holds its stream, in that priority, until the pause is over.
- While nothing waits a claim does not look at the table `held` at all. While something waits, a claim does
  not look twice at what it had to skip: `_passed` keeps, for each priority, up to where everything is claimed
  or held. That is forgotten as soon as an event comes back or a pause ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

import apsw
import orjson

from gateway.buffer.backlog import RECENT_MS, Backlog, Query, bands, newest
from gateway.buffer.stored_events import BATCH_BYTES, fitting
from gateway.core.events import Priority
from gateway.delivery.states import Backoff, DeliveryEvent, sources

_LOOK_AGAIN_MS = 60_000  # at pauses that are over, whether their event has gone
_BANDS = 4  # that share the memory of a claim
_PENDING = int(sources(DeliveryEvent.CLAIM)[0])

_SELECT = (
    "SELECT json_group_array(id), json_group_array(size) FROM"
    " (SELECT id, octet_length(payload) AS size FROM buffer_events WHERE status = ? AND status < 2"
)
_NOT_HELD = (
    " AND NOT EXISTS (SELECT 1 FROM held WHERE held.stream = buffer_events.stream"
    " AND held.priority = buffer_events.priority AND refused_at <= ? AND retry_at > ?)"
)
_REFUSED = """
SELECT json_group_array(json_array(stream, priority, first, coalesce(refusals, 0))) FROM (
  SELECT stream, priority, min(id) AS first FROM buffer_events
  WHERE id IN (SELECT value FROM json_each(?)) GROUP BY stream, priority)
LEFT JOIN (SELECT stream, priority, first_id AS first, refusals FROM held) USING (stream, priority, first)
"""
_EXHAUSTED = """
SELECT json_group_array(id) FROM buffer_events JOIN held USING (stream, priority)
WHERE id IN (SELECT value FROM json_each(?)) AND retry_count + 1 >= ? AND refusals >= ?
"""


class Claims:
    """Chooses what is claimed. For the writer's thread, inside a transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._held = self._waiting = False
        self._known_from_ms = self._known_to_ms = 0  # when what `_waiting` says is so
        self._passed: dict[tuple[int, int, int], int] = {}
        self._recent = (-_LOOK_AGAIN_MS, 0)  # when it was found, and the first event of the last hour then

    def reload(self) -> None:
        """Start from what the file holds."""
        self._held = self._number("SELECT count(*) FROM held") > 0
        self._waiting = False  # until `_look` knows better
        self.forget()

    def forget(self) -> None:
        """Events came back, or pauses changed: look at everything again."""
        self._passed.clear()
        self._known_to_ms = 0

    def next_ids(
        self, limit: int, shard: int, shards: int, now_ms: int, limit_bytes: int = BATCH_BYTES
    ) -> list[int]:
        """The ids of up to `limit` PENDING events, as the invariants say; see `Store.claim`."""
        if self._held and not self._known_from_ms <= now_ms < self._known_to_ms:
            self._look(now_ms)
        of_shard, shard_values = (" AND stream % ? = ?", (shards, shard)) if shards > 1 else ("", ())
        if not self._waiting:
            sql = f"{_SELECT}{of_shard} ORDER BY priority, id LIMIT ?)"
            ids: list[int]
            ids, sizes = self._arrays(sql, (_PENDING, *shard_values, limit))
            return ids[: fitting(sizes, limit_bytes)]
        return self._next_of_those_not_held(limit, shard, shards, now_ms, limit_bytes)

    def next_round(
        self,
        backlog: Backlog,
        limit: int,
        shard: int,
        shards: int,
        now_ms: int,
        claim: Callable[[list[int]], object],
        limit_bytes: int = BATCH_BYTES,
    ) -> list[int]:
        """The ids of up to `limit` PENDING events, as `backlog` says. They are claimed band by band, so that
        each sees what the ones before it have left."""
        if self._held and not self._known_from_ms <= now_ms < self._known_to_ms:
            self._look(now_ms)
        found: list[int] = []
        backlog.reached = dict(backlog.passed)
        rest = [newest()] if backlog.newest_first else []
        for band in [*bands(backlog, self._recent_id(now_ms)), *rest]:
            room = ceil((limit - len(found)) * band.share)
            for query in band.queries:
                ids = self._ids_of(query, room, shard, shards, now_ms, limit_bytes) if room else []
                claim(ids)
                if query.live is not None and ids:
                    backlog.reached[query.live] = ids[-1]
                found += ids
                room -= len(ids)
        if not backlog.newest_first and len(found) < limit and backlog.streams != "[]":
            ids = self.next_ids(limit - len(found), shard, shards, now_ms, limit_bytes)
            claim(ids)
            found += ids
        return found

    def _ids_of(
        self, query: Query, room: int, shard: int, shards: int, now_ms: int, limit_bytes: int
    ) -> list[int]:
        of_shard, shard_values = (" AND stream % ? = ?", (shards, shard)) if shards > 1 else ("", ())
        not_held, held_values = (_NOT_HELD, (now_ms, now_ms)) if self._waiting else ("", ())
        select = _SELECT.replace("FROM buffer_events", f"FROM buffer_events {query.source}")
        sql = f"{select} AND {query.where}{of_shard}{not_held} ORDER BY {query.order} LIMIT ?)"
        ids: list[int]
        ids, sizes = self._arrays(sql, (_PENDING, *query.values, *shard_values, *held_values, room))
        return ids[: fitting(sizes, limit_bytes // _BANDS)]

    def _recent_id(self, now_ms: int) -> int:
        """The first event of the last hour, as of the last minute: ids grow with the time of arrival."""
        known_at_ms, recent_id = self._recent
        if not known_at_ms <= now_ms < known_at_ms + _LOOK_AGAIN_MS:
            recent_id = first_since(self._connection, now_ms - RECENT_MS)
            self._recent = now_ms, recent_id
        return recent_id

    def _next_of_those_not_held(
        self, limit: int, shard: int, shards: int, now_ms: int, limit_bytes: int
    ) -> list[int]:
        of_shard, shard_values = (" AND stream % ? = ?", (shards, shard)) if shards > 1 else ("", ())
        sql = f"{_SELECT} AND priority = ? AND id > ?{of_shard}{_NOT_HELD} ORDER BY id LIMIT ?)"
        found: list[int] = []
        sizes: list[int] = []
        for priority in Priority:
            place = (shards, shard, int(priority))
            values = (_PENDING, int(priority), self._passed.get(place, 0), *shard_values, now_ms, now_ms)
            room = limit - len(found)
            ids, more_sizes = self._arrays(sql, (*values, room))
            sizes += more_sizes
            taken = fitting(sizes, limit_bytes) - len(found)
            found += ids[:taken]
            if taken < len(ids) or len(ids) == room:
                self._passed[place] = found[-1] if taken else self._passed.get(place, 0)
                break
            self._passed[place] = self._number("SELECT seq FROM sqlite_sequence WHERE name = 'buffer_events'")
        return found

    def hold(self, ids: Sequence[int], backoff: Backoff, now_ms: int, chance: float) -> list[int]:
        """Let the streams of the refused `ids` wait. Returns those of `ids` that were tried often enough:
        they themselves, and in a row the first one of their stream, `max_attempts` times."""
        chosen = orjson.dumps(list(ids)).decode()
        (refused,) = self._arrays(_REFUSED, (chosen,))
        held = [
            [stream, priority, first_id, before + 1, now_ms + backoff.pause_ms(before + 1, chance)]
            for stream, priority, first_id, before in refused
        ]
        self._connection.execute(
            "INSERT OR REPLACE INTO held (stream, priority, first_id, refusals, refused_at, retry_at)"
            " SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),"
            " json_extract(value, '$[3]'), ?, json_extract(value, '$[4]') FROM json_each(?)",
            (now_ms, orjson.dumps(held).decode()),
        )
        self._held = True
        self.forget()
        exhausted: list[int]
        (exhausted,) = self._arrays(_EXHAUSTED, (chosen, backoff.max_attempts, backoff.max_attempts))
        return exhausted

    def release(self) -> int:
        """End every pause now; returns how many there were."""
        self._connection.execute("DELETE FROM held")
        released = int(self._connection.changes())
        self.reload()
        return released

    # --- inside ---

    def _look(self, now_ms: int) -> None:
        """See which pauses last, and remove those that are over and whose event has gone its way."""
        self._connection.execute(
            "DELETE FROM held WHERE retry_at <= ? AND NOT EXISTS"
            " (SELECT 1 FROM buffer_events WHERE id = first_id AND status < 2)",
            (now_ms,),
        )
        self.reload()
        # A clock that went back behind the refusal would hold the stream for as long as it went back.
        ((count, next_ms),) = self._connection.execute(
            "SELECT count(*), min(retry_at) FROM held WHERE refused_at <= ? AND retry_at > ?",
            (now_ms, now_ms),
        )
        self._waiting = count > 0
        self._known_from_ms, self._known_to_ms = now_ms, next_ms or now_ms + _LOOK_AGAIN_MS

    def _arrays(self, sql: str, values: tuple[object, ...]) -> list[Any]:
        (arrays,) = self._connection.execute(sql, values)
        return list(map(orjson.loads, arrays))

    def _number(self, sql: str) -> int:
        row = self._connection.execute(sql).fetchone()
        return int(row[0]) if row else 0


def first_since(connection: apsw.Connection, time_ms: int) -> int:
    """The id of the first event that arrived at `time_ms` or later: ids grow with the time of arrival."""
    ((high,),) = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM buffer_events")
    low = 0
    while low < high:
        middle = (low + high) // 2
        sql = "SELECT ingest_time FROM buffer_events WHERE id >= ? ORDER BY id LIMIT 1"
        row = connection.execute(sql, (middle,)).fetchone()
        low, high = (middle + 1, high) if row and row[0] < time_ms else (low, middle)
    return low
