"""Log lines that others want: the last ones for a support bundle, and those that are published.

A handler must not block or log. What is above the rate is counted, and said with the next line.
"""

from __future__ import annotations

import logging
import time
from collections import deque

from gateway.host.logs import JsonFormatter

KEPT_LINES = 2000
_PER_MINUTE = 20
_MOST_WAITING = 100


class LogLines(logging.Handler):
    """Keeps the newest lines, and the lines of at least `level` that wait to be published."""

    def __init__(self, level: str | None = None) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.kept: deque[str] = deque(maxlen=KEPT_LINES)
        self.dropped = 0
        """Lines that were not published because there were too many."""
        self._least = None if level is None else getattr(logging, level.upper())
        self._waiting: deque[str] = deque()
        self._allowance, self._allowance_at_s = float(_PER_MINUTE), time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line; the logging module calls this with the handler's lock held."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - as other handlers do: a wrong log call must not end its thread
            self.handleError(record)
            return
        self.kept.append(line)
        if self._least is None or record.levelno < self._least:
            return
        now_s = time.monotonic()
        earned = (now_s - self._allowance_at_s) * _PER_MINUTE / 60
        self._allowance, self._allowance_at_s = min(_PER_MINUTE, self._allowance + earned), now_s
        if self._allowance < 1 or len(self._waiting) >= _MOST_WAITING:
            self.dropped += 1
            return
        self._allowance -= 1
        self._waiting.append(line)

    def newest(self, most_bytes: int) -> list[str]:
        """Return the last lines that were logged, the oldest first."""
        found: list[str] = []
        for line in reversed([*self.kept]):
            most_bytes -= len(line.encode()) + 8
            if most_bytes < 0:
                break
            found.append(line)
        return found[::-1]

    def take(self) -> list[str]:
        """Return the lines that wait, once."""
        found = []
        while self._waiting:
            found.append(self._waiting.popleft())
        return found
