"""The dashboard over the history: a gateway answers each of its queries, with what its columns select."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.places import ROOT
from tests.support.ports import free_port
from tests.support.publishing import publish

DASHBOARD = json.loads((ROOT / "docker" / "monitoring" / "grafana-history.json").read_text())
MINUTE_MS = 60_000
KEY = "hall 1"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Three minutes of one device."""
    port = free_port()
    local = {"url": "embedded", "listen": f"127.0.0.1:{port}"}
    config = gateway_config(tmp_path_factory.mktemp("grafana"), "embedded", local=local, history={})
    now_ms = time.time_ns() // 1_000_000
    with GatewayProcess(config) as process:
        process.wait_ready()
        readings = [{"v": minute, "t": now_ms - (4 - minute) * MINUTE_MS} for minute in range(4)]
        publish(port, [(f"sensors/{KEY}", json.dumps(one)) for one in readings])
        wait_until(lambda: process.metric("gateway_history_results") >= 3, "results")
        yield process


def answer(gateway: GatewayProcess, query: dict[str, Any]) -> list[dict[str, Any]]:
    now_ms = time.time_ns() // 1_000_000
    values = {
        "window:percentencode": "minute",
        "key:percentencode": KEY.replace(" ", "%20"),
        "__from": str(now_ms - 3_600_000),
        "__to": str(now_ms),
    }
    url = re.sub(r"\$\{([^}]+)\}", lambda match: values[match[1]], query["url"])
    found = json.loads(gateway.get(url) or "null")
    for name in filter(None, query["root_selector"].split(".")):
        found = found[name]
    assert isinstance(found, list)
    assert found, url
    return found


def selected(row: Any, selector: str) -> Any:
    for name in selector.split("."):
        row = row[name]
    return row


def test_each_panel_finds_its_columns_in_the_answer(gateway: GatewayProcess) -> None:
    for panel in DASHBOARD["panels"]:
        for query in panel["targets"]:
            rows = answer(gateway, query)
            for column in query["columns"]:
                value = selected(rows[0], column["selector"])
                assert isinstance(value, (int, float)), column
                if column["type"] == "timestamp_epoch":
                    assert abs(value - time.time() * 1000) < 10 * MINUTE_MS


def test_windows_and_keys_are_offered_for_choice(gateway: GatewayProcess) -> None:
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    for name, offered in (("window", "minute"), ("key", KEY)):
        query = variables[name]["query"]["infinityQuery"]
        (selector,) = {column["selector"] for column in query["columns"]}
        assert [selected(row, selector) for row in answer(gateway, query)] == [offered]


def test_each_panel_has_a_place_and_says_what_it_shows() -> None:
    assert [panel["id"] for panel in DASHBOARD["panels"]] == [1, 2, 3]
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        assert panel["description"]
        assert {*panel["gridPos"]} == {"x", "y", "w", "h"}
