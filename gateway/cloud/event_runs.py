"""Events of the event format on their way in bulk: packets built together, answers taken together.

Invariants:
- A run is a stretch of one chunk that was handed to the network at once; runs are kept in the order in which
  they were sent, each until no message of it or before it waits for an answer.
- Messages are numbered in that order, over all connections, so that the oldest without an answer is known.
- Only what goes well goes this way. What is refused, closes a connection or is under suspicion becomes a
  message of its own (`Outgoing`), and the bridge sends no run until that is settled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gateway.buffer.stored_events import StoredEvents
from gateway.delivery.pacing import Flight, Pace
from gateway.mqtt.link import Link


class EncodedEvents(NamedTuple):
    """Events of one claim, encoded: those of `source` from `start` to `end`."""

    source: StoredEvents
    start: int
    end: int
    topics: Sequence[str]
    payloads: Sequence[bytes]
    properties: Sequence[bytes]
    hashes: Sequence[bytes] = ()  # of the events, where they are sealed


class SentRun(NamedTuple):
    """Messages `first` to `end` (not included), which carry the events of `chunk.source` from `at` on."""

    first: int
    end: int
    chunk: EncodedEvents
    at: int
    flight: Flight

    def position(self, number: int) -> int:
        """Return the position of a message's event in `chunk.source`."""
        return self.at + number - self.first


class Waiting(NamedTuple):
    """A message without an answer."""

    packet_id: int
    number: int
    run: SentRun


class EventRuns:
    """The runs of one bridge connection."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._runs: deque[SentRun] = deque()
        self._numbers: dict[int, int] = {}  # of the messages without an answer, by packet id, rising

    def __len__(self) -> int:
        return len(self._numbers)

    def send(
        self, link: Link, chunk: EncodedEvents, at: int, at_most: int, first: int, now_s: float
    ) -> tuple[int, int]:
        """Send events of `chunk` from position `at` on, as messages number `first` and so on; returns how
        many went, and their size. Fewer than `at_most` where the next needs `Link.publish`."""
        columns = chunk.topics, chunk.payloads, chunk.properties
        start = at - chunk.start
        stretch = [column[start : start + at_most] for column in columns]
        ids, size_bytes = link.publish_many(*stretch)  # type: ignore[arg-type]
        if ids:
            end = first + len(ids)
            self._runs.append(
                SentRun(first, end, chunk, at, self._pace.sent_run(len(ids), size_bytes, now_s))
            )
            self._numbers.update(zip(ids, range(first, end), strict=True))
        return len(ids), size_bytes

    def answered(
        self, packet_ids: Sequence[int], now_s: float, *, taken: bool
    ) -> tuple[int, list[tuple[EncodedEvents, Sequence[int]]]]:
        """Take note of answers. Returns the highest number among them, and the events that they mean:
        positions in `EncodedEvents.source`."""
        numbers = [*map(self._numbers.pop, packet_ids)]
        highest = max(numbers)
        found = self._events(numbers)
        oldest = next(iter(self._numbers.values()), highest + 1)
        while self._runs and self._runs[0].end <= oldest:
            self._pace.answered(self._runs.popleft().flight, now_s, taken=taken)
        return highest, found

    def _events(self, numbers: list[int]) -> list[tuple[EncodedEvents, Sequence[int]]]:
        first, last = numbers[0], numbers[-1]
        if last - first + 1 != len(numbers) or any(map(int.__ne__, numbers, range(first, last + 1))):
            runs = [(self._run_of(number), number) for number in numbers]
            return [(run.chunk, [run.position(number)]) for run, number in runs]
        found: list[tuple[EncodedEvents, Sequence[int]]] = []
        for run in self._runs:
            start, end = max(first, run.first), min(last + 1, run.end)
            if start < end:
                found.append((run.chunk, range(run.position(start), run.position(end))))
        return found

    def _run_of(self, number: int) -> SentRun:
        return next(run for run in self._runs if run.first <= number < run.end)

    @property
    def oldest(self) -> tuple[int, float] | None:
        """Number of the oldest message without an answer, and when it was sent."""
        number = next(iter(self._numbers.values()), None)
        return None if number is None else (number, self._run_of(number).flight.sent_s)

    def waiting(self) -> Iterator[Waiting]:
        """The messages without an answer, the oldest first."""
        for packet_id, number in self._numbers.items():
            yield Waiting(packet_id, number, self._run_of(number))

    def clear(self) -> None:
        """The connection has ended."""
        self._runs.clear()
        self._numbers.clear()
