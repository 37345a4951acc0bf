"""Record of messages that were not taken in: ranges of arrival times with counts, per stream and reason.

Invariants:
- They are committed with the group that shed them; so per reason their sum is what the counters say.
- There are never more than MOST_RANGES: the older half then becomes one range per reason, of no stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apsw
import orjson

from gateway.buffer.reader import Reader
from gateway.flow.dropped_ranges import OTHERS, DroppedRange

MOST_RANGES = 2_000
GAP_MS = 60_000
"""A stream of which nothing was shed for longer begins a new range."""

LONGEST_NAME = 1_024
RANGES = "SELECT reason, stream, first_ms, last_ms, messages FROM shed_ranges"
_NUMBERED = RANGES.replace("SELECT", "SELECT id,") + " ORDER BY id"


def shed_ranges(reader: Reader) -> Iterator[DroppedRange]:
    """Return all ranges, in the order in which they began."""
    if reader.has_table("shed_ranges"):  # no reader migrates a file of an earlier version
        yield from map(DroppedRange._make, reader.rows(RANGES + " ORDER BY id"))


class DroppedRanges:
    """The ranges of one buffer, for the writer's thread. Nothing is read or written while nothing is shed."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._moved: dict[tuple[str, str], list[int]] = {}  # first, last, messages
        self._latest: dict[tuple[str, str], tuple[int, DroppedRange]] = {}
        self._count = 0

    def reload(self) -> None:
        """Start again from what is committed."""
        self._moved.clear()
        self._look()

    def _look(self) -> None:
        self._latest, self._count = {}, 0
        for number, *columns in self._connection.execute(_NUMBERED):
            one = DroppedRange(*columns)
            self._latest[one.reason, one.stream] = number, one
            self._count = number

    def note(self, reason: str, topic: str, arrival_ms: int) -> None:
        """Record one dropped message in the transaction that counts it."""
        stream = topic if len(topic) <= LONGEST_NAME else OTHERS
        known = self._moved.get((reason, stream))
        if known is None:
            self._moved[reason, stream] = [arrival_ms, arrival_ms, 1]
            return
        known[0], known[1] = min(known[0], arrival_ms), max(known[1], arrival_ms)
        known[2] += 1

    def save(self) -> None:
        """Write what was noted; inside the transaction, at its end."""
        if not self._moved:
            return
        changed = [
            self._prolonged(DroppedRange(reason, stream, *new))
            for (reason, stream), new in self._moved.items()
        ]
        self._moved.clear()
        self._replace(changed)
        if self._count > MOST_RANGES:
            self._fold()

    def _prolonged(self, new: DroppedRange) -> tuple[int, DroppedRange]:
        """The number of the range that `new` belongs to, and that range with it."""
        place = new.reason, new.stream
        number, known = self._latest.get(place, (0, new))
        if number and new.first_ms <= known.last_ms + GAP_MS:
            new = known.joined(new)
        else:
            self._count += 1
            number = self._count
        self._latest[place] = number, new
        return number, new

    def _replace(self, ranges: Iterable[tuple[int, DroppedRange]]) -> None:
        self._connection.execute(
            "REPLACE INTO shed_ranges (id, reason, stream, first_ms, last_ms, messages)"
            " SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),"
            " json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]')"
            " FROM json_each(?)",
            (orjson.dumps([[number, *one] for number, one in ranges]).decode(),),
        )

    def _fold(self) -> None:
        """Make one range per reason of those that ended first, and of those that were folded before."""
        ranges = sorted(
            map(DroppedRange._make, self._connection.execute(RANGES)), key=lambda one: one.last_ms
        )
        old, young = ranges[: -(MOST_RANGES // 2)], ranges[-(MOST_RANGES // 2) :]
        folded: dict[str, DroppedRange] = {}
        for one in (*old, *(each for each in young if each.stream == OTHERS)):
            others = one._replace(stream=OTHERS)
            folded[one.reason] = folded[one.reason].joined(others) if one.reason in folded else others
        self._connection.execute("DELETE FROM shed_ranges")
        self._replace(enumerate([*folded.values(), *(one for one in young if one.stream != OTHERS)], 1))
        self._look()
