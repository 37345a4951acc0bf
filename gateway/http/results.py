"""The last results of the windows, and the last alerts, as the buffer has them.

It follows the buffer with a cursor, only while a page is open, and skips ahead rather than fall behind. What
it keeps is bounded for each window, so that one with many keys takes nothing from the others.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from gateway.core.events import Kind
from gateway.http.late_reader import LateReader
from gateway.wire.standing import Standing, standing

FIRST_LOOK = 20_000
"""Results and alerts of before the first request that are read, AT_ONCE by each look."""
AT_ONCE = 2000
KEPT_KEYS = 1000
"""Keys of a window whose last result is kept."""
KEPT_POINTS = 240
"""Results that are kept of a key, and POINTS_OF_WINDOW of all keys of a window together."""
POINTS_OF_WINDOW = 2400
KEPT_ALERTS = 50


class _Point(NamedTuple):
    """A result, as it is stored: a dict of it takes four times as much memory."""

    standing: Standing | None
    text: bytes


class _Window:
    """The last results of one window by key; the key with the newest one stands last."""

    def __init__(self) -> None:
        self.left_out = 0
        """Number of times that a key made room for another."""
        self._keys: OrderedDict[str, deque[_Point]] = OrderedDict()

    def keep(self, key: str, result: _Point) -> None:
        """Put a result in the place of what it revises, and before those of newer windows: the last point is
        the current one."""
        points = self._keys.setdefault(key, deque())
        self._keys.move_to_end(key)
        if len(self._keys) > KEPT_KEYS:
            self._keys.popitem(last=False)
            self.left_out += 1
        for at, point in enumerate(points):
            if result.standing and point.standing and point.standing.start_ms == result.standing.start_ms:
                points[at] = result
                return
        _insert(points, result)
        room = max(1, min(KEPT_POINTS, POINTS_OF_WINDOW // len(self._keys)))
        while len(points) > room:
            points.popleft()

    def points(self) -> Iterator[tuple[str, Sequence[_Point]]]:
        yield from self._keys.items()

    def last(self) -> dict[str, bytes]:
        """The current result of each key, as JSON."""
        return {key: points[-1].text for key, points in self._keys.items()}

    def __contains__(self, key: str) -> bool:
        return key in self._keys


class Results:
    """Latest results of the windows: by window and key, oldest first."""

    def __init__(self, path: Path) -> None:
        self._reader = LateReader(path)
        self._cursor = 0
        self._windows: dict[str, _Window] = {}
        self._alerts: deque[dict[str, Any]] = deque(maxlen=KEPT_ALERTS)

    def refresh(self) -> Sequence[dict[str, Any]]:
        """Take in what is new, and return the new results. Raises ReadError when the file cannot be read."""
        reader = self._reader()
        self._cursor = max(self._cursor, reader.derived_before(FIRST_LOOK))
        events = reader.derived_after(self._cursor, AT_ONCE)
        if not events.ids:
            return []
        self._cursor = events.ids[-1]
        events, _ = reader.without_corrupt(events)
        fresh = []
        for buffer_id, kind, text in zip(events.ids, events.kinds, reader.payloads(events), strict=True):
            if kind == Kind.AGGREGATE:
                body = orjson.loads(text)
                window = self._windows.setdefault(body["window"], _Window())
                window.keep(body["key"], _Point(standing(body), text))
                fresh.append(body)
            elif kind == Kind.ALERT:
                self._alerts.append({"id": buffer_id, **orjson.loads(text)})
        return fresh

    def series(self, window: str | None = None) -> list[dict[str, Any]]:
        """`{window, key, points}` of each series; in a window the one with the newest result last."""
        return [
            {"window": name, "key": key, "points": [orjson.Fragment(point.text) for point in points]}
            for name, known in self._windows.items()
            if window is None or name == window
            for key, points in known.points()
        ]

    def last_of(self, window: str) -> dict[str, bytes]:
        """The current result of each key of a window, as JSON."""
        known = self._windows.get(window)
        return {} if known is None else known.last()

    def left_out_of(self, window: str) -> int:
        """Return the number of times that a key of a window made room for another."""
        known = self._windows.get(window)
        return 0 if known is None else known.left_out

    def series_of(self, key: str) -> list[str]:
        """The windows that gave a result for `key` lately."""
        return sorted(name for name, known in self._windows.items() if key in known)

    def streams(self, after: str, limit: int) -> list[dict[str, Any]]:
        """`{topic, last_sequence_num}` of the next streams behind `after`, by name."""
        return [
            {"topic": name, "last_sequence_num": last}
            for name, last in self._reader().streams_after(after, limit)
        ]

    def alerts(self) -> list[dict[str, Any]]:
        """Newest first."""
        return list(reversed(self._alerts))

    def close(self) -> None:
        self._reader.close()


def _insert(points: deque[_Point], result: _Point) -> None:
    """Put a result behind the last point that is not of a newer window."""
    stands, at = result.standing, len(points)
    while at and stands is not None:
        other = points[at - 1].standing
        if other is None or not stands.is_behind(other):
            break
        at -= 1
    points.insert(at, result)
