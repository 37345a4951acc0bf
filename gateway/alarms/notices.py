"""Texts of notifications about alarms, and which of them go where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from gateway.alarms.states import ACTIVE, AlarmEvent

if TYPE_CHECKING:  # `gateway check` reads the models, and must not wait for a database
    from gateway.buffer.alarm_table import AlarmRow
    from gateway.buffer.store import Store

_TOLD = frozenset((AlarmEvent.RAISED, AlarmEvent.REPEATED, AlarmEvent.OVER, AlarmEvent.CLEARED))
_WORDS = {"raised": "ALARM", "repeated": "STILL ON", "over": "over", "cleared": "cleared"}


class NotifyTarget(NamedTuple):
    """Somewhere to send alarms of this priority and more urgent ones. `url` is a secret."""

    name: str
    url: str
    priority: int


class NoticeQueue:
    """Queues a notification for each target that wants it, in the transaction of the alarm."""

    def __init__(self, targets: Sequence[NotifyTarget]) -> None:
        self._targets = targets

    def __call__(self, store: Store, row: AlarmRow, happened: AlarmEvent) -> None:
        if happened not in _TOLD or (happened is AlarmEvent.REPEATED and row.state != ACTIVE):
            return
        notice = {
            "what": happened.value,
            "window": row.window,
            "key": row.key,
            "since_ms": row.since_ms,
            "at_ms": row.changed_ms,
            **{name: row.details.get(name) for name in ("value", "value_name", "limit", "cleared_by")},
        }
        for target in self._targets:
            if row.priority <= target.priority:
                given_up = store.notifications.add(target.name, orjson.dumps(notice), row.changed_ms)
                store.count("notification", "queued")
                if given_up:
                    store.count("notification", "given_up", given_up)


class Notice(NamedTuple):
    """A message to a person. `is_good`: it only has good news."""

    title: str
    body: str
    is_good: bool


def one_notice(gateway_id: str, said: Mapping[str, Any], uncertain: bool) -> Notice:
    """Return the message about one change of an alarm."""
    title = f"{gateway_id}: {_WORDS[said['what']]} {_name(said)}"
    lines = [_measured(said), f"since {_moment(said['since_ms'])}"]
    if said["what"] == "over":
        lines = [f"{lines[1]}, over {_moment(said['at_ms'])}"]
    elif said["what"] == "cleared":
        lines = [f"{lines[1]}, cleared by {said['cleared_by']} {_moment(said['at_ms'])}"]
    if uncertain:
        lines.append(_AGAIN)
    return Notice(title, "\n".join(filter(None, lines)), _is_good(said))


def many_notices(gateway_id: str, said: Sequence[tuple[Mapping[str, Any], bool]]) -> Notice:
    """Return one message about many changes, each with whether it may have been sent before."""
    lines = [
        f"{_moment(one['at_ms'])} {_WORDS[one['what']]} {_name(one)} {_measured(one)}".rstrip()
        + (f" ({_AGAIN})" if uncertain else "")
        for one, uncertain in said
    ]
    is_good = all(_is_good(one) for one, _ in said)
    return Notice(f"{gateway_id}: {len(said)} changes of alarms", "\n".join(lines), is_good)


_AGAIN = "may have been sent before"


def _is_good(said: Mapping[str, Any]) -> bool:
    return said["what"] in ("over", "cleared")


def _name(said: Mapping[str, Any]) -> str:
    return f"{said['window']} {said['key']}".rstrip()


def _measured(said: Mapping[str, Any]) -> str:
    value, limit = said["value"], said["limit"]
    if not isinstance(value, int | float) or _is_good(said):
        return ""
    return f"{said['value_name']} {value:.4g}" + (f", limit {limit:g}" if limit is not None else "")


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
