"""`gateway apply`: a good configuration is taken up, a bad one goes by itself, and nothing is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from gateway.cli import app
from tests.conftest import MosquittoFactory
from tests.support.gateways import HOST, GatewayProcess, gateway_config, wait_until
from tests.support.plugin_texts import FAILS_ON_SENSORS
from tests.support.ports import free_port
from tests.support.publishing import publish

pytestmark = pytest.mark.slow  # a gateway that is restarted
EPOCH_MS = 1_700_000_000_000


class Traffic:
    """About 500 messages a second, while `with` lasts; `sent` were acknowledged by the broker."""

    def __init__(self, port: int) -> None:
        self.sent = 0
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.1):
            batch = [
                (f"sensors/d{n % 5}", json.dumps({"n": n, "v": n % 7, "t": EPOCH_MS + 100 * n}))
                for n in range(self.sent, self.sent + 50)
            ]
            publish(self._port, batch)
            self.sent += len(batch)


def changed(config: Path, **sections: Any) -> Path:
    """A new file, beside the configuration, with other sections."""
    new = config.with_name("new.yaml")
    new.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | sections))
    return new


@pytest.fixture
def site(tmp_path: Path, mosquitto: MosquittoFactory) -> Iterator[tuple[GatewayProcess, Path, Traffic]]:
    broker = mosquitto(["max_queued_messages 0"])
    config = gateway_config(tmp_path, broker.url)
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        with Traffic(broker.port) as traffic:
            wait_until(lambda: traffic.sent > 200, "traffic")
            yield gateway, config, traffic


def applied(config: Path, new: Path, *more: str) -> Any:
    given = ["apply", str(new), "-c", str(config), "--yes", "--watch", "3s", *more]
    return CliRunner().invoke(app, given)


@contextmanager
def nothing_lost(gateway: GatewayProcess, traffic: Traffic) -> Iterator[None]:
    yield
    traffic.__exit__()
    wait_until(lambda: len(gateway.raw_payloads()) >= traffic.sent, "all that was sent is in the buffer")
    numbers = [int(str(payload["n"])) for payload in gateway.raw_payloads()]
    assert sorted(numbers) == [*range(traffic.sent)]
    audited = CliRunner().invoke(app, ["buffer", "audit", "-c", str(gateway.config)])
    assert audited.exit_code == 0, audited.output


def test_a_good_configuration_is_rehearsed_and_taken_up(site: tuple[GatewayProcess, Path, Traffic]) -> None:
    gateway, config, traffic = site
    window = yaml.safe_load(config.read_text())["windows"][0]
    new = changed(config, windows=[window | {"window": {"type": "tumbling", "size": "30s"}}])
    text, before = new.read_text(), config.read_text()
    with nothing_lost(gateway, traffic):
        done = applied(config, new)
        assert done.exit_code == 0, (done.output, done.exception)
        assert "changed: windows.minute.window.size" in done.output
        assert "messages through both configurations" in done.output
        assert config.read_text() == text
        assert config.with_name("gateway.yaml.before").read_text() == before


def test_a_configuration_that_reaches_no_broker_is_taken_back(
    site: tuple[GatewayProcess, Path, Traffic],
) -> None:
    gateway, config, traffic = site
    before = config.read_text()
    new = changed(config, local={"url": f"mqtt://{HOST}:{free_port()}"})
    with nothing_lost(gateway, traffic):
        done = applied(config, new)
        assert done.exit_code == 1
        assert "not connected to the local broker" in str(done.exception)
        assert "the old one is active again" in str(done.exception)
        assert config.read_text() == before
        assert "local" in config.with_name("gateway.yaml.rejected").read_text()
        gateway.wait_ready()


def test_a_plugin_that_fails_on_real_readings_is_taken_back(
    site: tuple[GatewayProcess, Path, Traffic],
) -> None:
    gateway, config, traffic = site
    before = config.read_text()
    folder = config.with_name("plugins")
    folder.mkdir()
    (folder / "raises.py").write_text(FAILS_ON_SENSORS)
    window = yaml.safe_load(before)["windows"][0] | {"plugin": "raises"}
    with nothing_lost(gateway, traffic):
        done = applied(config, changed(config, windows=[window]), "--watch", "20s")
        assert done.exit_code == 1
        assert "plugins failed on" in str(done.exception)
        assert config.read_text() == before


def test_a_file_with_a_problem_changes_nothing(site: tuple[GatewayProcess, Path, Traffic]) -> None:
    _, config, _ = site
    before = config.read_text()
    done = applied(config, changed(config, windows=[{"name": "broken"}]))
    assert done.exit_code == 1
    assert config.read_text() == before
    other_id = changed(config, gateway={"id": "other", "data_dir": "data"})
    assert "gateway.id cannot change" in str(applied(config, other_id).exception)


def test_without_a_running_gateway_it_says_so(tmp_path: Path) -> None:
    config = gateway_config(tmp_path, f"mqtt://{HOST}:9")
    done = applied(config, changed(config))
    assert "no gateway runs with" in str(done.exception)
