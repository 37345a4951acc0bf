"""Takes what receivers confirm, and sends again what they miss: the session of `gateway.confirm`.

Invariants:
- A statement is acknowledged after the commit of what it says, or once it is refused.
- A statement about another buffer, or about numbers that were never given out, changes nothing.
- What is missing goes again only if it is SYNCED, and only if the audit record that the receiver goes by is
  younger than the last time that it went: else it may still be on its way. What does not arrive then goes at
  growing intervals, with an alert, and at last no more: the receiver may be unable to read it (`resends`).
- It reads the buffer in stretches on a connection of its own: a search holds up no claim and no keep-alive.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import orjson

from gateway.buffer.confirmed_runs import CONFIRMED
from gateway.buffer.reader import Reader
from gateway.buffer.store import Store
from gateway.buffer.writer import Command, Do, Writer
from gateway.cloud.own_subscription import RETRY_S, OwnSubscription
from gateway.cloud.resends import AT_ONCE, MOST_TIMES, Resends
from gateway.core.errors import DecodeError
from gateway.core.events import Message, Status
from gateway.core.own_topics import OwnTopics
from gateway.core.sequence_sets import Stretch, Stretches, size_of, without
from gateway.mqtt.link import Link, Session
from gateway.wire.confirmation import Confirmation, read_confirmation

log = logging.getLogger(__name__)

WAITING = 100  # statements; above it the cloud broker has to keep them
_STRETCH_IDS = 50_000  # of a search, in one turn of the link's loop
_RESENT_IDS = 5_000  # in one command
_LOOK_EVERY_S = 30.0
_REST = 20  # a look that takes long is made seldom: it may take a twentieth of the time

_SYNCED_OF = """
SELECT json_group_array(id), json_group_array(stream), json_group_array(sequence_num),
       json_group_array(status) FROM buffer_events
WHERE id > ? AND id <= ? AND stream IN (SELECT value FROM json_each(?))
"""
_UNCONFIRMED = f"""
SELECT json_group_array(stream), json_group_array(lowest), json_group_array(waiting) FROM
(SELECT stream, min(sequence_num) AS lowest, sum(status = 2 AND NOT {CONFIRMED}) AS waiting
 FROM buffer_events WHERE id > ? AND id <= ? AND typeof(stream) = 'integer' GROUP BY stream)
"""  # noqa: S608 - constants


class ConfirmMetrics:
    """Plain numbers, written by the link's thread, read by any."""

    def __init__(self) -> None:
        self.statements = 0
        self.rejected: Counter[str] = Counter()
        """Statements, or streams of them, by reason."""
        self.gone = 0
        """Events that a receiver misses and that are not in the buffer any more."""
        self.refused_events = 0
        """Events that a receiver still misses though they went again often: it cannot read them?"""
        self.unconfirmed: int | None = None
        """Events that wait for a receiver, as of the last look; None before the first."""
        self.last_heard_s: float | None = None
        """Monotonic."""
        self.silent = False


class TakeConfirmation(Command):
    """Writes down what one statement says to be on a receiver's disk."""

    def __init__(self, statement: Confirmation, done: Callable[[Sequence[str]], object]) -> None:
        self._statement = statement
        self._done = done
        self._refused: list[str] = []

    def apply(self, store: Store) -> None:
        if store.identity.buffer_id != self._statement.buffer_id:
            self._refused = ["another_buffer"]
            return
        streams = self._statement.streams
        self._refused = ["unknown" for one in streams if not store.confirm(one.stream, one.have)]

    def committed(self) -> None:
        self._done(self._refused)


