"""Requests about alarms, by HTTP, control socket and command line: list, acknowledge, clear.

A request is plain JSON: `{"window": …, "key": …}` names an alarm, `{"window": …}` those of a window,
`{"all": true}` all; `by` names a person, `note` is free text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

from gateway.alarms.register import AlarmChoice, AlarmRegister, Person, as_json
from gateway.alarms.states import CLEARED, ON, STATES, AlarmEvent
from gateway.buffer.alarm_table import AlarmRow
from gateway.buffer.store import Store
from gateway.core.errors import AlarmError

T = TypeVar("T")
SHOWS = ("on", "all", *STATES)
ACTIONS = {"acknowledge": AlarmEvent.ACKNOWLEDGED, "clear": AlarmEvent.CLEARED}

_ORDER = {state: place for place, state in enumerate(STATES)}
_TEXTS = ("window", "key", "by", "note")


class RunInTransaction(Protocol):
    """Runs a function of the store in a transaction of its own."""

    def __call__(self, change: Callable[[Store], T], /) -> T: ...


def counts(rows: Iterable[AlarmRow]) -> dict[str, int]:
    """Return the number of alarms in each state."""
    found = Counter(row.state for row in rows)
    return {state: found[state] for state in STATES}


def listed(rows: Iterable[AlarmRow], show: str = "on") -> list[AlarmRow]:
    """Return alarms as people read them: active before acknowledged before cleared, the newest first.

    `show` is one of SHOWS; `on` leaves out what is cleared.
    """
    states = {"on": ON, "all": frozenset(STATES)}.get(show, frozenset((show,)))
    chosen = [row for row in rows if row.state in states]
    return sorted(chosen, key=lambda row: (_ORDER[row.state], row.priority, -_time_ms(row)))


def _time_ms(row: AlarmRow) -> int:
    return row.changed_ms if row.state == CLEARED else row.since_ms


def read_choice(request: Mapping[str, Any]) -> AlarmChoice:
    """Read which alarms are meant. Raises AlarmError."""
    wrong = [name for name in _TEXTS if not isinstance(request.get(name, ""), str)]
    if wrong:
        raise AlarmError(f"{wrong[0]} must be text")
    choice = AlarmChoice(request.get("window"), request.get("key"))
    if choice.window is None and request.get("all") is not True:
        raise AlarmError('say which: {"window": …, "key": …}, {"window": …} or {"all": true}')
    return choice


def change_alarms(
    register: AlarmRegister, action: str, request: Mapping[str, Any], via: str, store: Store
) -> dict[str, Any]:
    """Acknowledge or clear what `request` names, inside a transaction. Raises AlarmError."""
    choice = read_choice(request)
    who = Person(request.get("by") or via, via, request.get("note", ""))
    changed = register.change(store, ACTIONS[action], choice, who)
    return {"changed": len(changed), "alarms": [as_json(row) for row in changed]}


Operation = Callable[[Mapping[str, Any], Callable[[int, int], None]], Mapping[str, Any]]


def alarm_operations(register: AlarmRegister, run: RunInTransaction) -> dict[str, Operation]:
    """Return the requests of the command line by name."""

    def changing(action: str) -> Operation:
        return lambda request, _report: run(partial(change_alarms, register, action, request, "cli"))

    def listing(request: Mapping[str, Any], _report: object) -> dict[str, Any]:
        rows = run(lambda store: store.alarms.current())
        shown = listed(rows, request.get("show", "on"))
        return {"counts": counts(rows), "alarms": [as_json(row) for row in shown]}

    return {
        "alarms": listing,
        "acknowledge_alarms": changing("acknowledge"),
        "clear_alarms": changing("clear"),
    }
