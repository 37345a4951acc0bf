"""The way of a newcomer, timed: from a clone to the first chart and the first alarm of their own devices.

Run it by hand: `python -m benchmarks.newcomer [--for 1m]`. A Mosquitto carries what simulated Tasmota,
Zigbee2MQTT and Shelly devices send. The repository is cloned, installed and run as the docs say.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.programs import HOST, running_broker
from tests.support.gateways import wait_until
from tests.support.ports import free_port
from tests.support.publishing import Watcher, publish

ROOT = Path(__file__).parents[1]
PRESETS = ("tasmota", "zigbee2mqtt", "shelly_gen2")
PATIENCE_S = 300.0
_HOT = json.dumps({"temperature": 99.0, "humidity": 40, "linkquality": 120}).encode()


class Steps:
    """Prints how long each step took, and all together."""

    def __init__(self) -> None:
        self._began_s = self._last_s = time.monotonic()

    def done(self, what: str) -> None:
        now_s = time.monotonic()
        print(
            f"{now_s - self._last_s:6.1f} s  {what}   (since the clone {now_s - self._began_s:.1f} s)",
            flush=True,
        )
        self._last_s = now_s


@contextmanager
def devices(port: int) -> Iterator[None]:
    """Fleets of each kind: four devices that speak every two seconds."""
    command = [sys.executable, "-m", "gateway", "simulate", "--url", f"mqtt://{HOST}:{port}", "--rate", "2"]
    with ExitStack() as stack:
        for preset in PRESETS:
            options = ["--devices", "4", "--preset", preset, "--client-id", f"fleet-{preset}"]
            process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        yield


def walk(folder: Path, port: int, listen_for: str) -> None:
    steps = Steps()
    clone = folder / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    steps.done("git clone")
    subprocess.run([sys.executable, "-m", "venv", ".venv"], cwd=clone, check=True)
    subprocess.run([".venv/bin/pip", "install", "-q", "."], cwd=clone, check=True)
    steps.done("venv and pip install .")
    gateway = clone / ".venv" / "bin" / "gateway"
    init = ["init", "--url", f"mqtt://{HOST}:{port}", "--for", listen_for, "--id", "first"]
    subprocess.run([gateway, *init], cwd=clone, check=True, stdout=subprocess.DEVNULL)
    config = clone / "gateway.yaml"
    listen = f"{HOST}:{free_port()}"
    config.write_text(re.sub(r"127\.0\.0\.1:8080", listen, config.read_text()))
    steps.done(f"gateway init --for {listen_for}")
    with Watcher(port, "gateway/first/alerts") as alerts:
        process = subprocess.Popen([gateway, "run"], cwd=clone, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: _ask(listen, "/readyz") is not None, "ready", PATIENCE_S)
            steps.done("gateway run, until it is ready")
            wait_until(lambda: _results(listen) > 0, "a result", PATIENCE_S)
            steps.done("the first result of a window, and with it the first chart")
            publish(port, [("zigbee2mqtt/sensor-000", _HOT)] * 400)
            wait_until(lambda: any(b"raised" in one.payload for one in alerts.messages), "alarm", PATIENCE_S)
            steps.done("a hot reading is sent, the alarm is raised")
        finally:
            process.terminate()
            process.wait(30)


def _results(listen: str) -> int:
    return len(json.loads(_ask(listen, "/api/aggregates") or '{"rows":[]}')["rows"])


def _ask(listen: str, path: str) -> str | None:
    try:
        with urllib.request.urlopen(f"http://{listen}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--for", dest="listen_for", default="1m", help="how long `gateway init` listens")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_broker() as broker, devices(broker.port):
        walk(Path(folder), broker.port, options.listen_for)


if __name__ == "__main__":
    main()
