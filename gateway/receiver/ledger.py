"""Ledger of the cloud side: events that have arrived in each stream, and those that gateways claim to have
sent.

The bridge delivers at least once. An event is a duplicate when its id was seen among the latest ones, or
when its sequence number was seen before in its stream. Numbers are dense, so what was seen of a stream is
a few stretches, whatever the number of events. A number that was seen, on an event that is younger than
everything before it, means that the gateway lost its buffer and counts anew: it is not a duplicate.

What a claim (`gateway.wire.audit_record`) declares lost counts as seen from then on, so that a stream that
was thinned out stays a few stretches too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from gateway.core.events import WireEvent
from gateway.core.sequence_sets import Run, Stretches
from gateway.flow.dropped_ranges import DroppedRange, told
from gateway.wire.audit_record import AuditRecord, Exempt, StreamClaim

RECENT_IDS = 200_000  # about 20 MB; far more than a bridge has in flight, which is what it sends again

MERGED = "merged"
"""The buffer of what a receiver has made itself out of parts: no gateway claims it."""


class Identity(NamedTuple):
    """The identity of an event."""

    gateway_id: str
    event_id: bytes
    stream: str
    sequence_num: int
    ingest_time_ms: int
    buffer_id: str = ""


class Series(NamedTuple):
    """Numbers that belong together: those of one stream out of one buffer of a gateway."""

    gateway_id: str
    stream: str
    buffer_id: str  # empty until the gateway names it: older ones do not


def series_of(event: Identity) -> Series:
    """Return the series that an event belongs to."""
    return Series(event.gateway_id, event.stream, event.buffer_id)


class Gap(NamedTuple):
    """Sequence numbers of one series that have not arrived."""

    gateway_id: str
    stream: str
    first: int
    last: int
    buffer_id: str = ""


class GatewayWord(NamedTuple):
    """The latest audit record of a gateway."""

    session: str
    time_ms: int
    buffer: dict[str, int]
    buffer_id: str = ""
    confirm: bool = False


class StreamLedger:
    """A stream: the numbers that were seen, those that were claimed, and what the claims except."""

    __slots__ = ("claimed", "exempt", "newest_ingest_ms", "seen")

    def __init__(self) -> None:
        self.seen = Stretches()
        self.newest_ingest_ms = -(2**63)
        self.claimed = Stretches()
        self.exempt: list[Exempt] = []

    def claim(self, claim: StreamClaim) -> bool:
        """Take up a claim; it replaces what was said before about the same numbers. True for new ones."""
        before_claimed = [*self.claimed]
        if self.exempt and self.claimed.last is not None and claim.first <= self.claimed.last:
            before, after = (0, claim.first - 1), (claim.last + 1, 2**63 - 1)
            parts = (each.within(*side) for each in self.exempt for side in (before, after))
            self.exempt = [part for part in parts if part]
        self.exempt += claim.exempt
        self.claimed = self.claimed.united([(claim.first, claim.last)])
        self._see(claim.exempt)
        return [*self.claimed] != before_claimed

    def see_lost(self) -> None:
        """Count as seen whatever is declared lost."""
        self._see(self.exempt)

    def _see(self, exempt: Iterable[Exempt]) -> None:
        lost = [each.run.stretches() for each in exempt if not each.kept]
        if lost:
            self.seen = self.seen.united(*lost)

    def dump(self) -> list[Any]:
        """Plain values that `load` takes."""
        exempt = [[each.reason, [*each.run], each.kept] for each in self.exempt]
        return [[*self.seen], self.newest_ingest_ms, [*self.claimed], exempt]

    @classmethod
    def load(cls, values: list[Any]) -> StreamLedger:
        """Raises TypeError, ValueError or IndexError for what `dump` did not give."""
        stream = cls()
        seen, stream.newest_ingest_ms, claimed, exempt = values
        stream.seen, stream.claimed = (
            Stretches((first, last) for first, last in each) for each in (seen, claimed)
        )
        stream.exempt = [Exempt(reason, Run(*run), kept) for reason, run, kept in exempt]
        return stream


class Ledger:
    """Remembers which events were taken. Its memory grows with streams and gaps, not with events."""

    def __init__(self, recent_ids: int = RECENT_IDS) -> None:
        self.events = 0
        self.duplicates = 0
        self.reordered = 0
        """Events that came after a later one of their stream."""
        self.renumbered = 0
        """Times that a stream began to count anew."""
        self.counting_anew: set[str] = set()
        """Gateways of which a stream did that."""
        self.words: dict[str, GatewayWord] = {}
        """By gateway: its latest audit record."""
        self.shed: dict[str, list[DroppedRange]] = {}
        """By gateway: the messages that it says it has not taken in."""
        self.buffers: dict[str, list[str]] = {}
        """By gateway: its buffers, in the order in which they were met."""
        self._streams: dict[Series, StreamLedger] = {}
        self._recent: set[bytes] = set()
        self._recent_order: deque[bytes] = deque()
        self._recent_limit = recent_ids

    @property
    def of_gateways(self) -> Iterator[tuple[Series, StreamLedger]]:
        """Each series that a gateway has sent, with its ledger."""
        return (one for one in self if one[0].buffer_id != MERGED)

    def __iter__(self) -> Iterator[tuple[Series, StreamLedger]]:
        """Each series with its ledger, in the order of their names."""
        return ((series, self._streams[series]) for series in sorted(self._streams))

    def of(self, series: Series) -> StreamLedger | None:
        """Return the ledger of one series, if there is one."""
        return self._streams.get(series)

    @property
    def streams(self) -> int:
        return len(self._streams)

    @property
    def gateways(self) -> int:
        return len({series.gateway_id for series in self._streams})

    def take(self, event: Identity) -> bool:
        """Take an event and return True if it is new."""
        series = Series(event.gateway_id, event.stream, event.buffer_id)
        stream = self._streams.get(series) or self._stream(series)
        highest = stream.seen.last
        unseen = stream.seen.add(event.sequence_num)
        known = event.event_id in self._recent or (unseen and self._came_from_before(series, event))
        if known or not (unseen or event.ingest_time_ms > stream.newest_ingest_ms):
            self.duplicates += 1
            return False
        if not unseen:
            stream.seen.forget_from(event.sequence_num)
            stream.seen.add(event.sequence_num)
            self.renumbered += 1
            if event.buffer_id:  # an older gateway cannot give a restored buffer another identity
                self.counting_anew.add(event.gateway_id)
        elif highest is not None and event.sequence_num < highest:
            self.reordered += 1
        stream.newest_ingest_ms = max(stream.newest_ingest_ms, event.ingest_time_ms)
        self.events += 1
        self._remember(event.event_id)
        return True

    def hear(self, record: AuditRecord) -> bool:
        """Take up the claims of one audit record. A new session of a gateway claims everything anew.

        Returns whether it says anything new, rather than the same again.
        """
        news = bool(record.shed)
        word = self.words.get(record.gateway_id)
        if word is not None and word.session != record.session:
            for series, stream in self._streams.items():
                if series[::2] == (record.gateway_id, record.buffer_id):
                    stream.claimed, stream.exempt = Stretches(), []
            self.shed.pop(record.gateway_id, None)
        self.words[record.gateway_id] = GatewayWord(
            record.session, record.time_ms, dict(record.buffer), record.buffer_id, record.confirm
        )
        for claim in record.claims:
            news |= self._stream(Series(record.gateway_id, claim.stream, record.buffer_id)).claim(claim)
        if record.shed:
            self.shed[record.gateway_id] = told(self.shed.get(record.gateway_id, ()), record.shed)
        return news

    def bound(self, some: Iterable[Series], runs: int) -> None:
        """Forget the oldest numbers of those series that are in more than `runs` pieces."""
        for series in some:
            stream = self._streams.get(series)
            if stream is not None:
                stream.seen.keep_newest(runs)

    def gaps(self) -> Iterator[Gap]:
        """Yield numbers missing between the first and the last event of every stream, and not declared
        lost."""
        for series, stream in self:
            for first, last in stream.seen.gaps():
                yield Gap(series.gateway_id, series.stream, first, last, series.buffer_id)

    def adopt_claims(self, other: Ledger) -> None:
        """Take over what `other` was told, but not what it has seen."""
        self.words, self.shed, self.buffers = {}, {}, {}
        self.add_claims(other)

    def add_claims(self, other: Ledger) -> None:
        """Take over the claims of further gateways, and nothing that was seen."""
        self.words |= other.words
        self.shed |= other.shed
        self.buffers |= {gateway_id: [*known] for gateway_id, known in other.buffers.items()}
        for series, stream in other:
            own = self._stream(series)
            own.claimed, own.exempt = stream.claimed, stream.exempt

    def claims_of(self, gateway_id: str) -> Ledger:
        """Return a ledger that knows what this one was told by one gateway."""
        found = Ledger()
        found.words = {name: word for name, word in self.words.items() if name == gateway_id}
        found.shed = {name: shed for name, shed in self.shed.items() if name == gateway_id}
        found.buffers = {name: [*known] for name, known in self.buffers.items() if name == gateway_id}
        for series, stream in self:
            if series.gateway_id == gateway_id:
                own = found._stream(series)
                own.claimed, own.exempt = stream.claimed, [*stream.exempt]
        return found

    def dump(self) -> bytes:
        """Return everything but the latest ids, for `load` after a restart."""
        streams = [
            [series.gateway_id, series.stream, stream.dump(), series.buffer_id] for series, stream in self
        ]
        words = {gateway_id: [*word] for gateway_id, word in self.words.items()}
        shed = {gateway_id: [[*one] for one in ranges] for gateway_id, ranges in self.shed.items()}
        fields: dict[str, object] = {
            "version": 1,
            "events": self.events,
            "words": words,
            "shed": shed,
            "streams": streams,
        }
        fields["buffers"] = self.buffers
        return orjson.dumps(fields)

    def load(self, state: bytes) -> None:
        """Go on where `dump` was. Raises ValueError for anything else."""
        try:
            fields = orjson.loads(state)
            if fields["version"] != 1:
                raise ValueError("it is of another version")
            self.events = int(fields["events"])
            self.words = {gateway_id: GatewayWord(*word) for gateway_id, word in fields["words"].items()}
            for gateway_id, ranges in fields.get("shed", {}).items():  # older states have none
                self.shed[gateway_id] = [DroppedRange(*each) for each in ranges]
            self.buffers = {name: [*known] for name, known in fields.get("buffers", {}).items()}
            for gateway_id, name, values, *buffer_id in fields["streams"]:
                self._streams[Series(gateway_id, name, *(buffer_id or ("",)))] = StreamLedger.load(values)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as exc:
            raise ValueError(f"not the state of a receiver: {exc!r}") from exc

    def _stream(self, series: Series) -> StreamLedger:
        stream = self._streams.get(series)
        if stream is None:
            series = series._replace(buffer_id=self._buffer(series))
            stream = self._streams.setdefault(series, StreamLedger())
        return stream

    def _buffer(self, series: Series) -> str:
        """Return the buffer of a series. A gateway that names none continues the one that it named last; the
        first that it names is the one that it had before."""
        if series.buffer_id == MERGED:
            return MERGED
        known = self.buffers.setdefault(series.gateway_id, [])
        if not series.buffer_id:
            return known[-1] if known else ""
        if series.buffer_id not in known:
            if not known:
                unnamed = [one for one in self._streams if one[::2] == (series.gateway_id, "")]
                for one in unnamed:
                    self._streams[one._replace(buffer_id=series.buffer_id)] = self._streams.pop(one)
            known.append(series.buffer_id)
        return series.buffer_id

    def _came_from_before(self, series: Series, event: Identity) -> bool:
        """Return True if an earlier buffer of the gateway has sent this event: the new buffer came from a
        backup. A number that was given out again belongs to a later event."""
        return event.buffer_id != MERGED and any(
            earlier is not None
            and earlier.newest_ingest_ms >= event.ingest_time_ms
            and event.sequence_num in earlier.seen
            for buffer_id in self.buffers.get(series.gateway_id, ())
            if buffer_id != event.buffer_id
            for earlier in (self._streams.get(series._replace(buffer_id=buffer_id)),)
        )

    def _remember(self, event_id: bytes) -> None:
        self._recent.add(event_id)
        self._recent_order.append(event_id)
        if len(self._recent_order) > self._recent_limit:
            self._recent.discard(self._recent_order.popleft())


def identity(gateway_id: str, event: WireEvent, buffer_id: str = "") -> Identity:
    """Return the identity of an event for the ledger."""
    return Identity(
        gateway_id, event.event_id, event.stream, event.sequence_num, event.ingest_time_ms, buffer_id
    )
