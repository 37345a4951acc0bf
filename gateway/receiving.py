"""What the cloud side does with events: tell new ones from duplicates, notice gaps, write lines.

The bridge delivers at least once. An event is a duplicate when its id was seen among the latest ones, or
when its sequence number was seen before in its stream. Numbers are dense, so what was seen of a stream is
a few stretches, whatever the number of events. A number that was seen, on an event that is younger than
everything before it, means that the gateway lost its buffer and counts anew: it is not a duplicate.
"""

from __future__ import annotations

import uuid
from base64 import b64encode
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import orjson

from gateway.errors import DecodeError
from gateway.events import SKIPPED_SHIFT, Flag, Kind, Priority, WireEvent, skipped
from gateway.uplink import id_text

RECENT_IDS = 200_000  # about 20 MB; far more than a bridge has in flight, which is what it sends again

_PRIORITIES = {int(each): each.name.lower() for each in Priority}
_KINDS = {int(each): each.name.lower() for each in Kind}


class Stretches:
    """A set of integers that knows only the first and last of every run of neighbours."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._firsts, self._lasts, strict=True)

    @property
    def last(self) -> int | None:
        return self._lasts[-1] if self._lasts else None

    def add(self, number: int) -> bool:
        """Whether `number` was not there yet."""
        firsts, lasts = self._firsts, self._lasts
        if lasts and number == lasts[-1] + 1:
            lasts[-1] = number
            return True
        after = bisect_right(firsts, number)
        if after and number <= lasts[after - 1]:
            return False
        firsts.insert(after, number)
        lasts.insert(after, number)
        self._join(after)
        self._join(after - 1)
        return True

    def forget_from(self, number: int) -> None:
        """Remove `number` and everything above it."""
        keep = bisect_right(self._firsts, number - 1)
        del self._firsts[keep:], self._lasts[keep:]
        if self._lasts:
            self._lasts[-1] = min(self._lasts[-1], number - 1)

    def gaps(self) -> Iterator[tuple[int, int]]:
        """First and last of every run that is missing between two stretches."""
        for last, first in zip(self._lasts, self._firsts[1:], strict=False):
            yield last + 1, first - 1

    def _join(self, at: int) -> None:
        """Make one of the stretches `at` and `at + 1` if they touch."""
        if 0 <= at < len(self._firsts) - 1 and self._lasts[at] + 1 == self._firsts[at + 1]:
            del self._lasts[at], self._firsts[at + 1]


class Identity(NamedTuple):
    """What an event is recognised by."""

    gateway_id: str
    event_id: bytes
    stream: str
    sequence_num: int
    ingest_time_ms: int


class Gap(NamedTuple):
    """Sequence numbers of one stream that have not arrived."""

    gateway_id: str
    stream: str
    first: int
    last: int


class _Stream:
    __slots__ = ("newest_ingest_ms", "seen")

    def __init__(self) -> None:
        self.seen = Stretches()
        self.newest_ingest_ms = -(2**63)


class Ledger:
    """Remembers which events were taken. Its memory grows with streams and gaps, not with events."""

    def __init__(self, recent_ids: int = RECENT_IDS) -> None:
        self.events = 0
        self.duplicates = 0
        self.reordered = 0
        """Events that came after a later one of their stream."""
        self.renumbered = 0
        """Times that a stream began to count anew."""
        self._streams: dict[tuple[str, str], _Stream] = {}
        self._recent: set[bytes] = set()
        self._recent_order: deque[bytes] = deque()
        self._recent_limit = recent_ids

    @property
    def streams(self) -> int:
        return len(self._streams)

    @property
    def gateways(self) -> int:
        return len({gateway_id for gateway_id, _ in self._streams})

    def take(self, event: Identity) -> bool:
        """Whether the event is new. It counts as taken from now on."""
        stream = self._streams.get((event.gateway_id, event.stream))
        if stream is None:
            stream = self._streams[event.gateway_id, event.stream] = _Stream()
        highest = stream.seen.last
        unseen = stream.seen.add(event.sequence_num)
        known = event.event_id in self._recent
        if known or not (unseen or event.ingest_time_ms > stream.newest_ingest_ms):
            self.duplicates += 1
            return False
        if not unseen:
            stream.seen.forget_from(event.sequence_num)
            stream.seen.add(event.sequence_num)
            self.renumbered += 1
        elif highest is not None and event.sequence_num < highest:
            self.reordered += 1
        stream.newest_ingest_ms = max(stream.newest_ingest_ms, event.ingest_time_ms)
        self.events += 1
        self._remember(event.event_id)
        return True

    def gaps(self) -> Iterator[Gap]:
        """What is missing between the first and the last event of every stream."""
        for (gateway_id, name), stream in sorted(self._streams.items()):
            for first, last in stream.seen.gaps():
                yield Gap(gateway_id, name, first, last)

    def _remember(self, event_id: bytes) -> None:
        self._recent.add(event_id)
        self._recent_order.append(event_id)
        if len(self._recent_order) > self._recent_limit:
            self._recent.discard(self._recent_order.popleft())


def identity(gateway_id: str, event: WireEvent) -> Identity:
    """What the ledger wants to know of an event."""
    return Identity(gateway_id, event.event_id, event.stream, event.sequence_num, event.ingest_time_ms)


def event_line(gateway_id: str, event: WireEvent) -> bytes:
    """The event as one line of JSON, with its newline; docs/wire-format.md lists the fields."""
    fields = {
        "event_id": id_text(event.event_id),
        "gateway": gateway_id,
        "stream": event.stream,
        "sequence_num": event.sequence_num,
        "event_time_ms": event.event_time_ms,
        "ingest_time_ms": event.ingest_time_ms,
        "device_time_ms": event.device_time_ms,
        "priority": _PRIORITIES.get(event.priority, event.priority),
        "kind": _KINDS.get(event.kind, event.kind),
        "flags": _flag_names(event.flags & ~(0xFF << SKIPPED_SHIFT)),
    }
    if skipped(event.flags):
        fields["stands_for"] = skipped(event.flags) + 1
    name, payload = _payload_field(event.payload)
    fields[name] = payload
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def identity_of_line(line: bytes) -> Identity:
    """Read back what `event_line` wrote. Raises DecodeError for any other line."""
    try:
        fields = orjson.loads(line)
        found = Identity(
            fields["gateway"],
            uuid.UUID(fields["event_id"]).bytes,
            fields["stream"],
            fields["sequence_num"],
            fields["ingest_time_ms"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise DecodeError("not a line that `gateway receive` wrote", reason="line") from exc
    if not (type(found.sequence_num) is int and type(found.ingest_time_ms) is int):
        raise DecodeError("not a line that `gateway receive` wrote", reason="line")
    return found


def _flag_names(flags: int) -> Sequence[str | int]:
    if not flags:
        return ()
    known = [each for each in Flag if flags & each]
    rest = flags & ~sum(known)
    return [*(str(each.name).lower() for each in known), *([rest] if rest else [])]


def _payload_field(payload: bytes) -> tuple[str, object]:
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError:
        try:
            return "payload", payload.decode()
        except UnicodeDecodeError:
            return "payload_b64", b64encode(payload).decode()
    # Verbatim, so that no digit changes; in JSON a raw line break can only stand between values.
    return "payload", orjson.Fragment(payload.replace(b"\n", b" ").replace(b"\r", b" "))
