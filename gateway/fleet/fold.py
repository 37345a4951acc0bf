"""The fold: what was received from one gateway becomes the results that its windows give.

Records come in the order of their ids, which is the order in which the gateway took its messages in. The fold
drops doubled ones, notes which sequence numbers of which stream are missing, and runs the windows. It is told
everything and looks at nothing, so it gives the same on any engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from zlib import crc32

from gateway.core.errors import DecodeError
from gateway.core.events import Emission
from gateway.core.sequence_sets import Stretch
from gateway.decode.routes import RouteTable
from gateway.fleet.holes import Holes
from gateway.fleet.records import StoredRecord, Trouble, name_of
from gateway.fleet.rules import Rules
from gateway.pipeline.replay import Recorded, Replay
from gateway.receiver.event_lines import event_of_line


class Share(NamedTuple):
    """The part of a gateway's streams that a fold takes: number `position` of `of`, from 0."""

    position: int = 0
    of: int = 1

    def has(self, stream: bytes) -> bool:
        """Return True for a stream of this part."""
        return self.of == 1 or crc32(stream) % self.of == self.position


WHOLE = Share()
MOST_GAPS = 1000
"""Gaps of a gateway that are named one by one; more are only counted."""


class Hole(NamedTuple):
    """Sequence numbers of a stream that the input does not have."""

    stream: str
    run: Stretch


class Position:
    """The last number of a stream: they are dense, so the next one is known."""

    __slots__ = ("buffer_id", "last")

    def __init__(self, buffer_id: bytes, number: int) -> None:
        self.buffer_id = buffer_id
        self.last = number


class GatewayFold:
    """The fold of one gateway, or of a share of its streams."""

    def __init__(self, gateway: bytes, rules: Rules, share: Share = WHOLE) -> None:
        self.name = gateway
        self.events = 0
        self.results = 0
        self.holes: list[Hole] = []
        self.missing = 0
        self.replaced = 0
        """Number of times that a stream began anew, because the gateway lost its buffer."""
        self.until_ms: int | None = None
        """Newest arrival among its events."""
        self.doubled: Counter[int] = Counter()
        """Doubled lines by file."""
        self.first_doubled: dict[int, int] = {}
        """Offset of the first doubled line of each file."""
        self.troubles: list[Trouble] = []
        self._share = share
        self._run = rules.replay()
        self._near_holes = Holes(rules.with_quality)
        self._last_id = b""
        self._positions: dict[bytes, Position] = {}
        self._head = b'{"gateway":"' + gateway + b'",'

    @property
    def streams(self) -> int:
        """Number of streams so far."""
        return len(self._positions)

    @property
    def undecoded(self) -> int:
        """Number of payloads that their routes could not decode."""
        return self._run.undecoded

    def feed(self, record: StoredRecord) -> Iterator[bytes]:
        """Yield the lines of results that a record brings about."""
        ingest_ms = int(record.ingest_ms)
        if not self._share.has(record.stream):
            return self._lines(self._run.pass_time(ingest_ms))
        if record.event_id == self._last_id:
            self._note_doubled(record)
            return iter(())
        return self._take(record, ingest_ms)

    def _take(self, record: StoredRecord, ingest_ms: int) -> Iterator[bytes]:
        try:
            message = _message_of(record, ingest_ms)
        except DecodeError as exc:
            self.troubles.append(Trouble(int(record.file), int(record.offset), str(exc)))
            return iter(())
        self._last_id = record.event_id
        if not self._is_next(record):
            return iter(())
        self.events += 1
        if self.until_ms is None or ingest_ms > self.until_ms:
            self.until_ms = ingest_ms
        return self._lines(self._run.feed(message))

    def finish(self) -> Iterator[bytes]:
        """Yield the lines of windows that the end of the input closes."""
        return self._lines(self._run.finish())

    def _is_next(self, record: StoredRecord) -> bool:
        """Note a gap before a record. False for a number that the stream has had already."""
        number = int(record.number)
        at = self._positions.get(record.stream)
        if at is None or self._counts_anew(at, record, number):
            self._positions[record.stream] = Position(record.buffer_id, number)
            return True
        at.buffer_id = at.buffer_id or record.buffer_id
        if number <= at.last:
            reason = f"number {number} of {record.stream.decode()} again, with another id"
            self.troubles.append(Trouble(int(record.file), int(record.offset), reason))
            return False
        if number > at.last + 1:
            self.missing += number - at.last - 1
            hole = Hole(record.stream.decode(), (at.last + 1, number - 1))
            self._near_holes.note(*hole)
            if len(self.holes) < MOST_GAPS:
                self.holes.append(hole)
        at.last = number
        return True

    def _counts_anew(self, at: Position, record: StoredRecord, number: int) -> bool:
        """Return True if the gateway has a new buffer since the last record: its numbers begin with 1 again.
        Lines of exports, and of older gateways, do not name the buffer."""
        is_told = at.buffer_id and record.buffer_id
        anew = at.buffer_id != record.buffer_id if is_told else number == 1
        if anew:
            self._near_holes.forget(record.stream.decode())
        self.replaced += anew
        return anew

    def _note_doubled(self, record: StoredRecord) -> None:
        file = int(record.file)
        self.doubled[file] += 1
        offset = int(record.offset)
        self.first_doubled[file] = min(offset, self.first_doubled.get(file, offset))

    def _lines(self, emissions: Iterable[Emission]) -> Iterator[bytes]:
        for emission in emissions:
            line = self._near_holes.line_of(emission)
            if line is not None:
                self.results += 1
                yield self._head + line[1:]


