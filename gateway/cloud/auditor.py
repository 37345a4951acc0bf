"""Sends the audit records: what this gateway has brought to the cloud, so that a receiver can prove it.

Invariants:
- A number is claimed once the cloud broker's PUBACK for its event is committed, never before; so a receiver
  that has taken what the broker held when the claim arrived must have the event.
- Claims are remembered as made only after all of their messages were acknowledged; else they are made again.
- What was claimed is claimed again, some streams in each record, and a record goes even when nothing is new:
  what the cloud broker lost, with or without its claim, shows whether its stream is idle or always busy.
- It only reads, except for what it signs (`record_signer`). Where it has a connection of its own, a large
  audit holds up neither the drain nor live data;
  where it shares the bridge's, packet ids that are not its own are the bridge's.
- A broker that ends the connection over an audit record may not do so again at once: another session on the
  connection would take the blame. After each such end in a row the next audit waits twice as long.
"""

from __future__ import annotations

import heapq
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from gateway.buffer.dropped_messages import shed_ranges
from gateway.buffer.proof.evidence import IdBounds, id_bounds
from gateway.buffer.proof.positions import StreamPositions, lost, standing
from gateway.buffer.reader import Reader
from gateway.buffer.writer import Writer
from gateway.cloud.record_signer import RecordSigner
from gateway.flow.dropped_ranges import DroppedRange
from gateway.mqtt.link import TOO_LARGE, Link, Session
from gateway.wire.audit_record import RECORD_BYTES, AuditRecord, Exempt, StreamClaim, audit_messages
from gateway.wire.evidence import Seal
from gateway.wire.signatures import SIGNATURE_BYTES

log = logging.getLogger(__name__)

_Told = tuple[dict[int, int], Mapping[int, tuple[Exempt, ...]], frozenset[DroppedRange]]

_IN_FLIGHT = 8
_LOOK_EVERY_S = 1.0
_LOOK_AGAIN_S = 0.05  # while signed records are on their way to the disk
_BACKLOG_EVENTS = 1000  # once this many have drained, their audit does not wait for its turn
_REST = 20  # an audit that takes long is made seldom: it may take a twentieth of the time
_REPEATED = 32  # streams that are claimed again in one record: about 2 kB
_REPEATED_RUNS = 500  # and no further ones after this many exempt runs
_REFUSED = 0x80
_PACKET_BYTES = 16  # of a PUBLISH, beside topic and payload
_LONGEST_REST_S = 3600.0  # after connections that ended over an audit record


class AuditorMetrics:
    """Plain numbers, written by the auditor's thread, read by any."""

    def __init__(self) -> None:
        self.audits = 0
        self.messages = 0
        self.refused = 0
        self.last_s = 0.0  # how long the last look at the buffer took


