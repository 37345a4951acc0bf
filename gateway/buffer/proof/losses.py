"""Exactly which events left the buffer before the cloud had them: per stream the numbers, as runs.

The audit records declare them one by one, so that a receiver need not wonder whether they are still to come.
For people there is an alert for each removal: `Removal` is what it says.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import apsw
import orjson

from gateway.core.sequence_sets import runs_of

# A run that goes on where the last one of its stream ended becomes longer; what is thinned evenly is one run.
_EXTEND = """
UPDATE loss_runs SET last_sequence = new.last, step = new.first - loss_runs.last_sequence
FROM (SELECT json_extract(value, '$[0]') AS stream, json_extract(value, '$[1]') AS first,
             json_extract(value, '$[2]') AS last, json_extract(value, '$[3]') AS step
      FROM json_each(?)) AS new
WHERE loss_runs.stream = new.stream AND loss_runs.reason = ?
  AND loss_runs.last_sequence = (SELECT max(last_sequence) FROM loss_runs AS known
                                 WHERE known.stream = new.stream AND known.last_sequence < new.first)
  AND (loss_runs.first_sequence = loss_runs.last_sequence
       OR loss_runs.last_sequence + loss_runs.step = new.first)
  AND (new.first = new.last OR new.step = new.first - loss_runs.last_sequence)
"""
_INSERT = """
INSERT INTO loss_runs (stream, last_sequence, first_sequence, step, reason)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[2]'), json_extract(value, '$[1]'),
       json_extract(value, '$[3]'), ?
FROM json_each(?) WHERE NOT EXISTS (
  SELECT 1 FROM loss_runs WHERE stream = json_extract(value, '$[0]')
                            AND last_sequence = json_extract(value, '$[2]'))
"""
# Of a corrupt event that is dropped any column may hold anything.
_NUMBERS = "typeof(stream) = 'integer' AND typeof(sequence_num) = 'integer'"
_LOST = f"""
SELECT json_group_array(stream), json_group_array(sequence_num), min(oldest), max(newest) FROM
  (SELECT stream, sequence_num,
          min(event_time) FILTER (WHERE typeof(event_time) = 'integer') AS oldest,
          max(event_time) FILTER (WHERE typeof(event_time) = 'integer') AS newest
   FROM buffer_events WHERE {{where}} AND {_NUMBERS} GROUP BY stream, sequence_num
   ORDER BY stream, sequence_num)
"""  # noqa: S608 - constants
_COUNT = """
INSERT INTO losses (stream, reason, events, first_sequence, last_sequence)
SELECT json_extract(value, '$[0]'), ?, json_extract(value, '$[1]'), json_extract(value, '$[2]'),
       json_extract(value, '$[3]')
FROM json_each(?) WHERE true
ON CONFLICT (stream, reason) DO UPDATE SET events = events + excluded.events,
  first_sequence = min(first_sequence, excluded.first_sequence),
  last_sequence = max(last_sequence, excluded.last_sequence)
"""
_NAMES = "SELECT json_group_object(id, name) FROM streams WHERE id IN (SELECT value FROM json_each(?))"
_SHOWN_STREAMS = 20


class StreamLoss(NamedTuple):
    """Events removed from one stream."""

    stream: str
    events: int
    first_sequence: int
    last_sequence: int

    def __or__(self, other: StreamLoss) -> StreamLoss:
        """Return the sum of two losses of the same stream."""
        first = min(self.first_sequence, other.first_sequence)
        last = max(self.last_sequence, other.last_sequence)
        return StreamLoss(self.stream, self.events + other.events, first, last)


class Removal(NamedTuple):
    """Events that were removed for one reason: how many, when they happened (ms since the epoch; None where
    no time of them could be read), and what each stream has lost."""

    events: int = 0
    from_ms: int | None = None
    to_ms: int | None = None
    streams: tuple[StreamLoss, ...] = ()

    @classmethod
    def together(cls, removals: Iterable[Removal]) -> Removal:
        """Join several removals into one."""
        found = list(removals)
        streams: dict[str, StreamLoss] = {}
        for loss in (loss for each in found for loss in each.streams):
            known = streams.get(loss.stream)
            streams[loss.stream] = known | loss if known else loss
        return cls(
            sum(each.events for each in found),
            min((each.from_ms for each in found if each.from_ms is not None), default=None),
            max((each.to_ms for each in found if each.to_ms is not None), default=None),
            tuple(streams.values()),
        )

    @property
    def whose(self) -> str:
        """Return the name of the stream, or the number of streams."""
        return self.streams[0].stream if len(self.streams) == 1 else f"{len(self.streams)} streams"

    def details(self, reason: str) -> dict[str, Any]:
        """The fields of an alert. It names the streams that lost most."""
        most = sorted(self.streams, key=lambda loss: -loss.events)[:_SHOWN_STREAMS]
        return {
            "reason": reason,
            "events": self.events,
            "from_ms": self.from_ms,
            "to_ms": self.to_ms,
            "streams": [loss._asdict() for loss in most],
            "more_streams": len(self.streams) - len(most),
        }


def note_losses(connection: apsw.Connection, reason: str, where: str, values: tuple[object, ...]) -> Removal:
    """Keep the numbers of the events that `where` selects, before they are removed; inside a transaction."""
    (row,) = connection.execute(_LOST.format(where=where), values)
    streams, numbers = orjson.loads(row[0]), orjson.loads(row[1])
    sums: list[tuple[int, int, int, int]] = []
    runs: list[list[tuple[int, int, int, int]]] = []
    for stream, pairs in groupby(zip(streams, numbers, strict=True), key=itemgetter(0)):
        lost = [number for _, number in pairs]
        sums.append((stream, len(lost), lost[0], lost[-1]))
        runs.append([(stream, *run) for run in runs_of(lost)])
    if not sums:
        return Removal()
    connection.execute(_COUNT, (reason, orjson.dumps(sums).decode()))
    connection.execute(_EXTEND, (orjson.dumps([of_stream[0] for of_stream in runs]).decode(), reason))
    connection.execute(_INSERT, (reason, orjson.dumps([run for some in runs for run in some]).decode()))
    return Removal(len(numbers), row[2], row[3], _named(connection, sums))


def _named(connection: apsw.Connection, sums: Iterable[tuple[int, int, int, int]]) -> tuple[StreamLoss, ...]:
    ids = orjson.dumps([stream for stream, *_ in sums]).decode()
    ((found,),) = connection.execute(_NAMES, (ids,))
    names = orjson.loads(found)
    return tuple(StreamLoss(names.get(str(one), f"stream {one}"), *rest) for one, *rest in sums)
