"""Metrics and health of a running gateway."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway import __version__
from tests.conftest import MosquittoFactory
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish
from tests.support.stub_broker import PUBLISH, SILENCE, StubBroker


def answer(config: Path, path: str) -> tuple[int, dict[str, Any]]:
    listen = yaml.safe_load(config.read_text())["http"]["listen"]
    try:
        with urllib.request.urlopen(f"http://{listen}{path}", timeout=5) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)


def test_ready_says_what_is_missing_and_healthy_does_not_mind(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    config = gateway_config(tmp_path, broker.url)
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        broker.stop()
        wait_until(lambda: answer(config, "/readyz")[0] == 503, "the loss is seen")
        status, body = answer(config, "/readyz")
        assert (status, body["status"]) == (503, "unavailable")
        assert "not connected to the local broker" in body["problems"][0]
        assert answer(config, "/healthz") == (200, {"status": "ok", "problems": []})
        broker.start()
        wait_until(lambda: answer(config, "/readyz")[0] == 200, "the connection is back by itself")


def test_every_metric_is_well_formed_and_counts_what_came(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    with GatewayProcess(gateway_config(tmp_path, broker.url)) as gateway:
        gateway.wait_ready()
        publish(broker.port, [("sensors/a", b'{"v": 1, "t": 1700000000000}'), ("sensors/a", b"{")])
        wait_until(lambda: gateway.metric('gateway_messages_total{outcome="buffered"}') == 2, "both")
        families = {f.name: f for f in text_string_to_metric_families(gateway.get("/metrics") or "")}
        assert all(f.documentation for f in families.values())
        windowed = {s.labels["window"]: s.value for s in families["gateway_window_events"].samples}
        assert windowed["minute"] == 1
        assert families["gateway_undecoded"].samples[0].value == 1
        alive = {s.labels["thread"]: s.value for s in families["gateway_thread_alive"].samples}
        names = ("control", "http", "ingest", "reports", "republish", "timekeeper", "upkeep", "writer")
        assert alive == dict.fromkeys(names, 1)


def test_counters_begin_with_zero_and_the_version_is_said(tmp_path: Path) -> None:
    with GatewayProcess(gateway_config(tmp_path, "mqtt://127.0.0.1:9")) as gateway:
        wait_until(lambda: gateway.get("/healthz"), "the start")
        for metric in (
            'gateway_events_evicted_total{reason="oldest"}',
            'gateway_messages_rejected_total{reason="no_route"}',
            'gateway_messages_total{outcome="duplicate"}',
            'gateway_events_appended_total{kind="alert"}',
        ):
            assert f"{metric} 0.0\n" in (gateway.get("/metrics") or "")
        assert gateway.metric(f'gateway_info{{id="g1",version="{__version__}"}}') == 1


def test_an_address_that_is_taken_is_a_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        config = gateway_config(tmp_path, "mqtt://127.0.0.1:9", http={"listen": listen})
        command = [sys.executable, "-m", "gateway", "run", "-c", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert f"error: cannot listen on http.listen {listen}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("frozen", ["local", pytest.param("cloud", marks=pytest.mark.slow)])
def test_ready_says_within_two_thirds_of_the_keepalive_that_a_broker_hangs(
    mosquitto: MosquittoFactory, tmp_path: Path, frozen: str
) -> None:
    brokers = {"local": mosquitto(), "cloud": mosquitto()}
    local, cloud = (
        {"url": broker.url, "keepalive": "3s", "reconnect_max": "300ms"} for broker in brokers.values()
    )
    config = gateway_config(tmp_path, brokers["local"].url, local=local, cloud=cloud)
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        wait_until(lambda: gateway.metric('gateway_link_up{link="bridge-0"}') == 1, gateway.log())
        brokers[frozen].pause()
        # Two seconds by the keepalive, and one until it is looked at; more where the machine is busy.
        wait_until(lambda: answer(config, "/readyz")[0] == 503, "the broker hangs", patience_s=6.0)
        (problem,) = answer(config, "/readyz")[1]["problems"]
        assert "has not answered for" in problem
        assert frozen in problem
        brokers[frozen].resume()
        wait_until(lambda: answer(config, "/readyz")[0] == 200, "it goes on by itself")


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_ready_says_that_a_cloud_which_takes_connections_acknowledges_nothing(
    mosquitto: MosquittoFactory, tmp_path: Path, protocol: str
) -> None:
    """It must stay said: reconnects that bring nothing must not make it look as if all were well."""
    cloud = StubBroker(lambda packet: SILENCE if packet.kind == PUBLISH and "/up/" in packet.topic else None)
    broker = mosquitto()
    with cloud.running():
        config = gateway_config(tmp_path, broker.url, cloud={"url": cloud.url, "protocol": protocol})
        with GatewayProcess(config) as gateway:
            gateway.wait_ready()
            publish(broker.port, [("sensors/a", b'{"v": 1, "t": 1700000000000}')])
            wait_until(lambda: cloud.of(PUBLISH), "it is sent")
            wait_until(lambda: answer(config, "/readyz")[0] == 503, "it is said", patience_s=90.0)
            ends_s = time.monotonic() + 10
            while time.monotonic() < ends_s:
                status, body = answer(config, "/readyz")
                assert status == 503
                assert "acknowledged nothing for" in body["problems"][0]
                time.sleep(0.2)
            assert answer(config, "/healthz")[0] == 200
