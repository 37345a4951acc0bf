"""On a real broker: what is retained for a key is its newest window, whatever comes late."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import MosquittoFactory
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import Watcher, publish

T0 = 1_700_000_040_000  # a full minute
MINUTE_MS = 60_000
TOPIC = "gateway/g1/aggregates/minute/a"


def config_of(folder: Path, url: str, **window: Any) -> Path:
    path = gateway_config(folder, url)
    config = yaml.safe_load(path.read_text())
    config["windows"][0] |= {"allowed_lateness": "1h", "publish": {"retain": True}} | window
    path.write_text(yaml.safe_dump(config))
    return path


def reading(minute: float, value: float, device: str = "a") -> tuple[str, bytes]:
    body = {"v": value, "t": T0 + int(minute * MINUTE_MS)}
    return f"sensors/{device}", json.dumps(body).encode()


def told(seen: Watcher) -> list[dict[str, Any]]:
    return [json.loads(message.payload) for message in seen.messages]


def minute_of(result: dict[str, Any]) -> int:
    return int(result["start_ms"] - T0) // MINUTE_MS


def retained(port: int) -> dict[str, Any]:
    with Watcher(port, TOPIC) as seen:
        wait_until(lambda: seen.messages, "the retained result")
    assert seen.messages[0].retain
    body: dict[str, Any] = json.loads(seen.messages[0].payload)
    return body


@pytest.mark.parametrize("restart", ["none", pytest.param("stop", marks=pytest.mark.slow), "kill"])
def test_a_correction_of_an_older_window_is_marked_and_not_retained(
    mosquitto: MosquittoFactory, tmp_path: Path, restart: str
) -> None:
    broker = mosquitto()
    with GatewayProcess(config_of(tmp_path, broker.url)) as gateway, Watcher(broker.port, TOPIC) as seen:
        gateway.wait_ready()
        publish(broker.port, [reading(0, 1), reading(1, 2), reading(2, 3)])
        wait_until(lambda: len(seen.messages) == 2, "two windows on time")
        if restart != "none":
            (gateway.stop if restart == "stop" else gateway.kill)()
            gateway.start()
            gateway.wait_ready()
        publish(broker.port, [reading(0.5, 5), reading(1.5, 6)])
        wait_until(lambda: sum(one["kind"] == "correction" for one in told(seen)) == 2, "both corrections")
        older, newest = (one for one in told(seen) if one["kind"] == "correction")
    assert (minute_of(older), older.get("superseded")) == (0, True)
    assert (minute_of(newest), newest.get("superseded")) == (1, None)
    assert retained(broker.port) == newest


def test_with_early_results_the_value_never_goes_back(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    broker = mosquitto()
    config = config_of(tmp_path, broker.url, early={"count": 1}, out_of_orderness="30s")
    with GatewayProcess(config) as gateway, Watcher(broker.port, TOPIC) as seen:
        gateway.wait_ready()
        for step in range(8):  # each window's first reading comes before the one before it is complete
            publish(broker.port, [reading(step / 2, 20 + step)])
        wait_until(lambda: sum(one["kind"] == "on_time" for one in told(seen)) == 3, "three windows on time")
    shown = [minute_of(one) for one in told(seen) if "superseded" not in one]
    assert shown == sorted(shown)
    ended = [one for one in told(seen) if one["kind"] == "on_time"]
    assert [one.get("superseded") for one in ended] == [True] * 3
    assert minute_of(retained(broker.port)) == 3


def test_windows_without_order_retain_what_came_last(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    broker = mosquitto()
    config = config_of(tmp_path, broker.url)
    text = yaml.safe_load(config.read_text())
    text["windows"][0] = {
        name: value
        for name, value in text["windows"][0].items()
        if name not in ("watermark", "allowed_lateness")
    } | {"window": {"type": "count", "count": 2}}
    config.write_text(yaml.safe_dump(text))
    with GatewayProcess(config) as gateway, Watcher(broker.port, TOPIC) as seen:
        gateway.wait_ready()
        publish(broker.port, [reading(8, 1), reading(9, 2), reading(0, 3), reading(1, 4)])
        wait_until(lambda: len(seen.messages) == 2, "two results")
    assert [one.get("superseded") for one in told(seen)] == [None, None]
    assert minute_of(retained(broker.port)) == 0
