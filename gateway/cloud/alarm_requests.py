"""Requests that alarms make by themselves: at once for what was before, later for what came after.

They are in a file until they are served, because a restart may come in between. One that is served twice
sends nothing twice: what went is not kept any more.
"""

from __future__ import annotations

import logging
import threading
from bisect import insort
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson

from gateway.core.errors import plain_reason
from gateway.delivery.alarm_backfill import AlarmBackfill
from gateway.host.files import write_whole
from gateway.wire.backfill import BackfillRequest

log = logging.getLogger(__name__)

MEMORY_FILE = "alarm_requests.json"
"""Name of the file in the data directory."""
_MOST = 1000  # requests; so many alarms at a time have one cause, and not each its own

_Timed = tuple[int, BackfillRequest]
"""Time from which a request is due, and the request."""


class AlarmRequests:
    """`windows` says what an alarm of each fetches. `raised` is for the thread that publishes alarms, the
    others for the one that serves requests."""

    def __init__(
        self,
        windows: Mapping[str, AlarmBackfill],
        now_ms: Callable[[], int] = lambda: 0,
        path: Path | None = None,
    ) -> None:
        self._windows = windows
        self._now_ms = now_ms
        self._path = path
        self._lock = threading.Lock()
        self._waiting: list[_Timed] = _read(path) if windows and path is not None else []
        self._served: list[_Timed] = []  # on their way
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
        with self._lock:
            if len(self._waiting) + len(self._served) >= _MOST:
                self.too_many += 2
                log.warning("%s: %d requests wait already; its raw events are not sent up", label, _MOST)
                return
            insort(self._waiting, (self._now_ms(), before))
            insort(self._waiting, (arrived_ms, BackfillRequest(stream, since_ms, until_ms, label)))
            self._save()

    def due(self, now_ms: int, at_most: int) -> list[BackfillRequest]:
        """Return requests whose time has come; the others wait, also those that are more than `at_most`."""
        if not self._waiting or self._waiting[0][0] > now_ms:
            return []
        with self._lock:
            found = [each for each in self._waiting[:at_most] if each[0] <= now_ms]
            del self._waiting[: len(found)]
            self._served += found
        return [request for _, request in found]

    def finished(self, request: BackfillRequest) -> None:
        """A request has been served; it may be anybody's."""
        with self._lock:
            left = [each for each in self._served if each[1] != request]
            if len(left) < len(self._served):
                self._served = left
                self._save()

    def _save(self) -> None:
        if self._path is None:
            return
        try:
            kept = [(due_ms, [*request]) for due_ms, request in (*self._served, *self._waiting)]
            write_whole(self._path, orjson.dumps(kept))
        except OSError as exc:
            log.warning(
                "%s: a restart would forget what alarms still ask for: %s", self._path, plain_reason(exc)
            )


def _read(path: Path) -> list[_Timed]:
    try:
        found = orjson.loads(path.read_bytes())
        return sorted((int(due_ms), BackfillRequest(*request)) for due_ms, request in found)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as exc:
        log.warning("%s cannot be read, what alarms still asked for is forgotten: %s", path, exc)
        return []
