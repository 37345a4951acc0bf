"""Alarms as others see them: what an alert says of one, and its retained state, by window and key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import orjson

from gateway.core.own_topics import OwnTopics

_NOT_THE_VALUE = frozenset(("alert", "limit", "since_ms", "repeated"))


class AlarmState(NamedTuple):
    """A retained message, and whether the alarm is on."""

    topic: str
    payload: bytes
    on: bool


class AlarmSign(NamedTuple):
    """The news of an alarm in a window's alert. `at_ms` is the time that it speaks of; `value_name` is
    the name of the value in the result, or empty."""

    window: str
    key: str
    what: Literal["raised", "repeated", "cleared"]
    at_ms: int
    since_ms: int
    value: Any
    limit: Any
    value_name: str


def read_sign(alert: Mapping[str, Any], time_ms: int) -> AlarmSign | None:
    """Read an alert; None where it is not about the state of an alarm. `time_ms` is the event's time, for
    windows without bounds."""
    result = alert.get("result")
    if not isinstance(result, Mapping) or (what := result.get("alert")) not in ("raised", "cleared"):
        return None
    at_ms = time_ms if alert["end_ms"] is None else alert["end_ms"]
    name = next((name for name in result if name not in _NOT_THE_VALUE), "")
    return AlarmSign(
        alert["window"],
        alert["key"],
        "repeated" if result.get("repeated") else what,
        at_ms,
        result.get("since_ms", at_ms) if what == "raised" else at_ms,
        result.get(name),
        result.get("limit"),
        name,
    )


def told(is_on: bool, since_ms: int, value: Any, limit: Any, **more: Any) -> dict[str, Any]:
    """Return an alarm's state as it is retained."""
    return {"state": "on" if is_on else "off", "since_ms": since_ms, "value": value, "limit": limit, **more}


def alarm_state(topics: OwnTopics, topic: str, payload: bytes, time_ms: int) -> AlarmState | None:
    """The state that an event brings; None where it changes none: a repeated alert, or anything else."""
    if topic != topics.alerts:
        return None
    alert = orjson.loads(payload)
    if "alarm" in alert:  # of what somebody did to an alarm; it says the state itself
        is_on, state = alert["alarm"]["state"] == "on", alert["alarm"]
    elif (sign := read_sign(alert, time_ms)) is not None and sign.what != "repeated":
        is_on = sign.what == "raised"
        state = told(is_on, sign.since_ms, sign.value, sign.limit)
    else:
        return None
    return AlarmState(topics.alarm(alert["window"], alert["key"]), orjson.dumps(state), is_on)
