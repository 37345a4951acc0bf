"""Which streams and which time an alarm asks for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cloud.alarm_requests import AlarmRequests
from gateway.delivery.alarm_backfill import AlarmBackfill
from gateway.wire.backfill import BackfillRequest


@pytest.mark.parametrize(
    ("topic", "key", "value", "streams"),
    [
        ("tele/{device}/SENSOR", "{device}", "d1", "tele/d1/SENSOR"),
        ("{hall}/{device}/t", "{hall}/{device}", "h1/d1", "h1/d1/t"),
        ("{hall}/{device}/t", "{hall}", "h1", "h1/+/t"),
        ("{hall}/{device}/t", "all", "all", "+/+/t"),
        ("tele/{device}/SENSOR", "{device}:{channel}", "d1:3", "tele/d1/SENSOR"),
        ("tele/{device}/SENSOR", "{device}", "with/slash", "tele/+/SENSOR"),
        ("tele/+/{rest...}", "x", "x", "tele/+/#"),
    ],
)
def test_the_key_of_a_window_says_which_streams(topic: str, key: str, value: str, streams: str) -> None:
    assert AlarmBackfill(topic, key, 1, 1).streams(value) == streams


def test_an_alarm_asks_at_once_for_what_was_before_and_later_for_what_came_after() -> None:
    requests = AlarmRequests({"hot": AlarmBackfill("tele/{device}", "{device}", 10, 20)}, lambda: 104)
    alert = json.dumps({"window": "hot", "key": "d1"}).encode()
    requests.raised(alert, json.dumps({"state": "on", "since_ms": 100}).encode())
    requests.raised(alert, json.dumps({"state": "off", "since_ms": 110}).encode())
    requests.raised(json.dumps({"window": "other", "key": "d1"}).encode(), b'{"state":"on","since_ms":1}')
    assert requests.due(105, 16) == [BackfillRequest("tele/d1", 90, 100, "alarm hot/d1")]
    assert requests.due(123, 16) == []
    assert requests.due(124, 16) == [BackfillRequest("tele/d1", 100, 120, "alarm hot/d1")]
    assert requests.due(10_000, 16) == []


def test_what_alarms_ask_for_outlives_a_restart_until_it_is_served(tmp_path: Path) -> None:
    windows = {"hot": AlarmBackfill("tele/{device}", "{device}", 10, 20)}

    def restarted() -> AlarmRequests:
        return AlarmRequests(windows, lambda: 104, tmp_path / "requests.json")

    requests = restarted()
    requests.raised(b'{"window":"hot","key":"d1"}', b'{"state":"on","since_ms":100}')
    (before,) = requests.due(104, 16)
    requests = restarted()
    assert requests.due(104, 16) == [before]
    requests.finished(before)
    requests = restarted()
    assert requests.due(104, 16) == []
    assert len(requests.due(124, 16)) == 1
    (tmp_path / "requests.json").write_text("{")
    assert restarted().due(10**9, 16) == []


def test_alarms_wait_for_room_and_are_bounded() -> None:
    requests = AlarmRequests({"hot": AlarmBackfill("tele/{device}", "{device}", 10, 20)}, lambda: 104)
    for number in range(600):
        alert = json.dumps({"window": "hot", "key": f"d{number}"}).encode()
        requests.raised(alert, json.dumps({"state": "on", "since_ms": 100}).encode())
    assert len(requests.due(104, 16)) == 16
    assert len(requests.due(10_000, 2000)) == 1000 - 16
    assert requests.too_many == 200
