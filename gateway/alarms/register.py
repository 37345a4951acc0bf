"""The alarms and what happens to them, inside the writer's transaction.

An alarm changes together with the alert that says so: both are committed, or neither. What people do to it
is an alert too, with their name, so that brokers and cloud hear of it in order, and it stays on record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from gateway.alarms.states import ACTIVE, CLEARED, ON, AlarmEvent, follow
from gateway.buffer.alarm_table import MAX_ENDED, AlarmRow
from gateway.buffer.alerts import append_alert
from gateway.buffer.store import NewEvent, Store
from gateway.core.errors import AlarmError
from gateway.core.events import Priority
from gateway.core.own_topics import OwnTopics
from gateway.wire.alarms import read_sign, told

log = logging.getLogger(__name__)

MAX_TEXT_CHARS = 200
_BY_HAND = {AlarmEvent.ACKNOWLEDGED: "acknowledged", AlarmEvent.CLEARED: "cleared"}
_SIGNS = {
    "raised": AlarmEvent.RAISED,
    "repeated": AlarmEvent.REPEATED,
    "cleared": AlarmEvent.OVER,
}


class AlarmChoice(NamedTuple):
    """The alarms that somebody means: one, those of a window, or with neither all."""

    window: str | None = None
    key: str | None = None

    def has(self, row: AlarmRow) -> bool:
        return self.window in (None, row.window) and self.key in (None, row.key)

    def __str__(self) -> str:
        named = [part for part in (self.window, self.key) if part is not None]
        return " of ".join(named) if named else "any window"


class Person(NamedTuple):
    """A person that does something to an alarm: a name, the way (`http`, `cli`), and a note."""

    name: str
    via: str
    note: str = ""


class AlarmRegister:
    """Follows alerts and people. `priorities` are those of the windows, `windows` all that may have alarms
    (None: any); `on_change` gets each changed alarm, with what happened to it, inside the transaction."""

    def __init__(
        self,
        topics: OwnTopics,
        now_ms: Callable[[], int],
        priorities: Mapping[str, int],
        windows: frozenset[str] | None = None,
        on_change: Callable[[Store, AlarmRow, AlarmEvent], object] = lambda *_: None,
    ) -> None:
        self._alerts = topics.alerts
        self._now_ms = now_ms
        self._priorities = priorities
        self._windows = windows
        self._on_change = on_change

    # --- all inside a transaction ---

    def take(self, store: Store, event: NewEvent) -> None:
        """Follow an alert that was appended."""
        sign = read_sign(orjson.loads(event.payload), event.event_time_ms)
        if sign is None:
            return
        before = store.alarms.get((sign.window, sign.key))
        happened = _SIGNS[sign.what]
        if happened is AlarmEvent.REPEATED and before is None:
            happened = AlarmEvent.RAISED
        details: dict[str, Any] = {"value": sign.value, "value_name": sign.value_name, "limit": sign.limit}
        since_ms = sign.since_ms
        if before is not None and happened is AlarmEvent.OVER:
            since_ms = before.since_ms
            details = dict(before.details) | {"value": sign.value, "ended_ms": sign.at_ms}
            if before.state == CLEARED:
                return
        elif before is not None and happened is AlarmEvent.REPEATED and before.state in ON:
            details = dict(before.details) | {"value": sign.value}
        row = AlarmRow(
            sign.window,
            sign.key,
            follow(before.state if before else None, happened),
            self._priorities.get(sign.window, Priority.NORMAL),
            since_ms,
            self._now_ms(),
            details,
        )
        self._put(store, row, happened)
        if happened is AlarmEvent.REPEATED and before is not None and before.state == CLEARED:
            # The alert does not change the retained state by itself: this one does.
            self._tell(store, row, "raised_again", f"alarm {_title(row)} was cleared by hand, and lasts")

    def change(self, store: Store, happened: AlarmEvent, choice: AlarmChoice, who: Person) -> list[AlarmRow]:
        """Acknowledge or clear the chosen alarms that this can happen to. Raises AlarmError when none is."""
        wanted = (ACTIVE,) if happened is AlarmEvent.ACKNOWLEDGED else ON
        chosen = [row for row in store.alarms.current() if choice.has(row)]
        able = [row for row in chosen if row.state in wanted]
        if not able:
            raise _unable(happened, choice, chosen)
        return [self._change_one(store, row, happened, who) for row in able]

    def forget_windows(self, store: Store) -> None:
        """Forget the alarms of windows that are not configured any more: nothing could end them."""
        if self._windows is None:
            return
        gone = [row for row in store.alarms.current() if row.window not in self._windows]
        for row in gone:
            store.alarms.remove(row.name)
        if gone:
            log.info("forgot %d alarms of windows that are not configured any more", len(gone))

    # --- inside ---

    def _change_one(self, store: Store, row: AlarmRow, happened: AlarmEvent, who: Person) -> AlarmRow:
        now_ms, did = self._now_ms(), _BY_HAND[happened]
        details = {**row.details, f"{did}_ms": now_ms, f"{did}_by": who.name[:MAX_TEXT_CHARS]}
        if who.note:
            details["note"] = who.note[:MAX_TEXT_CHARS]
        if happened is AlarmEvent.CLEARED:
            details["ended_ms"] = now_ms
        after = row._replace(state=follow(row.state, happened), changed_ms=now_ms, details=details)
        self._put(store, after, happened)
        message = f"alarm {_title(row)} was {did} by {details[f'{did}_by']} ({who.via})"
        self._tell(store, after, did, message, by=details[f"{did}_by"], via=who.via, note=details.get("note"))
        log.info("%s", message)
        return after

    def _put(self, store: Store, row: AlarmRow, happened: AlarmEvent) -> None:
        store.alarms.put(row)
        store.count("alarm", happened.value)
        if row.state == CLEARED:
            self._forget_oldest(store)
        self._on_change(store, row, happened)

    def _tell(self, store: Store, row: AlarmRow, name: str, message: str, **more: Any) -> None:
        told_ = {key: value for key, value in more.items() if value is not None}
        details = {"window": row.window, "key": row.key, **told_, "alarm": retained(row)}
        append_alert(store, self._alerts, self._now_ms(), name, message, details)

    def _forget_oldest(self, store: Store) -> None:
        rows = store.alarms.current()
        if len(rows) <= MAX_ENDED:
            return
        ended = sorted((row for row in rows if row.state == CLEARED), key=lambda row: row.changed_ms)
        for row in ended[: len(rows) - MAX_ENDED + MAX_ENDED // 10]:
            store.alarms.remove(row.name)


def retained(row: AlarmRow) -> dict[str, Any]:
    """Return the retained state of an alarm that somebody changed."""
    is_on, details = row.state in ON, row.details
    who = ("acknowledged_ms", "acknowledged_by") if is_on else ("cleared_by",)
    since_ms = row.since_ms if is_on else row.changed_ms
    more = {name: details[name] for name in who if name in details}
    return told(is_on, since_ms, details.get("value"), details.get("limit"), **more)


def as_json(row: AlarmRow) -> dict[str, Any]:
    """Return an alarm as the API and the command line give it."""
    return {
        "window": row.window,
        "key": row.key,
        "state": row.state,
        "priority": Priority(row.priority).name.lower(),
        "since_ms": row.since_ms,
        "changed_ms": row.changed_ms,
        **{name: row.details.get(name) for name in _SHOWN},
    }


_SHOWN = (
    *("value", "value_name", "limit", "ended_ms"),
    *("acknowledged_ms", "acknowledged_by", "cleared_ms", "cleared_by", "note"),
)


def _title(row: AlarmRow) -> str:
    return f"{row.window} of {row.key}" if row.key else row.window


def _unable(happened: AlarmEvent, choice: AlarmChoice, chosen: Sequence[AlarmRow]) -> AlarmError:
    if not chosen:
        hint = "`gateway alarms list --all` and /api/alarms?state=all show those that are known"
        return AlarmError(f"there is no alarm {choice}", hint=hint)
    states = ", ".join(sorted({row.state for row in chosen}))
    return AlarmError(f"no alarm {choice} can be {happened.value}: {states} already")
