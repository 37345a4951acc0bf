"""Claims about streams: how far each has come, and which numbers are on their way, lost or kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import orjson

from gateway.buffer.reader import Reader
from gateway.core.events import Status
from gateway.core.sequence_sets import Run, runs_of
from gateway.wire.audit_record import Exempt

KEPT = Status.KEPT.name.lower()
_LAST = "SELECT json_group_array(id), json_group_array(last_sequence) FROM streams WHERE last_sequence > 0"
_WAITING = """
SELECT json_group_array(stream), json_group_array(first) FROM
(SELECT stream, min(sequence_num) AS first FROM buffer_events WHERE status < 2 GROUP BY stream)
"""
_KEPT = """
SELECT json_group_array(stream), json_group_array(status), json_group_array(sequence_num) FROM
(SELECT DISTINCT stream, status, sequence_num FROM buffer_events WHERE status > 2 AND status < 5
 AND typeof(stream) = 'integer' AND typeof(sequence_num) = 'integer' ORDER BY stream, status, sequence_num)
"""
_AT_EDGE = """
SELECT json_group_array(stream), json_group_array(first), json_group_array(last) FROM
(SELECT stream, min(sequence_num) AS first, max(sequence_num) AS last FROM
  (SELECT stream, sequence_num,
          sequence_num - row_number() OVER (PARTITION BY stream ORDER BY sequence_num) AS run
   FROM buffer_events WHERE status = 5 AND status > 2)
 GROUP BY stream, run ORDER BY stream, first)
"""
_LOST = """
SELECT json_group_array(stream), json_group_array(reason), json_group_array(first_sequence),
       json_group_array(last_sequence), json_group_array(step) FROM
(SELECT loss_runs.* FROM json_each(?) AS wanted JOIN loss_runs
 ON stream = json_extract(value, '$[0]') AND last_sequence >= json_extract(value, '$[1]')
 ORDER BY stream, first_sequence)
"""
_EARLIER = "SELECT json_group_array(stream), json_group_array(sequence) FROM series_starts WHERE sequence > 0"
# Of a corrupt event any column may be damaged, so it may hold anything.


class StreamPositions(NamedTuple):
    """A snapshot of positions, by stream number."""

    settled: Mapping[int, int]
    """All numbers up to this one have left for the cloud, are lost or kept."""
    kept: Mapping[int, tuple[Exempt, ...]]
    earlier: Mapping[int, Exempt]
    """The numbers that belong to the identity that the buffer had before; see `gateway.buffer.identity`."""
    statuses: Mapping[str, int]
    """Number of events per status."""


def standing(reader: Reader) -> StreamPositions:
    """Return the position of every stream at its last checkpoint. Inside `reader.snapshot()`."""
    last = dict(zip(*reader.arrays(_LAST), strict=True))
    waiting = dict(zip(*reader.arrays(_WAITING), strict=True))
    settled = {stream: min(number, waiting.get(stream, number + 1) - 1) for stream, number in last.items()}
    counters = reader.counters()
    statuses = {status.name.lower(): counters.get(("status", status.name), 0) for status in Status}
    return StreamPositions(settled, _kept(reader), _earlier(reader), statuses)


def lost(reader: Reader, wanted: Iterable[tuple[int, int]]) -> Mapping[int, list[Exempt]]:
    """Return the numbers evicted before delivery, for the (stream, first number) pairs in `wanted`."""
    found: defaultdict[int, list[Exempt]] = defaultdict(list)
    arrays = reader.arrays(_LOST, orjson.dumps(list(wanted)).decode())
    for stream, reason, *run in zip(*arrays, strict=True):
        found[stream].append(Exempt(reason, Run(*run)))
    return found


def _earlier(reader: Reader) -> Mapping[int, Exempt]:
    starts = zip(*reader.arrays(_EARLIER), strict=True)
    return {stream: Exempt("earlier_buffer", Run(1, last, 1)) for stream, last in starts}


def _kept(reader: Reader) -> Mapping[int, tuple[Exempt, ...]]:
    rows = zip(*reader.arrays(_KEPT), strict=True)
    found: defaultdict[int, tuple[Exempt, ...]] = defaultdict(tuple)
    for (stream, status), numbers in groupby(rows, key=itemgetter(0, 1)):
        name = Status(status).name.lower()
        runs = runs_of([number for *_, number in numbers])
        found[stream] += tuple(Exempt(name, run, kept=True) for run in runs)
    at_edge = zip(*reader.arrays(_AT_EDGE), strict=True)
    for stream, rows_of_one in groupby(at_edge, key=itemgetter(0)):
        stretches = [(first, last) for _, first, last in rows_of_one]
        found[stream] += tuple(Exempt(KEPT, run, kept=True) for run in _runs_of_stretches(stretches))
    return found


def _runs_of_stretches(stretches: Sequence[tuple[int, int]]) -> Iterator[Run]:
    """Join neighbouring numbers into runs, including single numbers at an even step."""
    for is_single, some in groupby(stretches, key=lambda one: one[0] == one[1]):
        if is_single:
            yield from runs_of([first for first, _ in some])
        else:
            yield from (Run(first, last, 1) for first, last in some)
