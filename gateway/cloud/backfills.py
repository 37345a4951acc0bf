"""Sends up what `forward` has kept at the edge, when somebody asks: the session of `gateway.backfill`.

Invariants:
- Only KEPT events go, by becoming PENDING: state table, audit and retention know each of them.
- A portion goes once the bridge has less than that to do: live events never wait behind more than one.
- A request is acknowledged when it is taken. What a restart interrupts is not resumed: asked for again, the
  rest goes, because what went is no longer KEPT.
- It reads the buffer in stretches, on a connection of its own.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path

from gateway.buffer.event_filter import EventFilter
from gateway.buffer.reader import Reader
from gateway.buffer.store import Store
from gateway.buffer.writer import Command, Writer
from gateway.cloud.alarm_requests import AlarmRequests
from gateway.cloud.own_subscription import OwnSubscription
from gateway.core.errors import DecodeError
from gateway.core.events import Message, Status
from gateway.core.own_topics import OwnTopics
from gateway.mqtt.link import Link, Session
from gateway.wire.backfill import BackfillRequest, backfill_answer, read_backfill_request

log = logging.getLogger(__name__)

WAITING = 16  # requests; more are refused
MOST_EVENTS = 1_000_000  # of one request; asked for again, the rest goes
PORTION = 1000  # events
_STRETCH_IDS = 50_000
_BUSY_S = 0.05  # until the next look whether the bridge has less to do
_ANSWERS = 100


class BackfillMetrics:
    """Plain numbers, written by the link's thread, read by any."""

    def __init__(self) -> None:
        self.requests = 0
        self.rejected: Counter[str] = Counter()
        """Requests, by reason."""
        self.events = 0
        """Events that were kept, and went up at a request."""


class _ForwardPortion(Command):
    """Lets some KEPT events go."""

    urgent = True

    def __init__(self, ids: list[int], wake: Callable[[], None]) -> None:
        self._ids = ids
        self._wake = wake
        self.forwarded = 0
        self.done = False

    def apply(self, store: Store) -> None:
        self.forwarded = store.forward(self._ids)

    def committed(self) -> None:
        self.done = True
        self._wake()

    def failed(self, error: Exception) -> None:
        super().failed(error)
        self.forwarded = 0
        self.committed()


