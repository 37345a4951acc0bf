"""The past over HTTP, of a running gateway: which rows come, in which form, page by page."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port
from tests.support.publishing import publish

START_MS = 1_699_999_980_000
MINUTE_MS = 60_000


class Past:
    """Asks one gateway for its past."""

    def __init__(self, config: Path) -> None:
        self._address = yaml.safe_load(config.read_text())["http"]["listen"]

    def ask(self, path: str, **query: object) -> tuple[int, str]:
        connection = HTTPConnection(self._address, timeout=10)
        connection.request("GET", f"/api/{path}?{urlencode(query)}")
        answer = connection.getresponse()
        found = answer.status, answer.read().decode()
        connection.close()
        return found

    def rows(self, path: str, **query: object) -> list[dict[str, Any]]:
        status, text = self.ask(path, format="ndjson", **query)
        assert status == 200, text
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(
    scope="module", params=["off", {"aggregates": "90d", "max_size": "16MiB"}], ids=["buffer", "history"]
)
def past(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    """Four minutes of two devices, of which the first minute of `a` was corrected; with a history beside the
    buffer, or without one."""
    port = free_port()
    local = {"url": "embedded", "listen": f"127.0.0.1:{port}"}
    config = gateway_config(tmp_path_factory.mktemp("past"), "embedded", local=local)
    settings = yaml.safe_load(config.read_text())
    settings["windows"][0]["allowed_lateness"] = "1h"
    settings["routes"][0]["fields"] = {"v": {"from": "v", "unit": "kWh"}}
    settings["history"] = request.param
    config.write_text(yaml.safe_dump(settings))
    readings = [
        ("a", 0, 1),
        ("b", 0, 5),
        ("a", 1, 2),
        ("b", 1, 6),
        ("a", 2, 3),
        ("b", 2, 7),
        ("a", 3, 4),
        ("b", 3, 8),
        ("a", 0, 9),
    ]
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        publish(
            port,
            [
                (f"sensors/{d}", json.dumps({"v": v, "t": START_MS + m * MINUTE_MS}).encode())
                for d, m, v in readings
            ],
        )
        wait_until(
            lambda: gateway.metric('gateway_messages_total{outcome="buffered"}') == len(readings), "all"
        )
        if request.param != "off":
            results = 'gateway_events_appended_total{kind="aggregate"}'
            wait_until(
                lambda: 0 < gateway.metric(results) == gateway.metric("gateway_history_results"), "copied"
            )
        yield Past(config)


def test_the_latest_revision_stands_for_a_window_unless_all_are_wanted(past: Past) -> None:
    latest = past.rows("aggregates", window="minute", key="a", to_ms=START_MS + MINUTE_MS + 1)
    assert [(r["start_ms"], r["revision"], r["count"]) for r in latest] == [(START_MS, 1, 2)]
    every = past.rows("aggregates", window="minute", key="a", to_ms=START_MS + MINUTE_MS + 1, revisions="all")
    assert [(r["start_ms"], r["revision"]) for r in every] == [(START_MS, 0), (START_MS, 1)]
    assert len({row["start_ms"] for row in past.rows("aggregates", window="minute", key="a")}) > 1
    assert {row["key"] for row in past.rows("aggregates")} == {"a", "b"}
    assert past.rows("aggregates", window="other") == []
    assert {row["unit"] for row in past.rows("aggregates")} == {"kWh"}


def test_a_range_of_time_includes_its_beginning_and_not_its_end(past: Past) -> None:
    second = {"from_ms": START_MS + MINUTE_MS, "to_ms": START_MS + 2 * MINUTE_MS}
    assert [(r["stream"], r["payload"]["v"]) for r in past.rows("events", stream="sensors/#", **second)] == [
        ("sensors/a", 2),
        ("sensors/b", 6),
    ]


def test_pages_follow_each_other_without_a_gap(past: Past) -> None:
    whole = past.rows("events", stream="sensors/+")
    found, after = [], 0
    while True:
        answer = json.loads(past.ask("events", stream="sensors/+", limit=4, after=after)[1])
        found += answer["rows"]
        if answer["next"] is None:
            break
        after = answer["next"]
    assert found == whole
    assert len(whole) == 9


def test_csv_has_a_header_and_the_values_of_a_result_in_columns(past: Past) -> None:
    rows = list(
        csv.DictReader(past.ask("aggregates", window="minute", key="b", format="csv")[1].splitlines())
    )
    assert {row["unit"] for row in rows} == {"kWh"}
    assert [(row["key"], row["start_ms"], float(row["result.mean"]), row["other"]) for row in rows][:2] == [
        ("b", str(START_MS), 5.0, ""),
        ("b", str(START_MS + MINUTE_MS), 6.0, ""),
    ]


def test_other_kinds_of_events_come_when_they_are_named(past: Past) -> None:
    assert {row["kind"] for row in past.rows("events")} == {"raw"}
    assert {row["kind"] for row in past.rows("events", kind="aggregate")} == {"aggregate"}
    assert {"raw", "aggregate"} <= {row["kind"] for row in past.rows("events", kind="all")}


@pytest.mark.parametrize(
    ("path", "query", "complaint"),
    [
        ("events", {"stream": "a/#/b"}, "'#' stands alone"),
        ("events", {"from_ms": "yesterday"}, "from_ms is a whole number"),
        ("events", {"format": "xml"}, "format is json, ndjson or csv"),
        ("events", {"limit": 0}, "limit is a whole number from 1 to 10000"),
        ("events", {"kind": "cooked"}, "kind is raw, "),
        ("aggregates", {"key": "a"}, "key needs a window"),
        ("aggregates", {"window": "+"}, "no window is named '+'"),
        ("aggregates", {"revisions": "some"}, "revisions is latest or all"),
    ],
)
def test_a_query_that_cannot_be_meant_is_refused_in_words(
    past: Past, path: str, query: dict[str, object], complaint: str
) -> None:
    status, text = past.ask(path, **query)
    assert status == 400
    assert complaint in text
