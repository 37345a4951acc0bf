"""`gateway init` on a real broker: it listens, writes a configuration that runs, and overwrites nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from gateway.cli import app
from gateway.cli.init import _ask
from gateway.core.errors import GatewayError
from gateway.lab.fleet_simulator import FleetSpec, simulate
from tests.conftest import MosquittoFactory
from tests.support.gateways import GatewayProcess, wait_until
from tests.support.ports import free_port
from tests.support.publishing import publish

PRESETS = ("tasmota", "zigbee2mqtt", "shelly_gen2")


@contextmanager
def traffic(port: int, presets: Sequence[str] = PRESETS) -> Iterator[None]:
    """Devices that speak until the end, each of them every fifth of a second."""
    ended = threading.Event()

    def speak() -> None:
        turn = 0
        while not ended.wait(0.2):
            turn += 1
            now_ms = time.time_ns() // 1_000_000
            specs = (FleetSpec(devices=3, preset=preset, count=3, seed=turn) for preset in presets)
            messages = [(one.topic, one.payload) for spec in specs for one in simulate(spec, now_ms)]
            publish(port, messages)

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(10)


def init(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", "init", *options],
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_what_is_heard_becomes_a_configuration_with_charts_and_alarms(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    port = mosquitto().port
    with traffic(port):
        done = init(tmp_path, "--url", f"mqtt://127.0.0.1:{port}", "--for", "1s", "--id", "hall")
        assert done.returncode == 0, done.stderr
        text = (tmp_path / "gateway.yaml").read_text()
        assert {route["preset"] for route in yaml.safe_load(text)["routes"]} == {*PRESETS}
        assert "gateway run" in done.stdout
        with pytest.raises(GatewayError, match="is not overwritten"):
            CliRunner().invoke(
                app,
                ["init", "-c", str(tmp_path / "gateway.yaml"), "--url", "mqtt://nowhere"],
                catch_exceptions=False,
            )
        assert (tmp_path / "gateway.yaml").read_text() == text


@pytest.mark.slow
def test_a_gateway_reads_its_devices_with_the_configuration_that_was_written(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    port = mosquitto().port
    with traffic(port):
        done = init(tmp_path, "--url", f"mqtt://127.0.0.1:{port}", "--for", "2s")
        assert done.returncode == 0, done.stderr
        text = (tmp_path / "gateway.yaml").read_text()
        settings = yaml.safe_load(text) | {"http": {"listen": f"127.0.0.1:{free_port()}"}}
        (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(settings))
        with GatewayProcess(tmp_path / "gateway.yaml") as gateway:
            gateway.wait_ready()
            wait_until(lambda: gateway.metric('gateway_messages_total{outcome="buffered"}') > 20, "readings")
            assert gateway.metric('gateway_undecoded_total{reason="json",route="tasmota"}') == 0


def test_a_broker_without_readings_is_no_configuration(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    port = mosquitto().port
    silent = init(tmp_path, "--url", f"mqtt://127.0.0.1:{port}", "--for", "300ms", "--protocol", "3.1.1")
    assert silent.returncode == 1
    assert "0 messages came" in silent.stderr
    assert "--for 10m" in silent.stderr
    publish(port, [("words/only", b"hello")], retain=True)
    words = init(tmp_path, "--url", f"mqtt://127.0.0.1:{port}", "--for", "300ms")
    assert words.returncode == 1
    assert "words/only" in words.stderr
    assert [*tmp_path.iterdir()] == []


def test_a_broker_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = init(tmp_path, "--url", f"mqtt://127.0.0.1:{free_port()}", "--for", "1s", "--protocol", "5")
    assert done.returncode == 1
    assert "no connection to 127.0.0.1" in done.stderr


def test_a_password_goes_into_a_file_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    answers: Iterator[str] = iter(["mqtt://broker", "me", "secret"])
    monkeypatch.setattr("typer.prompt", lambda *_, **__: next(answers))
    config = tmp_path / "gateway.yaml"
    assert _ask(None, None, config) == ("mqtt://broker", "me", tmp_path / "local.password")
    assert (tmp_path / "local.password").read_text() == "secret\n"
    assert (tmp_path / "local.password").stat().st_mode & 0o777 == 0o600