class Backfills(Session):
    """The session of `gateway.backfill`: one request at a time, at most `events_per_s`."""

    def __init__(
        self,
        topics: OwnTopics,
        path: Path,
        writer: Writer,
        now_ms: Callable[[], int],
        events_per_s: float,
        alarms: AlarmRequests | None = None,
    ) -> None:
        self.metrics = BackfillMetrics()
        self._topics = topics
        self._subscription = OwnSubscription(topics.backfill)
        self._path = path
        self._writer = writer
        self._now_ms = now_ms
        self._events_per_s = events_per_s
        self._portion = int(max(1, min(PORTION, events_per_s)))
        self.alarms = alarms or AlarmRequests({})
        self._requests: deque[BackfillRequest] = deque()  # at most WAITING
        self._serving: Iterator[float] | None = None
        self._resume_at_s = 0.0
        self._answers: deque[bytes] = deque(maxlen=_ANSWERS)
        self._unanswered: dict[int, bytes] = {}  # answers by packet id
        self._opened: Reader | None = None
        self._link: Link | None = None

    # --- on the link's thread ---

    def connected(self, link: Link, session_present: bool) -> None:
        self._link = link
        self._subscription.connected(link)

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        code = self._subscription.answered(codes)
        if code is not None:
            log.warning(
                "no requests on %s: %s refuses the subscription: 0x%02x; allow it, or set backfill: off",
                *(self._topics.backfill, link.endpoint.place, code),
            )

    def received(self, link: Link, messages: list[Message]) -> None:
        for message in messages:
            self._take(message)
            link.ack(message)

    def published(self, link: Link, packet_id: int, reason_code: int) -> None:
        self._unanswered.pop(packet_id, None)

    def disconnected(self, link: Link) -> None:
        """Answers that the broker has not acknowledged go again."""
        self._answers.extendleft(reversed(self._unanswered.values()))
        self._unanswered.clear()

    def work(self, link: Link) -> float:
        now_s = time.monotonic()
        self._subscription.work(link)
        for request in self.alarms.due(self._now_ms(), WAITING - len(self._requests)):
            self._queue(request)
        wait_s = self._serve(now_s)
        while self._answers and not link.congested:
            answer = self._answers.popleft()
            self._unanswered[link.publish(self._topics.backfill_answers, answer)] = answer
        return wait_s

    def finish(self) -> None:
        """Close what this session opened, after the link has stopped."""
        if self._opened is not None:
            self._opened.close()

    # --- inside ---

    def _take(self, message: Message) -> None:
        try:
            if message.retain:
                raise DecodeError("a retained request is an old one", reason="retained")
            self._queue(read_backfill_request(message.payload))
        except DecodeError as exc:
            self._refuse(None, exc.reason, str(exc))

    def _queue(self, request: BackfillRequest) -> None:
        if len(self._requests) >= WAITING:
            self._refuse(request, "too_many", f"{WAITING} requests wait already; ask again later")
            return
        self.metrics.requests += 1
        self._requests.append(request)

    def _refuse(self, request: BackfillRequest | None, reason: str, why: str) -> None:
        self.metrics.rejected[reason] += 1
        log.warning("a request on %s is refused: %s", self._topics.backfill, why)
        self._answers.append(backfill_answer(request, "refused", reason=why))

    def _serve(self, now_s: float) -> float:
        """Go on with the request that is served, or begin with the next; return how long to wait."""
        if self._serving is None and self._requests:
            self._serving, self._resume_at_s = self._steps(self._requests.popleft()), now_s
        if self._serving is None:
            return 1.0
        if now_s >= self._resume_at_s:
            wait_s = next(self._serving, None)
            if wait_s is None:
                self._serving = None
                return 0.0
            self._resume_at_s = now_s + wait_s
        return max(0.0, self._resume_at_s - now_s)

    def _steps(self, request: BackfillRequest) -> Iterator[float]:
        """Serve a request; yields after each step how long to wait for the next."""
        ids: list[int] = []
        first_ms = last_ms = None
        for found_ids, times_ms in self._found(request):
            if times_ms:
                first_ms = min(times_ms) if first_ms is None else min(first_ms, *times_ms)
                last_ms = max(times_ms) if last_ms is None else max(last_ms, *times_ms)
            ids += found_ids
            if len(ids) >= MOST_EVENTS:
                break
            yield 0.0
        span = {} if first_ms is None else {"first_ms": first_ms, "last_ms": last_ms}
        self._answers.append(backfill_answer(request, "started", events=len(ids), **span))
        log.info("%d kept events of %s are sent up, as was asked for", len(ids), request.stream)
        sent = 0
        for start in range(0, len(ids), self._portion):
            while self._writer.pending_events >= self._portion:
                yield _BUSY_S
            portion = _ForwardPortion(ids[start : start + self._portion], self._wake)
            self._writer.submit(portion)
            while not portion.done:
                yield _BUSY_S
            sent += portion.forwarded
            self.metrics.events += portion.forwarded
            yield self._portion / self._events_per_s
        self._answers.append(backfill_answer(request, "done", events=sent))
        self.alarms.finished(request)

    def _found(self, request: BackfillRequest) -> Iterator[tuple[list[int], list[int]]]:
        """Ids and event times of what is kept, a stretch of the buffer with each step."""
        if self._opened is None:
            self._opened = Reader(self._path)
        wanted = EventFilter(
            Status.KEPT, request.stream, happened_from_ms=request.from_ms, happened_before_ms=request.to_ms
        )
        where, values = wanted.where()
        first, last = self._opened.id_range()
        for start in range(first - 1, last, _STRETCH_IDS):
            ids, times_ms = self._opened.arrays(
                "SELECT json_group_array(id), json_group_array(event_time) FROM buffer_events"  # noqa: S608
                f" WHERE id > ? AND id <= ? AND {where}",
                *(start, min(start + _STRETCH_IDS, last), *values),
            )
            yield ids, times_ms

    def _wake(self) -> None:
        """Wake the link. Called on the writer's thread."""
        self._resume_at_s = 0.0
        if self._link is not None:
            self._link.wake()
