"""Shares of a bridge round while a backlog drains: urgent events first, then recent ones, then the rest.

- First all that is critical, alerts among it. Of the room that is left in the round half goes to aggregates
  of the last hour, half of what is left then to live events, half of what is left then to older aggregates.
  The backlog gets the rest, and whatever these did not need.
- Live is what came after the drain began. In the order `oldest` a live event still waits for the backlog
  of its own stream, so that nothing overtakes; in the order `newest` it does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.core.events import Kind, Priority

RECENT_MS = 3_600_000
_SHARE = 0.5
_LESS_URGENT = tuple(priority for priority in Priority if priority is not Priority.CRITICAL)
_AGGREGATES = "INDEXED BY buffer_events_unsettled_derived"


@dataclass
class Backlog:
    """The events that waited when a connection began to drain: every one up to `to_id`.

    `streams` are the numbers of those that still have some of it, as a JSON array. `passed` says for each
    priority up to which id live events were claimed; `reached` is the same once the claim is committed.
    """

    to_id: int
    streams: str
    newest_first: bool = False
    passed: dict[int, int] = field(default_factory=dict)
    reached: dict[int, int] = field(default_factory=dict)


class Query(NamedTuple):
    """A part of a round: which of the waiting events, in which order. `live` has the priority of a query for
    live events."""

    where: str
    values: tuple[object, ...]
    order: str = "id"
    source: str = ""
    live: int | None = None


class Band(NamedTuple):
    """Queries that share a part of the room that is left in a round."""

    share: float
    queries: tuple[Query, ...]


def bands(backlog: Backlog, recent_id: int) -> Iterator[Band]:
    """Yield the bands that go before the backlog. `recent_id`: the first event of the last hour."""
    yield Band(1.0, (Query("priority = ?", (int(Priority.CRITICAL),)),))
    kind = "kind = ? AND kind <> 0"
    yield Band(_SHARE, (Query(f"{kind} AND id >= ?", (int(Kind.AGGREGATE), recent_id), source=_AGGREGATES),))
    yield Band(_SHARE, tuple(_live(backlog, priority) for priority in _LESS_URGENT))
    yield Band(_SHARE, (Query(kind, (int(Kind.AGGREGATE),), source=_AGGREGATES),))


def newest() -> Band:
    """The backlog, the newest first within each priority."""
    return Band(1.0, tuple(Query("priority = ?", (int(each),), "id DESC") for each in _LESS_URGENT))


def _live(backlog: Backlog, priority: int) -> Query:
    where, values = "priority = ? AND id > ?", (priority, backlog.passed.get(priority, backlog.to_id))
    if backlog.newest_first:
        return Query(where, values, live=priority)
    free = " AND stream NOT IN (SELECT value FROM json_each(?))"
    return Query(where + free, (*values, backlog.streams), live=priority)
