"""Tells the gateways that keep their events until then what is on the disk here, and what is missing.

A gateway says in its audit records whether it waits for that (`confirm`). Nothing is told that the sink has
not on its disk. What is told is true by itself, whatever the brokers do with it: a stream is told again with
each claim about it, and gateways repeat their claims for ever.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from gateway.core.own_topics import OwnTopics
from gateway.core.sequence_sets import Stretch, Stretches, size_of, without
from gateway.mqtt.link import Link
from gateway.receiver.completeness import judge_stream
from gateway.receiver.ledger import Ledger, Series
from gateway.receiver.sinks.sink import Received
from gateway.wire.audit_record import AuditRecord, StreamClaim
from gateway.wire.confirmation import Confirmation, StreamConfirmation, confirmation_messages

log = logging.getLogger(__name__)

CONFIRM_EVERY_S = 5.0
SHARED_GRACE_S = 15.0  # so long another member may take to write what it got before a claim
_HELD_RECORDS = 1000  # gateways repeat their claims for ever
_IN_FLIGHT = 8
_NEWEST_RUNS = 50  # of a stream with many; all of them with the next claim about it
_REFUSED = 0x80


LookUp = Callable[[Series, Sequence[Stretch]], list[Stretch]]
"""Gives those numbers of a series that are in the output, whoever wrote them."""


class Confirming:
    """Statements that are still to be sent. All of it runs on the receiving link's thread."""

    def __init__(
        self,
        prefix: str,
        ledger: Ledger,
        every_s: float = CONFIRM_EVERY_S,
        look_up: LookUp | None = None,
        grace_s: float = SHARED_GRACE_S,
    ) -> None:
        self.messages = 0
        self.refused = 0
        self.asked = 0
        """Numbers that gateways were asked to send again."""
        self._prefix = prefix
        self._ledger = ledger
        self._every_s = every_s
        self._due_s = 0.0
        self._look_up = look_up
        self._grace_s = grace_s
        self._later: deque[tuple[float, AuditRecord]] = deque(maxlen=_HELD_RECORDS)
        self._changed: dict[Series, None] = {}
        self._claimed: defaultdict[Series, list[StreamClaim]] = defaultdict(list)
        self._missing: dict[Series, Stretches] = {}
        self._as_of_ms: dict[str, int] = {}
        """By gateway: the time of the oldest record that what is missing goes by."""
        self._in_flight: dict[int, tuple[Series, ...]] = {}

    # --- what there is to tell ---

    def stored(self, events: Iterable[Received]) -> None:
        """Note that these events are on the disk."""
        words = self._ledger.words
        for gateway_id, event, buffer_id in events:
            word = words.get(gateway_id)
            if word is not None and word.confirm:
                self._changed[Series(gateway_id, event.stream, buffer_id)] = None

    def heard(self, record: AuditRecord) -> None:
        """A gateway claims to have sent this; what came before the record is on the disk, unless another
        member of the group still writes it."""
        if not record.confirm:
            return
        if self._look_up is None:
            self._compare(record)
        else:
            self._later.append((time.monotonic() + self._grace_s, record))

    def _compare(self, record: AuditRecord) -> None:
        for claim in record.claims:
            series = Series(record.gateway_id, claim.stream, record.buffer_id)
            stream = self._ledger.of(series)
            self._claimed[series].append(claim)
            kept = [each.run.stretches() for each in claim.exempt if each.kept]
            if self._look_up is not None and stream is not None:
                unknown = [*without([(claim.first, claim.last)], stream.seen, *kept)]
                stream.seen = stream.seen.united(self._look_up(series, unknown))
                kept = [each.run.stretches() for each in claim.exempt if each.kept]
            seen: Iterable[Stretch] = stream.seen if stream is not None else ()
            self._miss(series, without([(claim.first, claim.last)], seen, *kept), record.time_ms)

    def ask_for_all(self) -> list[str]:
        """Ask for everything that is missing, by all claims so far; returns the gateways that take no
        requests."""
        deaf: set[str] = set()
        for series, stream in self._ledger:
            word = self._ledger.words.get(series.gateway_id)
            missing = judge_stream(stream).missing
            if missing and word is not None and series.buffer_id == word.buffer_id:
                if word.confirm:
                    self._miss(series, missing, word.time_ms)
                else:
                    deaf.add(series.gateway_id)
        return sorted(deaf)

    @property
    def wanted(self) -> int:
        """Numbers that gateways will be asked for."""
        return sum(map(size_of, self._missing.values()))

    def _miss(self, series: Series, missing: Iterable[Stretch], as_of_ms: int) -> None:
        known = self._missing.get(series)
        numbers = Stretches(missing) if known is None else known.united(missing)
        if numbers.first is not None:
            self._missing[series] = numbers
            self._as_of_ms.setdefault(series.gateway_id, as_of_ms)
            self._due_s = 0.0

    # --- on the connection ---

    def work(self, link: Link) -> float:
        """Tell it, when it is time; returns how many seconds it may wait."""
        now_s = time.monotonic()
        while self._later and self._later[0][0] <= now_s:
            self._compare(self._later.popleft()[1])
        if not (self._changed or self._claimed or self._missing):
            return 1.0
        if now_s < self._due_s:
            return min(1.0, self._due_s - now_s)
        if len(self._in_flight) >= _IN_FLIGHT or link.congested:
            return 1.0
        self._due_s = now_s + self._every_s
        self.tell_all(link)
        return 1.0

    def tell_all(self, link: Link) -> None:
        """Tell what there is to be told, now."""
        told = {**self._changed, **dict.fromkeys(self._claimed), **dict.fromkeys(self._missing)}
        by_buffer: defaultdict[tuple[str, str], list[Series]] = defaultdict(list)
        for series in told:
            by_buffer[series.gateway_id, series.buffer_id].append(series)
        for (gateway_id, buffer_id), some in by_buffer.items():
            word = self._ledger.words[gateway_id]
            if word.buffer_id == buffer_id:
                streams = tuple(map(self._confirmation, some))
                as_of_ms = self._as_of_ms.get(gateway_id, word.time_ms)
                statement = Confirmation(gateway_id, buffer_id, as_of_ms, streams)
                topic = OwnTopics(self._prefix, gateway_id).confirm
                for payload in confirmation_messages(statement):
                    self._in_flight[link.publish(topic, payload)] = tuple(some)
                    self.messages += 1
        self._changed.clear()
        self._claimed.clear()
        self._missing.clear()
        self._as_of_ms.clear()

    def answered(self, link: Link, packet_id: int, reason_code: int) -> None:
        """The broker has answered a statement."""
        if self._in_flight.pop(packet_id, None) is None or reason_code < _REFUSED:
            return
        if not self.refused:
            log.error(
                "%s refuses what is told to the gateways: 0x%02x; they keep their events."
                " The receiver needs to write %s (mosquitto/acl.cloud)",
                *(link.endpoint.place, reason_code, OwnTopics(self._prefix, "+").confirm),
            )
        self.refused += 1

    def disconnected(self) -> None:
        """Tell unanswered statements again; the next claim tells again what is missing."""
        for some in self._in_flight.values():
            self._changed.update(dict.fromkeys(some))
        self._in_flight.clear()

    # --- inside ---

    def _confirmation(self, series: Series) -> StreamConfirmation:
        stream = self._ledger.of(series)
        runs = [] if stream is None else [*stream.seen]
        claims = self._claimed.get(series, ())
        have = tuple(runs) if len(runs) <= _NEWEST_RUNS else tuple(_near(runs, claims))
        missing = tuple(self._missing.get(series, ()))
        self.asked += sum(last - first + 1 for first, last in missing)
        return StreamConfirmation(series.stream, have, missing)


def _near(runs: list[Stretch], claims: Iterable[StreamClaim]) -> Iterator[Stretch]:
    """The newest runs, and those that claims are about."""
    claimed = [(claim.first, claim.last) for claim in claims]
    newest = runs[-_NEWEST_RUNS][0]
    for first, last in runs:
        if first >= newest or any(first <= end and start <= last for start, end in claimed):
            yield first, last
