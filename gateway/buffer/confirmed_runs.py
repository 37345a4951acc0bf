"""Events that a receiver has on its disk, as runs of sequence numbers; with `cloud.confirm: receiver` only.

An event is confirmed by its number, not by its row: a drain writes nothing more for it, and a statement is
one small change whatever it covers. What belongs to the identity that the buffer had before it was restored
cannot be confirmed any more, and counts as if it were; see `identity`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import apsw
import orjson

from gateway.core.sequence_sets import Stretch, Stretches, without

CONFIRMED = """(
  sequence_num >= (SELECT first_sequence FROM confirmed_runs AS run WHERE run.stream = buffer_events.stream
                   AND run.last_sequence >= buffer_events.sequence_num ORDER BY run.last_sequence LIMIT 1)
  OR sequence_num <= (SELECT sequence FROM series_starts AS start WHERE start.stream = buffer_events.stream)
) IS TRUE"""
"""The condition on rows of `buffer_events`."""

_RUNS = """
SELECT json_group_array(first_sequence), json_group_array(last_sequence) FROM
(SELECT * FROM confirmed_runs WHERE stream = ?1 AND last_sequence >= ?2 AND first_sequence <= ?3
 ORDER BY last_sequence)
"""
_REMOVE = "DELETE FROM confirmed_runs WHERE stream = ?1 AND last_sequence >= ?2 AND first_sequence <= ?3"
_INSERT = """
INSERT INTO confirmed_runs (stream, last_sequence, first_sequence)
SELECT ?, json_extract(value, '$[1]'), json_extract(value, '$[0]') FROM json_each(?)
"""
_FORGET = """
DELETE FROM confirmed_runs WHERE last_sequence <
  coalesce((SELECT json_extract(value, '$[1]') FROM json_each(?)
            WHERE json_extract(value, '$[0]') = confirmed_runs.stream), 9223372036854775807)
"""


class ConfirmedRuns:
    """The confirmed numbers of one buffer, on the connection that writes; inside a transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def add(self, stream: int, have: Sequence[Stretch]) -> None:
        """Note that these numbers are confirmed; those that already are may be among them."""
        if have:
            around = have[0][0] - 1, have[-1][1] + 1
            known = self._within(stream, *around)
            self._replace(stream, *around, Stretches(known).united(have))

    def take_back(self, stream: int, numbers: Sequence[Stretch]) -> None:
        """Note that these numbers are not confirmed after all."""
        if numbers:
            around = numbers[0][0], numbers[-1][1]
            known = self._within(stream, *around)
            if known:
                self._replace(stream, *around, without(known, numbers))

    def forget(self, lowest: Mapping[int, int]) -> None:
        """Forget runs of which no event is left; `lowest` is the lowest number by stream."""
        self._connection.execute(_FORGET, (orjson.dumps([*lowest.items()]).decode(),))

    def _within(self, stream: int, first: int, last: int) -> list[Stretch]:
        (arrays,) = self._connection.execute(_RUNS, (stream, first, last))
        return list(zip(*map(orjson.loads, arrays), strict=True))

    def _replace(self, stream: int, first: int, last: int, runs: Iterable[Stretch]) -> None:
        self._connection.execute(_REMOVE, (stream, first, last))
        self._connection.execute(_INSERT, (stream, orjson.dumps([*runs]).decode()))
