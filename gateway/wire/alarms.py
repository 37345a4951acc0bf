"""The state of an alarm, out of the alert that changes it: one retained topic per window and key."""

from __future__ import annotations

from typing import NamedTuple

import orjson

from gateway.core.own_topics import OwnTopics

_STATES = {"raised": "on", "cleared": "off"}
_NOT_THE_VALUE = frozenset(("alert", "limit", "since_ms", "repeated"))


class AlarmState(NamedTuple):
    """A retained message, and whether the alarm is on."""

    topic: str
    payload: bytes
    on: bool


def alarm_state(topics: OwnTopics, topic: str, payload: bytes, time_ms: int) -> AlarmState | None:
    """The state that an event brings; None where it changes none: a repeated alert, or anything else.

    `time_ms` is the event's time, for windows without bounds.
    """
    if topic != topics.alerts:
        return None
    alert = orjson.loads(payload)
    result = alert.get("result")
    if not isinstance(result, dict) or result.get("repeated"):
        return None
    state = _STATES.get(str(result.get("alert")))
    if state is None:
        return None
    since_ms = time_ms if alert["end_ms"] is None else alert["end_ms"]
    if state == "on":
        since_ms = result.get("since_ms", since_ms)
    told = {
        "state": state,
        "since_ms": since_ms,
        "value": next((value for name, value in result.items() if name not in _NOT_THE_VALUE), None),
        "limit": result.get("limit"),
    }
    return AlarmState(topics.alarm(alert["window"], alert["key"]), orjson.dumps(told), state == "on")
