"""Exactly which events left the buffer before the cloud had them: per stream the numbers, as runs.

The audit records declare them one by one, so that a receiver need not wonder whether they are still to come.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

import apsw
import orjson

from gateway.numbers import runs_of

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


def note_losses(connection: apsw.Connection, reason: str, where: str, values: tuple[object, ...]) -> None:
    """Keep the numbers of the events that `where` selects, before they are removed; inside a transaction."""
    row = connection.execute(
        "SELECT json_group_array(stream), json_group_array(sequence_num) FROM"  # noqa: S608 - constants
        f" (SELECT DISTINCT stream, sequence_num FROM buffer_events WHERE {where} AND {_NUMBERS}"
        " ORDER BY stream, sequence_num)",
        values,
    ).fetchone()
    streams, numbers = map(orjson.loads, row)  # type: ignore[arg-type] # an aggregate always gives a row
    runs: list[list[tuple[int, int, int, int]]] = []
    for stream, pairs in groupby(zip(streams, numbers, strict=True), key=itemgetter(0)):
        runs.append([(stream, *run) for run in runs_of([number for _, number in pairs])])
    if runs:
        connection.execute(_EXTEND, (orjson.dumps([of_stream[0] for of_stream in runs]).decode(), reason))
        connection.execute(_INSERT, (reason, orjson.dumps([run for some in runs for run in some]).decode()))
