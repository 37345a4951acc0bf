"""A real Home Assistant reads what the gateway announces (`make home-assistant` installs it)."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.wire.home_assistant import Shown, state_class_of
from gateway.wire.home_assistant_classes import SENSOR_CLASSES
from tests.conftest import MosquittoFactory
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.places import ROOT
from tests.support.ports import free_port
from tests.support.publishing import publish

VERSIONS = {"2024.3": "home-assistant", "2025.4": "home-assistant-2025"}
FILES = ROOT / "tests" / "files"
T0 = 1_700_000_040_000  # the beginning of a minute
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=VERSIONS)
def python(request: pytest.FixtureRequest) -> Path:
    """The Python that has this version of Home Assistant."""
    found = ROOT / "build" / VERSIONS[request.param] / "bin" / "python"
    if not found.exists():
        pytest.skip(f"no Home Assistant {request.param}: make home-assistant installs it")
    return found


class Home:
    """What a running Home Assistant shows, by the entity's device and name."""

    def __init__(self) -> None:
        self.states: dict[str, dict[str, Any]] = {}
        self.log: list[str] = []
        self.started = False

    def read(self, lines: Any) -> None:
        for line in lines:
            try:
                told = json.loads(line)
            except ValueError:
                continue  # its own log
            if "log" in told:
                self.log.append(told["text"])
            elif "started" in told:
                self.started = told["started"]
            elif told["state"] is None:
                self.states.pop(told["entity_id"], None)
            else:
                self.states[told["entity_id"]] = told

    def state(self, name: str) -> str | None:
        return next((s["state"] for s in [*self.states.values()] if _name(s) == name), None)

    def one(self, name: str) -> dict[str, Any]:
        return next(s for s in [*self.states.values()] if _name(s) == name)

    def shows(self, name: str, state: str | None) -> None:
        wait_until(
            lambda: self.state(name) == state, f"{name} is {self.state(name)}, not {state}; {self.log}"
        )


def _name(told: dict[str, Any]) -> str:
    return str(told["attributes"].get("friendly_name"))


@contextmanager
def home(python: Path, folder: Path, broker_port: int) -> Iterator[Home]:
    script = FILES / "home_assistant_states.py"
    with subprocess.Popen(
        [str(python), str(script), str(folder), str(broker_port), str(free_port())],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        made = Home()
        reader = threading.Thread(target=made.read, args=(process.stdout,))
        reader.start()
        try:
            wait_until(lambda: made.started, "Home Assistant starts", 180.0)
            yield made
        finally:
            process.kill()
            reader.join()


def minute(device: str, number: int, t: float, h: float = 50, second: int = 0) -> tuple[str, bytes]:
    body = {"v": t, "h": h, "t": T0 + number * 60_000 + second * 1000}
    return f"sensors/{device}", json.dumps(body).encode()


def test_it_shows_devices_fields_alarms_and_only_the_newest(
    python: Path, mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    shown = {"value": "mean", "device_class": "temperature", "unit": "°C", "expire_after": "20s"}
    minute_window = {
        "route": "sensors", "key": "{device}", "watermark": "per_key", "allowed_lateness": "10m",
        "window": {"type": "tumbling", "size": "1m"},
    }  # fmt: skip
    config = gateway_config(
        tmp_path,
        broker.url,
        home_assistant={},
        windows=[
            minute_window | {"name": "temp", "field": "v", "publish": {"home_assistant": shown}},
            minute_window | {"name": "both", "fields": ["v", "h"]},
            minute_window
            | {"name": "hot", "field": "v", "plugin": "threshold", "options": {"above": 30, "clear": 29}},
        ],
    )
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        with home(python, tmp_path / "home", broker.port) as seen:
            publish(broker.port, [minute(key, n, 20 + n) for n in range(3) for key in ("a", "b")])
            for key in ("a", "b"):
                seen.shows(f"{key} temp", "21.0")
                seen.shows(f"{key} both v", "21.0")
                seen.shows(f"{key} both h", "50.0")
            assert seen.one("a temp")["via"] == "Gateway g1"
            assert seen.one("a temp")["attributes"]["state_class"] == "measurement"
            seen.shows("Gateway g1 Connection", "on")
            seen.shows("Gateway g1 Problem", "off")
            # A late reading corrects an older window: nothing of it may be seen.
            before = seen.one("a temp")["attributes"]
            publish(broker.port, [minute("a", 0, 99, second=30)])
            publish(broker.port, [minute("a", 3, 35)])
            seen.shows("a temp", "22.0")
            after = seen.one("a temp")["attributes"]
            assert (before["mean"], after["mean"], after["max"]) == (21, 22, 22)
            # An alarm of one key is a problem of its device, and of no other.
            publish(broker.port, [minute("a", 4, 20)])
            seen.shows("a hot", "on")
            assert seen.state("b hot") is None
            assert seen.one("a hot")["attributes"]["limit"] == 30
            publish(broker.port, [minute("a", 5, 20)])
            seen.shows("a hot", "off")
            assert [text for text in seen.log if "g1" in text or "JSON" in text or "emplate" in text] == []
        # Home Assistant starts again: all states are there, and what is too old becomes unavailable.
        with home(python, tmp_path / "home", broker.port) as seen:
            seen.shows("a both h", "50.0")
            seen.shows("a hot", "off")
            seen.shows("b temp", "unavailable")
            seen.shows("b both v", "21.0")
            # A window that is renamed leaves nothing behind.
            gateway.kill()
            seen.shows("b both v", "unavailable")
            config.write_text(config.read_text().replace("name: both", "name: pair"))
            gateway.start()
            gateway.wait_ready()
            seen.shows("b both v", None)
            assert "b both v" not in map(_name, seen.states.values())


def test_the_lists_of_units_and_classes_are_those_of_home_assistant(python: Path) -> None:
    done = subprocess.run(
        [str(python), str(FILES / "home_assistant_classes.py")], capture_output=True, text=True, check=True
    )
    for name, allowed in json.loads(done.stdout).items():
        known = SENSOR_CLASSES[name]
        assert {*allowed["units"]} <= {*known.units}, name
        given = {*allowed["state_classes"]}
        assert given - {"measurement_angle"} <= {*known.state_classes}, name  # a newer one allows more
        chosen = state_class_of(Shown("", None, name), "last")
        assert chosen is None or chosen in given, name
