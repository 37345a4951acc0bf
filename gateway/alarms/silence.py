"""Silent devices as alarms: raised once a device has been silent for too long, over when it is heard.

Silence is only judged while the gateway hears: after it was cut off, stopped or held up, every device gets
its time anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from gateway.alarms.states import ON, SILENT
from gateway.buffer.alerts import DERIVED_FAMILY
from gateway.buffer.store import NewEvent, Store
from gateway.core.events import Kind, Priority
from gateway.core.own_topics import OwnTopics
from gateway.decode.presence import Presence, Silence

FORGET_AFTER_MS = 90 * 86_400_000
_SAVE_EVERY_MS = 60_000
_MOST_AT_ONCE = 1_000  # alerts of one tick


class SilenceWatch:
    """Keeps the devices that are known in the buffer, and gives the alerts of their silence. On the writer's
    thread, inside the transaction of a tick."""

    def __init__(self, topics: OwnTopics, presence: Presence, alarms: bool) -> None:
        self._topic = topics.alerts
        self._presence = presence
        self._alarms = alarms
        self._saved_ms = 0

    def restore(self, store: Store, now_ms: int) -> None:
        """Take up the devices of earlier runs."""
        since_ms = now_ms - FORGET_AFTER_MS
        self._presence.restore(row for row in store.devices.all() if row[2] >= since_ms)

    def save(self, store: Store, now_ms: int) -> None:
        """Save new devices at once, and the others now and then: how long a device has been silent need not
        be exact."""
        everything = not 0 <= now_ms - self._saved_ms < _SAVE_EVERY_MS
        if everything:
            self._saved_ms = now_ms
            store.devices.forget(now_ms - FORGET_AFTER_MS)
        if everything or self._presence.news:
            store.devices.save(self._presence.take_unsaved(everything=everything))

    def look(self, store: Store, now_ms: int) -> list[NewEvent]:
        """Return the alerts of devices that fell silent, or are heard again."""
        if not self._alarms or not self._presence.is_judged(now_ms):
            return []
        silent = {one.device: one for one in self._presence.silent(now_ms)}
        alarms = {row.key: row for row in store.alarms.current() if row.window == SILENT}
        ended = (
            self._heard(key, row.since_ms, now_ms)
            for key, row in alarms.items()
            if row.state in ON and (self._presence.last_ms(key) or 0) > row.since_ms and key not in silent
        )
        # The same silence is not raised again, even if somebody has cleared it.
        raised = (
            self._fell_silent(one, now_ms)
            for key, one in silent.items()
            if key not in alarms or (alarms[key].state not in ON and alarms[key].since_ms != one.since_ms)
        )
        return [*_first(ended), *_first(raised)]

    def _fell_silent(self, one: Silence, now_ms: int) -> NewEvent:
        self._presence.note_unsaved(one.device)  # `since_ms` has to be the same after a restart
        times = {"limit": one.patience_ms / 1000, "since_ms": one.since_ms}
        return self._event(one.device, now_ms, "raised", now_ms - one.since_ms, times)

    def _heard(self, device: str, since_ms: int, now_ms: int) -> NewEvent:
        return self._event(device, now_ms, "cleared", now_ms - since_ms, {})

    def _event(self, device: str, now_ms: int, alert: str, silent_ms: int, more: dict[str, Any]) -> NewEvent:
        body = {
            "window": SILENT,
            "key": device,
            "start_ms": None,
            "end_ms": None,
            "kind": "on_time",
            "revision": 0,
            "count": 0,
            "result": {"alert": alert, "silent_s": round(silent_ms / 1000, 1), **more},
        }
        payload = orjson.dumps(body)
        return NewEvent(
            self._topic, DERIVED_FAMILY, now_ms, now_ms, None, Priority.CRITICAL, Kind.ALERT, 0, payload
        )


def _first(events: Iterator[NewEvent]) -> Iterator[NewEvent]:
    for _, event in zip(range(_MOST_AT_ONCE), events, strict=False):
        yield event
