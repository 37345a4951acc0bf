"""What a gateway tells a centre over MQTT: its status, its metrics, its log."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from gateway import __version__
from gateway.host.log_lines import LogLines
from tests.conftest import MosquittoFactory
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import Watcher, publish


def test_the_status_says_what_a_centre_needs(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    local, cloud = mosquitto(), mosquitto()
    config = gateway_config(
        tmp_path, local.url, cloud.url, config={"version": "v7"}, metrics={"status": "1s", "publish": "1s"}
    )
    with Watcher(cloud.port, "gateway/g1/+") as centre, GatewayProcess(config) as gateway:
        gateway.wait_ready()
        publish(local.port, [("sensors/d1", '{"t": 1000, "v": 1}')])

        def newest(topic: str) -> dict[str, Any]:
            found = [json.loads(one.payload) for one in centre.messages if one.topic == f"gateway/g1/{topic}"]
            return found[-1] if found else {}

        def status() -> dict[str, Any]:
            return newest("status")

        wait_until(lambda: status().get("devices", {}).get("known") == 1, "a status with the device")
        wait_until(lambda: status()["pending"] == 0, "all is sent")
        told = status()
        assert told["state"] == "online"
        assert told["version"] == __version__
        assert told["config"]["version"] == "v7"
        assert told["problems"] == []
        assert told["drain"]["state"] == "live"
        assert told["oldest_pending_ms"] is None
        assert told["subscribed_since_ms"] <= told["time_ms"]

        name = 'gateway_messages_total{outcome="buffered"}'
        wait_until(lambda: newest("metrics").get("metrics", {}).get(name) == 1, "metrics by MQTT")
        assert gateway.stop() == 0
        wait_until(lambda: status()["state"] == "offline", "it says goodbye")


def test_log_lines_are_bounded_by_a_rate_and_what_is_dropped_is_counted() -> None:
    lines = LogLines("warning")
    for level in (logging.INFO, logging.WARNING):
        for number in range(50):
            lines.handle(logging.LogRecord("x", level, "x.py", 1, "line %d", (number,), None))
    assert [json.loads(line)["message"] for line in lines.take()] == [f"line {n}" for n in range(20)]
    assert lines.dropped == 30
    assert len(lines.newest(10**6)) == 100
    assert json.loads(lines.newest(200)[-1])["message"] == "line 49"
