"""The gateway under a service manager: what it says of itself, how its watchdog is fed, and how it stops."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.app.gateway import Gateway
from gateway.app.processing import bounded
from gateway.buffer.proof.balance import audit
from gateway.buffer.reader import Reader
from gateway.config import load_config
from gateway.config.specs import memory_bytes
from gateway.flow.memory import memory_budget
from gateway.host.systemd import Service
from tests.conftest import MosquittoFactory
from tests.support.gateways import HOST, PATIENCE_S, GatewayProcess, gateway_config, wait_until
from tests.support.places import DOCS
from tests.support.publishing import publish

UNIT = DOCS / "examples" / "gateway.service"
NOBODY = f"mqtt://{HOST}:9"
STOP_S = 10.0  # what a supervisor may give us; docs/deployment.md promises it


class Listener:
    """The service manager's end of $NOTIFY_SOCKET."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self._socket.settimeout(PATIENCE_S)

    def next(self) -> list[str]:
        return self._socket.recv(4096).decode().splitlines()

    def wait_for(self, line: str) -> list[list[str]]:
        """What was said up to, and with, the first message that has `line`."""
        said = [self.next()]
        while line not in said[-1]:
            said.append(self.next())
        return said

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    name = str(tmp_path / "notify") if request.param == "file" else f"@{tmp_path}/notify"
    heard = Listener(name)
    yield heard
    heard.close()


def test_a_service_hears_of_start_reload_work_and_stop(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", listener.name)
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    with GatewayProcess(gateway_config(tmp_path, NOBODY)) as gateway:
        assert listener.wait_for("READY=1") == [["READY=1"]]  # nothing before it
        said = listener.wait_for("WATCHDOG=1") + listener.wait_for("WATCHDOG=1")
        assert "not connected to the local broker" in said[-1][0]
        gateway.reload()
        assert ["READY=1"] not in listener.wait_for("STATUS=reloading")
        listener.wait_for("READY=1")
        assert gateway.stop() == 0
        assert listener.wait_for("STOPPING=1")


def test_the_watchdog_starves_while_the_writer_hangs(tmp_path: Path) -> None:
    gateway = Gateway(load_config(gateway_config(tmp_path, NOBODY)))
    gateway.start()
    go_on, hanging = threading.Event(), threading.Event()
    heard = Listener(str(tmp_path / "notify"))
    service = Service({"NOTIFY_SOCKET": heard.name, "WATCHDOG_USEC": "3000000"})

    def fed() -> bool:
        service.report(gateway.status.progress, [])
        return "WATCHDOG=1" in heard.next()

    try:
        wait_until(fed, "progress")
        wait_until(fed, "progress since then")

        def hang(_: object) -> None:
            hanging.set()
            go_on.wait()

        asked = threading.Thread(target=lambda: gateway.status.writer.call_outside(hang))
        asked.start()
        assert hanging.wait(PATIENCE_S)
        fed()  # what it did until then
        assert not any(fed() for _ in range(10))
        go_on.set()
        asked.join()
        wait_until(fed, "the writer goes on")
    finally:
        go_on.set()
        gateway.stop()
        heard.close()


def test_without_a_service_manager_nothing_is_sent_and_a_watchdog_of_another_process_is_not_fed(
    tmp_path: Path,
) -> None:
    assert Service({"WATCHDOG_USEC": "3000000"}).report_every_s is None
    heard = Listener(str(tmp_path / "notify"))
    service = Service({"NOTIFY_SOCKET": heard.name, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"})
    service.report(1, ["one\nproblem"])
    assert heard.next() == ["STATUS=one problem"]
    heard.close()


def test_a_service_manager_that_is_gone_does_not_stop_the_gateway(tmp_path: Path) -> None:
    Service({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()


def test_a_stop_with_a_backlog_and_frozen_brokers_is_quick_and_keeps_everything(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local, cloud = mosquitto(["max_queued_messages 10000"]), mosquitto()
    with GatewayProcess(gateway_config(tmp_path, local.url, cloud.url)) as gateway:
        gateway.wait_ready()
        wait_until(lambda: "bridge-0: connected" in gateway.log(), "the cloud")
        cloud.pause()
        publish(local.port, ((f"sensors/d{n % 10}", f'{{"t": {n}, "v": {n}}}') for n in range(3000)))
        wait_until(lambda: gateway.metric('gateway_buffer_events{status="pending"}') > 0, "a backlog")
        wait_until(lambda: len(gateway.raw_payloads()) == 3000, "all of it on disk")
        local.pause()
        started_s = time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - started_s < STOP_S
    reader = Reader(tmp_path / "data" / "events.db")
    found = audit(reader)
    reader.close()
    assert found.messages["buffered"] == 3000
    assert (found.statuses["syncing"], found.problems) == (0, ())


def test_the_shipped_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/gateway/bin/gateway", "/bin/true"))
    done = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stop_does_not_wait_for_a_cloud_that_accepts_and_says_nothing(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as silent:
        cloud = {"url": f"mqtts://{HOST}:{silent.getsockname()[1]}", "connections": 4}
        with GatewayProcess(gateway_config(tmp_path, NOBODY, cloud=cloud)) as gateway:
            wait_until(lambda: gateway.get("/healthz"), "the start")
            for _ in range(5):
                silent.accept()[0].detach()  # the TLS handshake of each connection waits for us
            started_s = time.monotonic()
            assert gateway.stop() == 0
            assert time.monotonic() - started_s < STOP_S


def test_a_window_without_a_limit_gets_the_one_that_the_memory_sets(tmp_path: Path) -> None:
    window = {"route": "sensors", "field": "v", "window": {"type": "count", "count": 3}}
    windows = [{"name": "a", **window}, {"name": "b", "max_keys": 7, **window}]
    config = gateway_config(tmp_path, NOBODY, windows=windows, flow={"memory": "128MiB"})
    settings = load_config(config)
    budget = memory_budget(memory_bytes(settings.flow))
    assert [spec.max_keys for spec in bounded(settings.window_specs(), budget)] == [52_428, 7]