def _message_of(record: StoredRecord, ingest_ms: int) -> Recorded:
    """Raises DecodeError."""
    payload_at = int(record.payload_at)
    if payload_at:
        payload = record.line[payload_at:-2]
        return Recorded(record.stream.decode(), payload, ingest_ms, 0, int(record.number))
    event = event_of_line(record.line).event
    return Recorded(event.stream, event.payload, ingest_ms, event.flags, event.sequence_num)


class CommonFold:
    """The fold of windows over all gateways. Records come by arrival: that is the time that passes.

    `expected` are all gateways that have events here: the watermark waits for each of them from the start,
    until it has been silent for the window's `idle_timeout`.
    """

    def __init__(self, rules: Rules, expected: Iterable[str]) -> None:
        self.results = 0
        self._rules = rules
        self._routes = RouteTable(rules.routes)
        self._engine = rules.engine(rules.common)
        self._time = Replay(self._routes, self._engine)
        self._expected: list[str] | None = sorted(expected)
        self._gateways: dict[bytes, Replay] = {}
        self._last = (b"", b"")
        self._near_holes = Holes(rules.with_quality)
        self._positions: dict[tuple[bytes, bytes], Position] = {}

    def feed(self, record: StoredRecord) -> Iterator[bytes]:
        """Yield the lines of results that a record brings about."""
        if (record.gateway, record.event_id) == self._last:
            return iter(())
        try:
            message = _message_of(record, int(record.ingest_ms))
        except DecodeError:
            return iter(())  # the gateway's own fold has told
        self._last = record.gateway, record.event_id
        self._note_number(record)
        if self._expected is not None:
            self._engine.expect(self._expected, message.time_ms)
            self._expected = None
        out = self._time.pass_time(message.time_ms)
        out += self._of(record.gateway).take_stored(message, message.flags or 0)
        return self._lines(out)

    def finish(self) -> Iterator[bytes]:
        """Yield the lines of windows that the end of the input closes."""
        return self._lines(self._time.finish())

    def _note_number(self, record: StoredRecord) -> None:
        number, place = int(record.number), (record.gateway, record.stream)
        at = self._positions.get(place)
        if at is not None and at.buffer_id == record.buffer_id and number > at.last + 1:
            stream = f"{name_of(record.gateway)}:{record.stream.decode()}"
            self._near_holes.note(stream, (at.last + 1, number - 1))
        if at is None or at.buffer_id != record.buffer_id or number > at.last:
            self._positions[place] = Position(record.buffer_id, number)

    def _of(self, gateway: bytes) -> Replay:
        found = self._gateways.get(gateway)
        if found is None:
            view = self._engine.seen_from(name_of(gateway))
            found = self._gateways[gateway] = Replay(self._rules.table(self._routes), view)
        return found

    def _lines(self, emissions: Iterable[Emission]) -> Iterator[bytes]:
        for emission in emissions:
            line = self._near_holes.line_of(emission)
            if line is not None:
                self.results += 1
                yield line


def lines_of_fold(
    fold: GatewayFold | CommonFold, records: Iterable[StoredRecord], *, flush: bool
) -> Iterator[bytes]:
    """Yield the lines of results of all records, and with `flush` of what the end of the input closes."""
    for record in records:
        yield from fold.feed(record)
    if flush:
        yield from fold.finish()
