"""Requests that alarms make by themselves: at once for what was before, later for what came after."""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable, Mapping

import orjson

from gateway.delivery.alarm_backfill import AlarmBackfill
from gateway.wire.backfill import BackfillRequest

log = logging.getLogger(__name__)

_MOST = 1000  # requests; so many alarms at a time have one cause, and not each its own


class AlarmRequests:
    """`windows` says what an alarm of each fetches. `raised` is for the thread that publishes alarms, `due`
    for the one that serves requests."""

    def __init__(self, windows: Mapping[str, AlarmBackfill], now_ms: Callable[[], int] = lambda: 0) -> None:
        self._windows = windows
        self._now_ms = now_ms
        self._raised: deque[tuple[int, BackfillRequest]] = deque()
        self._later: list[tuple[int, BackfillRequest]] = []
        self.too_many = 0
        """Requests that were given up, because _MOST waited already."""

    def raised(self, alert: bytes, state: bytes) -> None:
        """An alarm has changed: `alert` is the event, `state` what is published of it."""
        if not self._windows:
            return
        said, told = orjson.loads(alert), orjson.loads(state)
        wanted = self._windows.get(said["window"])
        if wanted is None or told["state"] != "on":
            return
        stream, since_ms = wanted.streams(said["key"]), told["since_ms"]
        label = f"alarm {said['window']}/{said['key']}"
        until_ms = since_ms + wanted.after_ms
        arrived_ms = self._now_ms() + wanted.after_ms  # a device may be behind with what it sends
        before = BackfillRequest(stream, since_ms - wanted.before_ms, since_ms, label)
        if len(self._raised) + len(self._later) >= _MOST:
            self.too_many += 2
            log.warning("%s: %d requests wait already; its raw events are not sent up", label, _MOST)
            return
        self._raised.append((0, before))
        self._raised.append((arrived_ms, BackfillRequest(stream, since_ms, until_ms, label)))

    def due(self, now_ms: int, at_most: int) -> list[BackfillRequest]:
        """Return requests whose time has come; the others wait, also those that are more than `at_most`."""
        while self._raised:
            heapq.heappush(self._later, self._raised.popleft())
        found: list[BackfillRequest] = []
        while self._later and self._later[0][0] <= now_ms and len(found) < at_most:
            found.append(heapq.heappop(self._later)[1])
        return found