class Auditor(Session):
    """The session of `gateway.audit`: every `interval_s`, and after a backlog, what is new, some again."""

    def __init__(
        self,
        topic: str,
        gateway_id: str,
        path: Path,
        writer: Writer,
        now_ms: Callable[[], int],
        interval_s: float = 60.0,
        *,
        confirm: bool = False,
        signer: RecordSigner | None = None,
    ) -> None:
        self.metrics = AuditorMetrics()
        self._topic = topic
        self._gateway_id = gateway_id
        self._path = path
        self._writer = writer
        self._now_ms = now_ms
        self._interval_s = interval_s
        self._confirm = confirm
        self._signer = signer
        self._session = uuid.uuid4().hex
        self._reader: Reader | None = None
        self._claimed: dict[int, int] = {}  # the last number of each stream that was claimed
        self._kept: Mapping[int, tuple[Exempt, ...]] = {}
        self._told: frozenset[DroppedRange] = frozenset()
        self._whole_at: dict[int, int] = {}  # the record in which each stream was last claimed from 1
        self._repeated: set[int] = set()  # streams whose newest claim was made twice or more often
        self._records = 0
        self._next: _Told | None = None
        self._waiting: deque[bytes] = deque()
        self._in_flight: set[int] = set()
        self._due_s = 0.0
        self._behind = False
        self._ends = 0  # in a row, of connections with records that were not answered

    @property
    def sealed_events(self) -> int:
        """Events whose hashes were signed since the start. On any thread."""
        return 0 if self._signer is None else self._signer.events

    # --- on the link's thread ---

    def connected(self, link: Link, session_present: bool) -> None:
        self._behind = False
        rest_s = self._interval_s * 2**self._ends if self._ends > 1 else 0.0
        self._due_s = time.monotonic() + min(rest_s, _LONGEST_REST_S)

    def published(self, link: Link, packet_id: int, reason_code: int) -> None:
        if packet_id not in self._in_flight:
            return
        self._in_flight.discard(packet_id)
        self._ends = 0
        if reason_code == TOO_LARGE:
            self.metrics.refused += 1  # one claim that cannot be told; it must not keep back the others
            log.warning("an audit record is larger than the cloud broker takes: a stream is not proven")
        elif reason_code >= _REFUSED:
            self.metrics.refused += 1
            log.warning("the cloud broker refused an audit record: reason code 0x%02x", reason_code)
            self._give_up()
            return
        if self._next is not None and not self._waiting and not self._in_flight:
            self._claimed, self._kept, self._told = self._next
            self._next = None
            self.metrics.audits += 1
            if self._signer is not None:
                self._signer.acknowledge()

    def disconnected(self, link: Link) -> None:
        if self._in_flight:
            self._ends = min(self._ends + 1, 16)
            if self._ends > 1:
                log.warning(
                    "%d connections in a row ended over an audit record; the next one waits", self._ends
                )
        self._give_up()

    def work(self, link: Link) -> float:
        if self._signer is not None:
            self._collect(self._signer)
        if self._next is None and self._is_due():
            self._audit(link)
        while self._waiting and len(self._in_flight) < _IN_FLIGHT and not link.congested:
            self._in_flight.add(link.publish(self._topic, self._waiting.popleft()))
            self.metrics.messages += 1
        return _LOOK_AGAIN_S if self._signer is not None and self._signer.is_waiting else _LOOK_EVERY_S

    def finish(self) -> None:
        """Close what this session opened, after the link has stopped."""
        if self._reader is not None:
            self._reader.close()

    # --- inside ---

    def _is_due(self) -> bool:
        if self._signer is not None and self._signer.is_waiting:
            return False
        pending = self._writer.pending_events
        drained = self._behind and pending == 0
        self._behind = pending > _BACKLOG_EVENTS or (self._behind and not drained)
        is_sealing = self._signer is not None and self._signer.is_behind
        return drained or is_sealing or time.monotonic() >= self._due_s

    def _audit(self, link: Link) -> None:
        started_s = time.monotonic()
        seals: tuple[Seal, ...] = ()
        if self._reader is None:
            self._reader = Reader(self._path)
        if self._signer is not None and self._is_told_again(self._signer, self._reader):
            return
        with self._reader.snapshot():
            now = standing(self._reader)
            wanted = self._wanted(now)
            claims = list(_claims(self._reader, now, wanted))
            claims += self._claims_again(self._reader, now, wanted)
            shed = frozenset(shed_ranges(self._reader))
            ids = id_bounds(self._reader) if self._signer is not None else IdBounds()
        ended_s = time.monotonic()
        self.metrics.last_s = ended_s - started_s
        self._due_s = ended_s + max(self._interval_s, _REST * self.metrics.last_s)
        limit_bytes = self._limit_bytes(link)
        if self._signer is not None:
            seals = tuple(self._signer.seals(self._reader, now, ids, limit_bytes))
        untold = tuple(sorted(shed - self._told))
        record = AuditRecord(
            *(self._gateway_id, self._session, self._now_ms(), now.statuses, tuple(claims), untold),
            self._reader.buffer_id,
            self._confirm,
            seals,
        )
        if self._signer is None:
            self._waiting.extend(audit_messages(record, limit_bytes))
        else:
            self._signer.sign(record.buffer_id, audit_messages(record, limit_bytes - SIGNATURE_BYTES))
        self._next = (self._claimed | dict(now.settled), now.kept, shed)

    def _collect(self, signer: RecordSigner) -> None:
        """Send what was signed once it is on the disk. After a reconnect it is told from there."""
        signed = signer.signed()
        if signed is not None and self._next is not None:
            self._waiting.extend(signed)
            if not signed:
                self._give_up()

    def _is_told_again(self, signer: RecordSigner, reader: Reader) -> bool:
        """Send what was signed and not acknowledged, before anything new; True if there is any."""
        unsent = signer.start(reader)
        if unsent:
            self._waiting.extend(unsent)
            self._next = (self._claimed, self._kept, self._told)
        return bool(unsent)

    def _wanted(self, now: StreamPositions) -> dict[int, int]:
        """The streams that have come further, and from where; from 1 where what is kept has changed."""
        wanted = {}
        for stream, settled in now.settled.items():
            claimed = self._claimed.get(stream, 0)
            same = _up_to(claimed, now.kept.get(stream, ())) == _up_to(claimed, self._kept.get(stream, ()))
            first = claimed + 1 if same else 1
            if first <= settled:
                wanted[stream] = first
        return wanted

    def _claims_again(
        self, reader: Reader, now: StreamPositions, wanted: Mapping[int, int]
    ) -> list[StreamClaim]:
        """Claim some streams whole once more. What is left out for its runs is among the next."""
        self._records += 1
        self._repeated.difference_update(wanted)
        whole = [stream for stream, first in wanted.items() if first == 1]
        chosen = self._again(now, wanted)
        claims = list(_few(_claims(reader, now, dict.fromkeys(chosen, 1))))
        made = chosen[: len(claims)]
        self._repeated.update(stream for stream in made if stream not in wanted)
        self._whole_at.update(dict.fromkeys([*whole, *made], self._records))
        return claims

    def _again(self, now: StreamPositions, wanted: Mapping[int, int]) -> list[int]:
        """Choose streams to claim whole: those claimed longest ago, busy ones too, and some claimed once."""
        known = [
            stream for stream in self._claimed if wanted.get(stream) != 1 and now.settled.get(stream, 0) > 0
        ]
        idle = (stream for stream in known if stream not in wanted and stream not in self._repeated)
        once = list(islice(idle, _REPEATED // 2))
        others = (stream for stream in known if stream not in once)

        def age(stream: int) -> int:
            return self._whole_at.get(stream, 0)

        return sorted([*once, *heapq.nsmallest(_REPEATED - len(once), others, key=age)], key=age)

    def _limit_bytes(self, link: Link) -> int:
        """Return the largest payload that the broker takes, without the rest of the packet."""
        if link.max_packet_bytes is None:
            return RECORD_BYTES
        return link.max_packet_bytes - len(self._topic.encode()) - _PACKET_BYTES

    def _give_up(self) -> None:
        """Forget claims without an acknowledgement: the next audit sends them again."""
        self._waiting.clear()
        self._in_flight.clear()
        self._next = None


def _claims(reader: Reader, now: StreamPositions, wanted: Mapping[int, int]) -> Iterator[StreamClaim]:
    """Claims about the streams `wanted`, from the given numbers to the last that is settled."""
    names = dict(zip(wanted, reader.names([*wanted]), strict=True))
    losses = lost(reader, wanted.items())
    for stream, first in wanted.items():
        last = now.settled.get(stream, 0)
        if last < first:
            continue
        exempt = [*losses.get(stream, ()), *now.kept.get(stream, ())]
        if stream in now.earlier:
            exempt = [*_behind(now.earlier[stream].run.last, exempt), now.earlier[stream]]
        clipped = (each.within(first, last) for each in exempt)
        yield StreamClaim(names[stream], first, last, tuple(each for each in clipped if each))


def _few(claims: Iterable[StreamClaim]) -> Iterator[StreamClaim]:
    """Yield claims until their exempt runs reach the limit; at least one claim."""
    runs = 0
    for claim in claims:
        yield claim
        runs += len(claim.exempt)
        if runs > _REPEATED_RUNS:
            return


def _behind(number: int, exempt: Iterable[Exempt]) -> Iterator[Exempt]:
    """Return the parts of `exempt` after `number`."""
    return (part for each in exempt if (part := each.within(number + 1, 2**63 - 1)))


def _up_to(number: int, exempt: Iterable[Exempt]) -> list[Exempt]:
    """Return the parts of `exempt` that the claim up to this number already covered."""
    return [part for each in exempt if (part := each.within(1, number))]