class Confirmations(Session):
    """The session of `gateway.confirm`."""

    def __init__(
        self,
        topics: OwnTopics,
        path: Path,
        writer: Writer,
        now_ms: Callable[[], int],
        alert: Callable[[str, str], object],
        silent_after_s: float = 600.0,
    ) -> None:
        self.metrics = ConfirmMetrics()
        self._topics = topics
        self._subscription = OwnSubscription(topics.confirm)
        self._path = path
        self._writer = writer
        self._now_ms = now_ms
        self._alert = alert
        self._silent_after_s = silent_after_s
        self._look_every_s = min(_LOOK_EVERY_S, silent_after_s / 2)
        self._reader: Reader | None = None
        self._link: Link | None = None
        self._open = 0
        self._settled: deque[tuple[Message, Confirmation, Sequence[str]]] = deque()  # bounded by `_open`
        self._wanted: dict[str, Stretches] = {}
        self._gone: dict[str, Stretches] = {}
        self._resends: dict[str, Resends] = {}
        self._search: Iterator[None] | None = None
        self._look: Iterator[None] | None = None
        self._look_at_s = 0.0
        self._waiting_since_s: float | None = None

    # --- on the link's thread ---

    def connected(self, link: Link, session_present: bool) -> None:
        self._link = link
        self._subscription.connected(link)

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        code = self._subscription.answered(codes)
        if code is not None:
            topic = self._topics.confirm
            log.error(
                "no confirmations on %s: %s refuses the subscription: 0x%02x; asked again every %g s."
                " The gateway needs to read %s (mosquitto/acl.cloud)",
                *(topic, link.endpoint.place, code, RETRY_S, topic),
            )

    def received(self, link: Link, messages: list[Message]) -> None:
        for message in messages:
            if self._open >= 2 * WAITING:  # on a shared connection; it comes again with the next one
                self.metrics.rejected["too_many"] += 1
                continue
            try:
                statement = self._read(message)
            except DecodeError as exc:
                self.metrics.rejected[exc.reason] += 1
                log.warning("%s: rejected: %s", message.topic, exc)
                link.ack(message)
                continue
            self._open += 1
            self._writer.submit(TakeConfirmation(statement, self._settle_with(message, statement)))

    def wants_to_read(self) -> bool:
        return self._open < WAITING

    def disconnected(self, link: Link) -> None:
        """Do nothing: unacknowledged statements come again, and hearing one twice does no harm."""

    def work(self, link: Link) -> float:
        while self._settled:
            self._settle(link, *self._settled.popleft())
        now_s = time.monotonic()
        self._subscription.work(link)
        if self._search is None and self._wanted:
            self._search = self._resend_wanted()
        if self._search is not None:
            if next(self._search, self) is self:
                self._search = None
            return 0.0
        return self._work_on_look(now_s)

    def finish(self) -> None:
        """Close what this session opened, after the link has stopped."""
        if self._reader is not None:
            self._reader.close()

    # --- inside: statements ---

    def _read(self, message: Message) -> Confirmation:
        if message.retain:
            raise DecodeError("a retained confirmation is an old one", reason="retained")
        statement = read_confirmation(message.payload)
        if statement.gateway_id != self._topics.gateway_id:
            raise DecodeError(f"a confirmation for {statement.gateway_id}", reason="gateway")
        if statement.audit_ms > self._now_ms():
            raise DecodeError("a confirmation by an audit record that is not made yet", reason="future")
        return statement

    def _settle_with(self, message: Message, statement: Confirmation) -> Callable[[Sequence[str]], None]:
        def settle(refused: Sequence[str]) -> None:
            """Pass the result to the link. Called on the writer's thread."""
            self._settled.append((message, statement, refused))
            if self._link is not None:
                self._link.wake()

        return settle

    def _settle(self, link: Link, message: Message, statement: Confirmation, refused: Sequence[str]) -> None:
        link.ack(message)
        self._open -= 1
        self.metrics.rejected.update(refused)
        if refused:
            log.warning(
                "a receiver confirms what this buffer never sent (%s): ignored", ", ".join({*refused})
            )
        if "another_buffer" in refused:
            return
        self.metrics.statements += 1
        self.metrics.last_heard_s, self.metrics.silent = time.monotonic(), False
        self._waiting_since_s = None
        for one in statement.streams:
            missing = [*without(one.missing, self._gone.get(one.stream, ()))]
            if one.stream in self._resends:
                self._forget_resends(one.stream, one.have)
            if one.stream in self._resends:
                missing = self._resends[one.stream].due(missing, statement.audit_ms)
            if missing:
                known = self._wanted.get(one.stream, Stretches())
                self._wanted[one.stream] = known.united(missing)

    # --- inside: what is missing ---

    def _require_reader(self) -> Reader:
        if self._reader is None:
            self._reader = Reader(self._path)
        return self._reader

    def _resend_wanted(self) -> Iterator[None]:
        """Look through the buffer for what is missing and let it go again, a stretch with each step."""
        wanted, self._wanted = self._wanted, {}
        reader = self._require_reader()
        ids_by_name = reader.stream_ids([*wanted])
        by_id = {stream: wanted[name] for name, stream in ids_by_name.items()}
        present: dict[int, list[Stretch]] = {stream: [] for stream in by_id}
        resent: dict[int, list[Stretch]] = {stream: [] for stream in by_id}
        chosen = orjson.dumps([*by_id]).decode()
        sent = 0
        for start, end in self._stretches(reader):
            found = zip(*reader.arrays(_SYNCED_OF, start, end, chosen), strict=True)
            again: list[int] = []
            for event_id, stream, number, status in found:
                if number in by_id[stream]:
                    present[stream].append((number, number))
                    if status == Status.SYNCED:
                        again.append(event_id)
                        resent[stream].append((number, number))
            for at in range(0, len(again), _RESENT_IDS):
                self._resend(again[at : at + _RESENT_IDS])
            sent += len(again)
            yield
        self._count_resends({name: resent[stream] for name, stream in ids_by_name.items()})
        gone = 0
        for name, stream in ids_by_name.items():
            lost = [*without(wanted[name], Stretches(sorted(present[stream])))]
            if lost:
                self._gone[name] = self._gone.get(name, Stretches()).united(lost)
                gone += size_of(lost)
                self._forget_resends(name, lost)
        self.metrics.gone += gone
        if sent:
            log.warning("a receiver misses %d events that the cloud broker took: they go again", sent)
        if gone:
            message = f"a receiver misses {gone} events that are not in the buffer any more"
            log.error("%s", message)
            self._alert("confirm_gone", message)

    def _count_resends(self, resent: Mapping[str, list[Stretch]]) -> None:
        now_ms = self._now_ms()
        often: dict[str, int] = {}
        for name, numbers in resent.items():
            if numbers:
                resends = self._resends.setdefault(name, Resends())
                before = resends.refused
                often[name] = resends.sent(Stretches(sorted(numbers)), now_ms)
                self.metrics.refused_events += resends.refused - before
        if any(often.values()):
            message = (
                f"{sum(often.values())} events went again more than {AT_ONCE} times, and the receiver still"
                f" misses them, the first of {next(name for name in often if often[name])}: can it read them?"
                f" See what `gateway receive` rejected. They go again ever less often, {MOST_TIMES} times in"
                " all, and stay in the buffer; a restart of the gateway sends them again"
            )
            log.error("%s", message)
            self._alert("confirm_refused", message)

    def _forget_resends(self, name: str, numbers: Sequence[Stretch]) -> None:
        resends = self._resends.get(name)
        if resends is not None:
            before = resends.refused
            resends.forget(numbers)
            self.metrics.refused_events += resends.refused - before
            if not resends:
                del self._resends[name]

    def _resend(self, ids: list[int]) -> None:
        self._writer.submit(Do(lambda store: store.resend(ids)))

    # --- inside: what waits for a receiver ---

    def _work_on_look(self, now_s: float) -> float:
        if self._look is None and now_s >= self._look_at_s:
            self._look = self._look_through(now_s)
        if self._look is not None:
            if next(self._look, self) is self:
                self._look = None
            return 0.0
        return min(1.0, max(0.0, self._look_at_s - now_s))

    def _look_through(self, started_s: float) -> Iterator[None]:
        """Count what is not confirmed, and forget runs of which nothing is left."""
        reader = self._require_reader()
        lowest: dict[int, int] = {}
        unconfirmed = 0
        spent_s = 0.0
        for start, end in self._stretches(reader):
            before_s = time.monotonic()
            for stream, low, waiting in zip(*reader.arrays(_UNCONFIRMED, start, end), strict=True):
                lowest[stream] = min(low, lowest.get(stream, low))
                unconfirmed += waiting
            spent_s += time.monotonic() - before_s
            yield
        self._writer.submit(Do(lambda store: store.confirmed.forget(lowest)))
        self.metrics.unconfirmed = unconfirmed
        self._look_at_s = time.monotonic() + max(self._look_every_s, _REST * spent_s)
        self._judge_silence(unconfirmed)

    def _judge_silence(self, unconfirmed: int) -> None:
        now_s = time.monotonic()
        if not unconfirmed:
            self._waiting_since_s, self.metrics.silent = None, False
            return
        if self._waiting_since_s is None:
            self._waiting_since_s = now_s
        silent_s = now_s - self._waiting_since_s
        if silent_s >= self._silent_after_s and not self.metrics.silent:
            self.metrics.silent = True
            message = (
                f"{unconfirmed} events wait for a receiver to confirm them, and none has for {silent_s:.0f}"
                f" s: does `gateway receive` run, and may it publish on {self._topics.confirm}?"
            )
            log.warning("%s", message)
            self._alert("confirm_silent", message)

    @staticmethod
    def _stretches(reader: Reader) -> Iterator[Stretch]:
        """Yield all ids of the buffer as of now, as (behind, up to)."""
        first, last = reader.id_range()
        for start in range(first - 1, last, _STRETCH_IDS):
            yield start, min(start + _STRETCH_IDS, last)
