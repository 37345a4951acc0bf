"""The table of the devices: searched, sorted and cut by the gateway, and one device with all fields."""

from __future__ import annotations

import json
import time
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


class Devices:
    """Asks one gateway for its devices."""

    def __init__(self, config: Path) -> None:
        self._address = yaml.safe_load(config.read_text())["http"]["listen"]

    def ask(self, path: str, **query: object) -> tuple[int, Any]:
        connection = HTTPConnection(self._address, timeout=10)
        connection.request("GET", f"/api/devices/{path}?{urlencode(query)}")
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, json.loads(text) if answer.status == 200 else text

    def names(self, **query: object) -> list[str]:
        return [device["name"] for device in self.ask("table", **query)[1]["devices"]]


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devices]:
    """Twelve devices with one reading, `boiler` with three, and one that cannot be read."""
    port, now_ms = free_port(), round(time.time() * 1000)
    local = {"url": "embedded", "listen": f"127.0.0.1:{port}"}
    config = gateway_config(tmp_path_factory.mktemp("devices"), "embedded", local=local)
    settings = yaml.safe_load(config.read_text())
    settings["routes"][0]["fields"] = {"v": {"from": "v", "unit": "°C"}, "state": "s"}
    config.write_text(yaml.safe_dump(settings))
    names = [*(f"hall-{number:02}" for number in range(12)), "boiler", "boiler", "boiler"]
    messages: list[tuple[str, bytes]] = [
        (f"sensors/{name}", json.dumps({"v": at, "s": "x" * 300, "t": now_ms + at}).encode())
        for at, name in enumerate(names)
    ]
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        publish(port, [*messages, ("sensors/odd", b"{"), ("sensors/hall-11", b'{"v": 1}')])
        wait_until(lambda: gateway.metric('gateway_messages_total{outcome="buffered"}') == 17, "all")
        yield Devices(config)


def test_a_device_is_found_by_a_part_of_its_name_in_any_case(devices: Devices) -> None:
    assert devices.names(search="LL-0", limit=3) == ["hall-00", "hall-01", "hall-02"]
    status, answer = devices.ask("table", search="hall", limit=5, offset=10)
    assert (status, answer["known"], answer["found"], len(answer["devices"])) == (200, 14, 12, 2)


def test_the_order_is_the_one_that_was_asked_for(devices: Devices) -> None:
    assert devices.names(sort="messages", limit=1) == ["boiler"]
    assert devices.names(sort="name", descending="true", limit=1) == ["odd"]
    assert devices.names(only="unreadable") == ["odd"]
    assert devices.names(only="silent") == []


def test_messages_without_a_field_of_the_route_are_misses(devices: Devices) -> None:
    (found,) = devices.ask("table", only="misses")[1]["devices"]
    assert (found["name"], found["missed"], found["undecoded"]) == ("hall-11", 1, 0)
    assert devices.names(sort="misses", limit=1) == ["hall-11"]


def test_a_row_has_the_last_values_with_unit_and_time_and_long_text_is_cut(devices: Devices) -> None:
    (row,) = devices.ask("table", search="boiler")[1]["devices"]
    value, state = sorted(row["values"], key=lambda one: str(one["field"]), reverse=True)
    assert (value["field"], value["value"], value["unit"]) == ("v", 14, "°C")
    assert abs(value["time_ms"] - time.time() * 1000) < 300_000
    assert state["value"] == "x" * 100


def test_one_device_tells_its_topics_and_the_windows_it_feeds(devices: Devices) -> None:
    status, one = devices.ask("one", name="boiler")
    assert (status, one["topics"], one["messages"]) == (200, ["sensors/boiler"], 3)
    assert one["windows"] == [{"name": "minute", "size_ms": 60_000}]
    assert devices.ask("one", name="nobody")[0] == 404


@pytest.mark.parametrize("query", [{"sort": "colour"}, {"only": "some"}, {"limit": 0}, {"offset": "x"}])
def test_what_cannot_be_meant_is_refused(devices: Devices, query: dict[str, object]) -> None:
    assert devices.ask("table", **query)[0] == 400
