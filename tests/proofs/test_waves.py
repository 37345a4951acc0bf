"""Twenty gateways with one centre: a configuration goes out in waves, and where it is bad it goes back alone.

Each gateway is a process of its own, with its own buffer and status; they share two brokers, one for the
devices and one for the centre. `--log-cli-level=INFO` prints the figures that stand in docs/many-sites.md.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from gateway.cli import app
from tests.conftest import MosquittoFactory
from tests.support.centre import Centre
from tests.support.gateways import HOST, GatewayProcess, wait_until
from tests.support.ports import free_port
from tests.support.publishing import publish

log = logging.getLogger(__name__)
pytestmark = pytest.mark.slow
SITES = tuple(f"site-{number:02}" for number in range(1, 21))
WAVES = (SITES[:2], SITES[2:8], SITES[8:])
BAD = "site-13"
PATIENCE_S = 300.0
TEMPLATE: dict[str, Any] = {
    "gateway": {"id": "${SITE}", "data_dir": "data"},
    "local": {"url": "${LOCAL}"},
    "cloud": {"url": "${CLOUD}"},
    "http": {"listen": "${HTTP}"},
    "config": {"accept": "signed", "public_key_file": "${KEY}", "watch": "20s"},
    "routes": [{"name": "sensors", "topic": "${SITE}/sensors/{device}"}],
    "windows": [
        {
            "name": "mean",
            "route": "sensors",
            "field": "v",
            "key": "{device}",
            "window": {"type": "tumbling", "size": "10s"},
        }
    ],
}


def command(*given: object) -> None:
    done = CliRunner().invoke(app, [*map(str, given)])
    assert done.exit_code == 0, (done.output, done.exception)


class Devices:
    """Two devices of each site that publish on, whatever happens; `sent` are those that were acknowledged."""

    def __init__(self, port: int) -> None:
        self.sent = 0
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def publishing(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self.stop()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.5):
            n = self.sent
            readings = [(f"{site}/sensors/d{n % 2}", json.dumps({"v": n % 7, "n": n})) for site in SITES]
            publish(self._port, readings)
            self.sent += 1


class Fleet:
    """The files of the centre: one template, one list of sites, one key."""

    def __init__(self, folder: Path, local_url: str, cloud_url: str) -> None:
        self.folder = folder
        command("keys", "new", folder / "fleet.key")
        common = {"LOCAL": local_url, "CLOUD": cloud_url, "KEY": str(folder / "fleet.key.pub")}
        self.sites = {site: common | {"HTTP": f"{HOST}:{free_port()}"} for site in SITES}

    def render(self, template: dict[str, Any], to: str) -> Path:
        files = {"template.yaml": template, "sites.yaml": self.sites}
        for name, content in files.items():
            (self.folder / name).write_text(yaml.safe_dump(content))
        output = self.folder / to
        paths = [self.folder / name for name in files]
        command("render", paths[0], "--sites", paths[1], "--output", output)
        return output

    def send(self, port: int, rendered: Path, sites: Sequence[str], version: int) -> None:
        for site in sites:
            message = self.folder / f"{site}.json"
            command(
                *("config", "sign", rendered / f"{site}.yaml", "--key", self.folder / "fleet.key"),
                *("--version", version, "--gateway", site, "-o", message),
            )
            publish(port, [(f"gateway/{site}/down/config", message.read_bytes())], retain=True)


@contextmanager
def receiving(url: str, output: Path) -> Iterator[None]:
    """`gateway receive`, which writes what it gets once each."""
    program = [sys.executable, "-m", "gateway", "receive", "--url", url, "--output", str(output)]
    with output.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(program, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def numbers(output: Path) -> dict[str, list[int]]:
    """The numbers of the readings that arrived, by site."""
    found = defaultdict(list)
    for line in output.read_text().splitlines():
        event = json.loads(line)
        if event["stream"].startswith("site-"):
            payload = event["payload"]
            found[event["gateway"]].append(
                (json.loads(payload) if isinstance(payload, str) else payload)["n"]
            )
    return found


def all_use(centre: Centre, sites: Sequence[str]) -> bool:
    return all(centre.judged(site) == ("1", "in_use") for site in sites)


def within(true: Callable[[], object], what: str) -> float:
    """Wait; return how many seconds it took."""
    started_s = time.monotonic()
    wait_until(true, what, PATIENCE_S)
    return time.monotonic() - started_s


@pytest.mark.timeout(1800)
def test_a_change_goes_out_in_waves_and_the_one_site_where_it_is_bad_goes_back_alone(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local, cloud = mosquitto(["max_queued_messages 0"]), mosquitto(["max_queued_messages 0"])
    fleet, centre, devices = Fleet(tmp_path, local.url, cloud.url), Centre(cloud.port), Devices(local.port)
    received = tmp_path / "received.ndjson"
    gateways = {}
    with ExitStack() as stack:
        first = fleet.render(TEMPLATE, "first")
        for site in SITES:
            folder = tmp_path / site
            folder.mkdir()
            (folder / "gateway.yaml").write_text((first / f"{site}.yaml").read_text())
            gateways[site] = stack.enter_context(GatewayProcess(folder / "gateway.yaml"))
        stack.enter_context(centre.listening())
        stack.enter_context(receiving(cloud.url, received))
        up_s = within(lambda: all(g.get("/readyz") for g in gateways.values()), "all are ready")
        stack.enter_context(devices.publishing())
        wait_until(lambda: devices.sent > 40, "readings to rehearse on", PATIENCE_S)

        fleet.sites[BAD]["CLOUD"] = f"mqtt://{HOST}:{free_port()}"  # a slip in the list of sites
        window = TEMPLATE["windows"][0] | {"window": {"type": "tumbling", "size": "5s"}}
        second = fleet.render(TEMPLATE | {"windows": [window]}, "second")
        took_s = []
        for wave in WAVES:
            fleet.send(cloud.port, second, wave, 1)
            good = [site for site in wave if site != BAD]
            took_s.append(within(partial(all_use, centre, good), f"{good} use it"))
        back_s = within(lambda: centre.judged(BAD) == ("1", "taken_back"), "the bad one is back")

        told = centre.config(BAD)
        assert told["source"] == "file"
        assert "does not reach the cloud" in told["problem"]
        assert all(centre.config(s)["source"] == "signed" for s in SITES if s != BAD)
        devices.stop()
        wanted = {site: [*range(devices.sent)] for site in SITES}
        wait_until(
            lambda: {site: sorted(found) for site, found in numbers(received).items()} == wanted,
            "each reading of each site is at the centre, once",
            PATIENCE_S,
        )
        for gateway in gateways.values():
            assert gateway.audit().problems == ()
    waves = ", ".join(f"{len(wave)} sites {took:.0f} s" for wave, took in zip(WAVES, took_s, strict=True))
    log.info("20 ready after %.0f s; waves: %s; the bad one back %.0f s later", up_s, waves, back_s)
    log.info("%d readings sent, as many received, none twice", devices.sent * len(SITES))
