"""Messages that wait until the gateway knows what time it is, and then are taken in with theirs.

While one waits, all that come later join the end, so they stay in order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import groupby

from gateway.buffer.pending_time import PendingMessage
from gateway.buffer.store import Store
from gateway.buffer.writer import is_storage_fault
from gateway.core.clock import Clock
from gateway.core.events import Message
from gateway.pipeline.intake import Intake
from gateway.timekeeping.hold import Hold

log = logging.getLogger(__name__)

DATED_PER_TURN = 4_096  # some 100 ms of the writer's thread, four times a second


class PendingTimeQueue:
    """Queue for messages that wait until the time is known. In front of the intake, inside the writer's
    transaction. `most_bytes` is its limit."""

    def __init__(
        self, intake: Intake, hold: Hold, clock: Clock, is_certain: Callable[[], bool], most_bytes: int
    ) -> None:
        self._intake = intake
        self._hold = hold
        self._clock = clock
        self._is_certain = is_certain  # whether the gateway knows what time it is
        self._most_bytes = most_bytes
        self._began_ms = 0  # nothing has arrived before; known once messages had to wait
        self._started_ms = hold.uptime_ms()
        self._failures = 0

    def take_in(self, store: Store, messages: Sequence[Message]) -> None:
        """Take in what was read; while the time is not known it is set aside instead."""
        if store.undated.count or self._has_to_wait(store):
            self._set_aside(store, messages)
        else:
            self._intake.take_in(store, self._restamped(messages), certain=self._is_certain())

    def blocks_time(self, store: Store) -> bool:
        """Return True if messages wait, or would: then no device is silent, and the time is unknown."""
        return store.undated.count > 0 or self._hold.waits()

    def release(self, store: Store) -> None:
        """Take in the oldest messages that wait, if it is time. Only in a tick: no message that has just come
        is to blame when one of them cannot be taken in."""
        if not store.undated.count or self._has_to_wait(store):
            return
        most = DATED_PER_TURN >> self._failures
        waiting = store.undated.take(max(1, most))
        if not most:
            log.error("a message on %r cannot be taken in and is rejected", waiting[0].topic)
            store.count("outcome", "rejected")
            store.count("rejected", "poison")
            store.dropped.note("poison", waiting[0].topic, self._clock.now_ms())
            self._failures -= 1
            return
        try:
            self._take_in_dated(store, waiting)
        except Exception as exc:
            # Fewer next time, down to the one at fault; but the disk is no fault of a message.
            self._failures += not is_storage_fault(exc)
            raise
        self._failures = max(0, self._failures - 1)

    def _has_to_wait(self, store: Store) -> bool:
        return self._hold.waits() and store.undated.size_bytes < self._most_bytes

    def _set_aside(self, store: Store, messages: Sequence[Message]) -> None:
        """Keep messages, with the uptime at which each came."""
        now_ms, uptime_ms = self._clock.now_ms(), self._hold.uptime_ms()
        kept = []
        for one in self._restamped(messages):
            if one.qos and store.receipts.seen(one.packet_id, one.dup, one.topic, one.payload, one.qos):
                store.count("outcome", "duplicate")
                continue
            age_ms = now_ms - one.arrival_ms
            # Another age means that the time became known between the two.
            came_ms = uptime_ms - age_ms if 0 <= age_ms <= uptime_ms - self._started_ms else uptime_ms
            kept.append(PendingMessage(one.topic, one.payload, one.retain, self._hold.boot, came_ms))
        store.undated.add(kept)

    def _take_in_dated(self, store: Store, waiting: Sequence[PendingMessage]) -> None:
        now_ms, uptime_ms = self._clock.now_ms(), self._hold.uptime_ms()
        self._began_ms = now_ms - (uptime_ms - self._started_ms)
        for same_boot, group in groupby(waiting, lambda one: one.boot == self._hold.boot):
            dated = [
                Message(
                    *(one.topic, one.payload, 0, one.retain, False, 0, 0),  # its receipt is noted already
                    now_ms - (uptime_ms - one.uptime_ms) if same_boot else now_ms,
                )
                for one in group
            ]
            self._intake.take_in(store, dated, certain=same_boot and self._is_certain())

    def _restamped(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return messages with the current time where they waited in a queue while the time became known."""
        if not messages or messages[0].arrival_ms >= self._began_ms:
            return messages
        now_ms = self._clock.now_ms()
        return [m if m.arrival_ms >= self._began_ms else m._replace(arrival_ms=now_ms) for m in messages]
