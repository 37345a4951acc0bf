"""Charts over HTTP: keys of a window side by side, and the fields of a device, out of the buffer."""

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

MINUTE = 60_000
START = round(time.time() * 1000) // MINUTE * MINUTE - 60 * MINUTE


class Asked:
    """Asks one gateway."""

    def __init__(self, config: Path) -> None:
        self._address = yaml.safe_load(config.read_text())["http"]["listen"]

    def get(self, path: str, *pairs: tuple[str, object]) -> tuple[int, Any]:
        connection = HTTPConnection(self._address, timeout=30)
        try:
            connection.request("GET", f"/api/{path}?{urlencode(pairs)}")
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, json.loads(text) if is_json else text


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """Half an hour of two devices, a reading every 20 seconds; `b` is silent for ten minutes."""
    port = free_port()
    local = {"url": "embedded", "listen": f"127.0.0.1:{port}"}
    config = gateway_config(tmp_path_factory.mktemp("courses"), "embedded", local=local)
    settings = yaml.safe_load(config.read_text())
    settings["routes"][0]["fields"] = {"v": {"from": "v", "unit": "°C"}, "state": "s"}
    config.write_text(yaml.safe_dump(settings))
    messages = []
    for at_ms in range(START, START + 30 * MINUTE, 20_000):
        for name in "ab":
            if name == "a" or not START + 10 * MINUTE <= at_ms < START + 20 * MINUTE:
                reading = {"v": (at_ms - START) // 20_000 % 3, "s": "on", "t": at_ms}
                messages.append((f"sensors/{name}", json.dumps(reading).encode()))
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        publish(port, messages)
        taken = 'gateway_messages_total{outcome="buffered"}'
        wait_until(lambda: gateway.metric(taken) == len(messages), "all messages")
        yield Asked(config)


def test_keys_of_a_window_come_with_bands_and_holes(asked: Asked) -> None:
    status, found = asked.get("course", ("window", "minute"), ("key", "a"), ("key", "b"), ("from_ms", START))
    assert (status, found["measure"], found["unit"]) == (200, "mean", "°C")
    a, b = found["series"]
    assert (a["key"], a["found"], b["found"]) == ("a", 29, 19)
    assert (a["values"][0], a["low"][0], a["high"][0]) == (1, 0, 2)
    assert None not in a["values"]
    assert b["values"].count(None) == 1


def test_another_number_of_the_results_can_be_drawn(asked: Asked) -> None:
    pairs = [("window", "minute"), ("key", "a"), ("measure", "count")]
    found = asked.get("course", *pairs)[1]
    assert (found["measure"], found["unit"], found["series"][0]["low"]) == ("count", "", None)
    assert {*found["series"][0]["values"]} == {3}
    assert {"mean", "count", "min", "max"} <= {*found["measures"]}


def test_a_field_of_a_device_is_drawn_from_its_messages(asked: Asked) -> None:
    pairs = [("device", "b"), ("field", "v"), ("from_ms", START), ("to_ms", START + 30 * MINUTE)]
    found = asked.get("course", *pairs)[1]
    (series,) = found["series"]
    assert (found["unit"], found["read_every"], series["found"]) == ("°C", 1, 60)
    assert series["values"].count(None) == 1
    assert series["times"][0] == START


def test_a_chart_has_as_many_points_as_are_asked_for(asked: Asked) -> None:
    found = asked.get("course", ("device", "a"), ("field", "v"), ("points", 10))[1]
    (series,) = found["series"]
    assert series["found"] == 90
    assert len(series["times"]) <= 11
    assert {*series["low"][1:-1]} == {0}


def test_a_chart_as_csv(asked: Asked) -> None:
    status, text = asked.get("course", ("device", "a"), ("field", "v"), ("format", "csv"))
    lines = text.splitlines()
    assert (status, lines[0].split(",")[:3], len(lines)) == (200, ["key", "time_ms", "v"], 91)


@pytest.mark.parametrize(
    ("pairs", "complaint"),
    [
        ([("window", "other"), ("key", "a")], "no window is named 'other'"),
        ([("window", "minute")], "key is given once to 6 times"),
        ([("device", "x"), ("field", "v")], "no reading of 'x'"),
        ([("device", "a"), ("field", "v"), ("format", "xml")], "format is json or csv"),
        ([("device", "a"), ("field", "v"), ("points", 1)], "points is a whole number from 2 to 5000"),
        ([("device", "a"), ("field", "v"), ("from_ms", "x")], "from_ms is a whole number"),
    ],
)
def test_what_cannot_be_drawn_is_said(asked: Asked, pairs: list[tuple[str, object]], complaint: str) -> None:
    status, text = asked.get("course", *pairs)
    assert status == 400
    assert complaint in text


def test_keys_of_a_window_are_searched_and_cut(asked: Asked) -> None:
    status, found = asked.get("windows/keys", ("window", "minute"))
    assert (status, found["known"], [one["key"] for one in found["results"]]) == (200, 2, ["a", "b"])
    found = asked.get("windows/keys", ("window", "minute"), ("search", "B"))[1]
    assert (found["found"], found["results"][0]["result"]["count"]) == (1, 3)
    assert asked.get("windows/keys", ("window", "minute"), ("limit", 1))[1]["found"] == 2
    assert asked.get("windows/keys", ("window", "other"))[0] == 404
