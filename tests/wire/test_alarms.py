"""The states of alarms: which alerts bring one, where, and since when."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.own_topics import OwnTopics
from gateway.wire.alarms import AlarmState, alarm_state

TOPICS = OwnTopics("gateway", "g1")


def state_of(result: object, key: str = "hall", end_ms: int | None = 9000) -> AlarmState | None:
    alert = {"window": "too_hot", "key": key, "end_ms": end_ms, "result": result}
    return alarm_state(TOPICS, TOPICS.alerts, json.dumps(alert).encode(), 7000)


def told(result: dict[str, Any], end_ms: int | None = 9000) -> dict[str, Any]:
    found = state_of(result, end_ms=end_ms)
    assert found is not None
    state: dict[str, Any] = json.loads(found.payload)
    return state


def test_an_alarm_is_on_since_the_limit_was_crossed_and_off_since_it_was_cleared() -> None:
    values = {"mean": 31.5, "limit": 30.0, "since_ms": 4000}
    shown = {"value": 31.5, "limit": 30.0}
    assert told({"alert": "raised"} | values) == {"state": "on", "since_ms": 4000} | shown
    assert told({"alert": "cleared"} | values) == {"state": "off", "since_ms": 9000} | shown


def test_in_a_window_without_bounds_the_events_time_counts() -> None:
    assert told({"alert": "raised", "last": 1.0, "limit": 0.0}, end_ms=None)["since_ms"] == 7000


@pytest.mark.parametrize(
    "result",
    [{"alert": "raised", "mean": 31.5, "repeated": True}, {"alert": "hello"}, {"alert": ["raised"]}, 5],
)
def test_what_changes_no_alarm_gives_no_state(result: object) -> None:
    assert state_of(result) is None


def test_an_alert_of_the_gateway_itself_and_other_events_give_no_state() -> None:
    assert alarm_state(TOPICS, TOPICS.alerts, b'{"alert": "disk_low", "time_ms": 5}', 5) is None
    assert alarm_state(TOPICS, TOPICS.aggregate("too_hot", "hall"), b"{}", 5) is None


def test_keys_that_differ_never_share_a_topic() -> None:
    keys = ["HM #1", "HM +1", "HM _1", "", "all/1", "a" * 2000, "a" * 2001]
    states = [state_of({"alert": "raised", "mean": 1}, key) for key in keys]
    assert len({state.topic for state in states if state is not None}) == len(keys)
