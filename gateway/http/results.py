"""The last results of the windows, and the last alerts, as the buffer has them.

It follows the buffer with a cursor, only while a page is open, and skips ahead rather than fall behind.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from gateway.buffer.reader import Reader
from gateway.core.events import Kind
from gateway.wire.standing import standing

FIRST_LOOK = 2000
"""Number of results and alerts to read on the first request, and at once at most."""
KEPT_POINTS = 240
KEPT_SERIES = 400
KEPT_ALERTS = 50

Series = tuple[str, str]  # window, key


class Results:
    """Latest results of the windows: by window and key, oldest first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: Reader | None = None
        self._cursor = 0
        self._series: OrderedDict[Series, deque[dict[str, Any]]] = OrderedDict()
        self._alerts: deque[dict[str, Any]] = deque(maxlen=KEPT_ALERTS)

    def refresh(self) -> Sequence[dict[str, Any]]:
        """Take in what is new, and return the new results. Raises ReadError when the file cannot be read."""
        reader = self._opened()
        self._cursor = max(self._cursor, reader.derived_before(FIRST_LOOK))
        events = reader.derived_after(self._cursor, FIRST_LOOK)
        if not events.ids:
            return []
        self._cursor = events.ids[-1]
        events, _ = reader.without_corrupt(events)
        fresh = []
        payloads = map(orjson.loads, reader.payloads(events))
        for buffer_id, kind, body in zip(events.ids, events.kinds, payloads, strict=True):
            if kind == Kind.AGGREGATE:
                self._keep(body)
                fresh.append(body)
            elif kind == Kind.ALERT:
                self._alerts.append({"id": buffer_id, **body})
        return fresh

    def series(self, window: str | None = None) -> list[dict[str, Any]]:
        """`{window, key, points}` of each series, the one with the newest result last."""
        return [
            {"window": name, "key": key, "points": list(points)}
            for (name, key), points in self._series.items()
            if window is None or name == window
        ]

    def series_of(self, key: str) -> list[str]:
        """The windows that gave a result for `key` lately."""
        return sorted(window for window, known in self._series if known == key)

    def streams(self, after: str, limit: int) -> list[dict[str, Any]]:
        """`{topic, last_sequence_num}` of the next streams behind `after`, by name."""
        return [
            {"topic": name, "last_sequence_num": last}
            for name, last in self._opened().streams_after(after, limit)
        ]

    def alerts(self) -> list[dict[str, Any]]:
        """Newest first."""
        return list(reversed(self._alerts))

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _opened(self) -> Reader:
        if self._reader is None:
            self._reader = Reader(self._path)
        return self._reader

    def _keep(self, result: dict[str, Any]) -> None:
        """A result takes the place of what it revises, and stands before those of newer windows: the last
        point is the current one."""
        name = result["window"], result["key"]
        points = self._series.setdefault(name, deque(maxlen=KEPT_POINTS))
        self._series.move_to_end(name)
        if len(self._series) > KEPT_SERIES:
            self._series.popitem(last=False)
        for at, point in enumerate(points):
            if point["start_ms"] is not None and point["start_ms"] == result["start_ms"]:
                points[at] = result
                return
        _insert(points, result)


def _insert(points: deque[dict[str, Any]], result: dict[str, Any]) -> None:
    """Put a result behind the last point that is not of a newer window. Full, the oldest point goes."""
    stands, at = standing(result), len(points)
    while at and stands is not None:
        other = standing(points[at - 1])
        if other is None or not stands.is_behind(other):
            break
        at -= 1
    if len(points) == points.maxlen:
        if not at:
            return
        points.popleft()
        at -= 1
    points.insert(at, result)
