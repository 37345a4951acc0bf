"""Sends the notifications that wait in the buffer, and tries again with pauses that grow.

They go out in their order, target by target. If many wait, as after an outage, they go together.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import orjson

from gateway.alarms.apprise_sender import AppriseSender
from gateway.alarms.notices import Notice, NotifyTarget, many_notices, one_notice
from gateway.buffer.notification_table import WaitingNotice
from gateway.buffer.store import Store
from gateway.buffer.writer import Writer
from gateway.core.errors import NotifyError, StoreError
from gateway.core.threads import RoleThread

log = logging.getLogger(__name__)

ALONE = 5
"""So many go one by one; of more, TOGETHER go in one message."""
TOGETHER = 40
KEEP_MS = 7 * 86_400_000
_LOOK_EVERY_S = 0.5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 300.0


class Sender(Protocol):
    """Sends a message. Raises NotifyError."""

    def send(self, notice: Notice) -> None: ...


class TargetState:
    """State of one target. Written by the notifier's thread, read by any."""

    def __init__(self, name: str, sender: Sender) -> None:
        self.name = name
        self.sender = sender
        self.problem = ""
        self.failures = 0  # in a row
        self.next_s = 0.0  # monotonic


class Notifier:
    """Runs `gateway.notify`. It uses the network, and never touches the database: it sends commands."""

    def __init__(
        self,
        targets: Sequence[NotifyTarget],
        gateway_id: str,
        writer: Writer,
        waiting: Callable[[], int],
        now_ms: Callable[[], int],
        make_sender: Callable[[str], Sender] = AppriseSender,
        first_pause_s: float = _FIRST_PAUSE_S,
    ) -> None:
        self.thread = RoleThread("notify", self._run)
        self.targets = [TargetState(each.name, make_sender(each.url)) for each in targets]
        self._gateway_id = gateway_id
        self._writer = writer
        self._waiting = waiting
        self._now_ms = now_ms
        self._first_pause_s = first_pause_s
        self._stopping = threading.Event()
        self._chance = random.Random()

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """Let a message that is on its way end, so that it is not sent twice."""
        self._stopping.set()
        self.thread.join(30.0)

    # --- the thread ---

    def _run(self) -> None:
        while not self._begin():
            if self._stopping.wait(_LOOK_EVERY_S):
                return
        while not self._stopping.wait(_LOOK_EVERY_S):
            if self._waiting() > 0:
                for target in self.targets:
                    self._serve(target)

    def _begin(self) -> bool:
        """Take up what earlier runs left; returns False when the disk does not let it."""
        names = [target.name for target in self.targets]

        def restart(store: Store) -> int:
            waiting, gone = store.notifications.restart(names, self._now_ms() - KEEP_MS)
            known = waiting_notifications(store)
            if gone or known != waiting:
                store.count("notification", "given_up", max(known - waiting, gone))
            return gone

        try:
            gone = self._writer.call(restart)
        except StoreError as exc:
            log.warning("notifications wait: %s", exc)
            return False
        if gone:
            log.warning("%d notifications are given up: old, or for targets that are not configured", gone)
        return True

    def _serve(self, target: TargetState) -> None:
        while not self._stopping.is_set() and time.monotonic() >= target.next_s:
            try:
                waiting = self._writer.call(lambda store: store.notifications.take(target.name, TOGETHER))
                if not waiting:
                    return
                for notice, ids in self._messages(waiting):
                    left = [one for one in waiting if one.id >= ids[0]]
                    if not self._send(target, notice, ids, left):
                        break
            except StoreError as exc:  # the disk takes nothing right now
                log.warning("notifications wait: %s", exc)
                return

    def _messages(self, waiting: Sequence[WaitingNotice]) -> list[tuple[Notice, list[int]]]:
        said = [(orjson.loads(one.payload), one.uncertain) for one in waiting]
        if len(waiting) > ALONE:
            return [(many_notices(self._gateway_id, said), [one.id for one in waiting])]
        alone = (one_notice(self._gateway_id, *each) for each in said)
        return [(notice, [one.id]) for notice, one in zip(alone, waiting, strict=True)]

    def _send(
        self, target: TargetState, notice: Notice, ids: list[int], left: Sequence[WaitingNotice]
    ) -> bool:
        try:
            if self._stopping.is_set():
                raise NotifyError("the gateway is stopping")
            target.sender.send(notice)
        except NotifyError as exc:
            self._note_failure(target, str(exc))
            self._writer.call(lambda store: _put_back(store, left))
            return False
        self._writer.call(lambda store: _sent(store, ids))
        if target.problem:
            log.info("notifications to %s go out again", target.name)
        target.problem, target.failures = "", 0
        return True

    def _note_failure(self, target: TargetState, reason: str) -> None:
        if self._stopping.is_set():
            return
        target.failures += 1
        longest_s = min(self._first_pause_s * 2 ** min(target.failures, 16), _LONGEST_PAUSE_S)
        target.next_s = time.monotonic() + self._chance.uniform(longest_s / 2, longest_s)
        if target.problem != reason:  # not for every attempt
            log.warning("notifications to %s wait: %s", target.name, reason)
        target.problem = reason


def waiting_notifications(store: Store) -> int:
    """Return the number of notifications that wait, by the counters of the last commit."""
    counts = store.counts
    settled = counts["notification", "sent"] + counts["notification", "given_up"]
    return counts["notification", "queued"] - settled


def _sent(store: Store, ids: Sequence[int]) -> None:
    store.notifications.sent(ids)
    store.count("notification", "sent", len(ids))


def _put_back(store: Store, notices: Sequence[WaitingNotice]) -> None:
    store.notifications.put_back(notices)
    store.count("notification_failures")
