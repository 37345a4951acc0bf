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

_MOST = 1000  # alarms at a time; more of them have another cause than each its own


class AlarmRequests:
    """`windows` says what an alarm of each fetches. `raised` is for the thread that publishes alarms, `due`
    for the one that serves requests."""

    def __init__(self, windows: Mapping[str, AlarmBackfill], now_ms: Callable[[], int] = lambda: 0) -> None:
        self._windows = windows
        self._now_ms = now_ms
        self._raised: deque[tuple[int, BackfillRequest]] = deque(maxlen=_MOST)
        self._later: list[tuple[int, BackfillRequest]] = []

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
        self._raised.append((0, before))
        self._raised.append((arrived_ms, BackfillRequest(stream, since_ms, until_ms, label)))

    def due(self, now_ms: int) -> list[BackfillRequest]:
        """Return the requests whose time has come."""
        while self._raised:
            heapq.heappush(self._later, self._raised.popleft())
        found = []
        while self._later and self._later[0][0] <= now_ms:
            found.append(heapq.heappop(self._later)[1])
        return found
