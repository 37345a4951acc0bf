"""What earlier configurations left retained is cleared, on a real broker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import MosquittoFactory
from tests.support.commands import gateway as command
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import Watcher, publish

T0 = 1_700_000_040_000  # a full minute
MINUTE_MS = 60_000
AGGREGATE, ALARM = "gateway/g1/aggregates/minute/a", "gateway/g1/alarms/high/a"
OTHERS = [("gateway/g2/aggregates/minute/a", b"{}"), ("elsewhere", b"1")]
"""Retained by somebody else, or at least under no filter of the gateway's."""


def settings(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((folder / "gateway.yaml").read_text())
    return loaded


def configured(folder: Path, url: str, **local: object) -> Path:
    """Two windows: one that retains its aggregates and is shown in Home Assistant, and one that alarms."""
    path = gateway_config(folder, url, local={"url": url} | local, home_assistant={})
    config = settings(folder)
    minute = config["windows"][0]
    limit = {"plugin": "threshold", "options": {"above": 5}, "name": "high"}
    config["windows"] = [minute | {"publish": {"retain": True, "home_assistant": {}}}, minute | limit]
    path.write_text(yaml.safe_dump(config))
    return path


def changed(path: Path, **change: Any) -> None:
    path.write_text(yaml.safe_dump(settings(path.parent) | change))


def retained(port: int, topic_filter: str = "#") -> set[str]:
    """The topics on which the broker keeps a message."""
    with Watcher(port, topic_filter) as seen:
        publish(port, [("end", b"")])
        publish(port, [(topic_filter.replace("#", "end"), b"")])
        wait_until(lambda: [m for m in seen.messages if not m.payload], "the end of what is retained")
    return {message.topic for message in seen.messages if message.retain and message.payload}


def left_something(gateway: GatewayProcess, port: int) -> None:
    """Wait for an aggregate, an alarm and an announcement."""
    gateway.wait_ready()
    publish(port, OTHERS, retain=True)
    readings = [(minute, {"v": 9, "t": T0 + minute * MINUTE_MS}) for minute in range(3)]
    publish(port, [("sensors/a", json.dumps(body)) for _, body in readings])
    wait_until(lambda: {AGGREGATE, ALARM} <= retained(port), gateway.log())
    assert len(announced(port)) == 5  # three of the gateway's own


def announced(port: int, node: str = "gateway_g1") -> set[str]:
    return {topic for topic in retained(port) if topic.startswith("homeassistant/") and node in topic}


def keeps_others(port: int) -> bool:
    return {topic for topic, _ in OTHERS} <= retained(port)


@pytest.mark.parametrize(
    "how", ["reload", *(pytest.param(how, marks=pytest.mark.slow) for how in ("stop", "kill"))]
)
def test_a_removed_window_leaves_nothing_retained(
    mosquitto: MosquittoFactory, tmp_path: Path, how: str
) -> None:
    broker = mosquitto()
    config = configured(tmp_path, broker.url)
    with GatewayProcess(config) as gateway:
        left_something(gateway, broker.port)
        changed(config, windows=[])
        if how == "reload":
            gateway.reload()
        else:
            (gateway.kill if how == "kill" else gateway.stop)()
            gateway.start()
        wait_until(lambda: not {AGGREGATE, ALARM} & retained(broker.port), gateway.log())
        wait_until(lambda: len(announced(broker.port)) == 3, gateway.log())
        assert keeps_others(broker.port)


@pytest.mark.slow
def test_a_window_that_retains_no_longer_leaves_nothing_and_the_others_stay(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    config = configured(tmp_path, broker.url)
    with GatewayProcess(config) as gateway:
        left_something(gateway, broker.port)
        gateway.stop()
        windows = settings(tmp_path)["windows"]
        changed(config, windows=[windows[0] | {"publish": {}}, windows[1]])
        gateway.start()
        wait_until(lambda: AGGREGATE not in retained(broker.port), gateway.log())
        assert ALARM in retained(broker.port)


def renamed(config: Path) -> None:
    """Give the gateway on this buffer the id g3."""
    changed(config, gateway={"id": "g3", "data_dir": "data"})
    done = command("buffer", "adopt", "-c", config, "--yes")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_renamed_gateway_leaves_nothing_retained_also_when_it_is_killed_before_it_could_look(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    config = configured(tmp_path, broker.url)
    with GatewayProcess(config) as gateway:
        left_something(gateway, broker.port)
        gateway.kill()
        renamed(config)
        broker.pause()
        gateway.start()
        wait_until(lambda: gateway.get("/healthz"), gateway.log())
        gateway.kill()
        broker.resume()
        gateway.start()
        wait_until(lambda: not {t for t in retained(broker.port) if "g1" in t}, gateway.log())
        assert {"gateway/g3/status"} < retained(broker.port)
        assert len(announced(broker.port, "gateway_g3")) >= 3
        assert keeps_others(broker.port)


@pytest.mark.slow
def test_nothing_is_cleared_under_a_name_that_another_gateway_has_taken(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    config = configured(tmp_path, broker.url)
    with GatewayProcess(config) as gateway:
        left_something(gateway, broker.port)
        gateway.stop()
        publish(broker.port, [("gateway/g1/status", b'{"state":"online"}')], retain=True)
        kept = {topic for topic in retained(broker.port) if "g1" in topic}
        renamed(config)
        gateway.start()
        wait_until(lambda: "a gateway with this name is online" in gateway.log(), gateway.log())
        assert {topic for topic in retained(broker.port) if "g1" in topic} == kept


@pytest.mark.slow
def test_many_retained_messages_are_all_cleared(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    broker = mosquitto()
    config = configured(tmp_path, broker.url)
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        many = [(f"gateway/g1/aggregates/minute/{number}", b"{}") for number in range(3000)]
        publish(broker.port, many, retain=True)
        gateway.stop()
        changed(config, windows=[])
        gateway.start()
        mine = "gateway/g1/aggregates/minute/#"
        wait_until(lambda: "cleared 3000 retained messages" in gateway.log(), gateway.log())
        assert retained(broker.port, mine) == set()


@pytest.mark.slow
def test_a_broker_that_lets_nothing_be_cleared_is_said_and_not_asked_for_ever(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    folder = tmp_path / "broker"
    folder.mkdir()
    (folder / "acl").write_text("topic readwrite #\nuser g3\ntopic read #\ntopic write gateway/g3/#\n")
    broker = mosquitto([f"acl_file {folder / 'acl'}"], persistence=folder)
    config = configured(tmp_path, broker.url)
    with GatewayProcess(config) as gateway:
        left_something(gateway, broker.port)
        gateway.stop()
        renamed(config)
        changed(config, local={"url": broker.url, "username": "g3", "password": "unused"})
        gateway.start()
        wait_until(lambda: "does not let it be cleared" in gateway.log(), gateway.log())
        assert AGGREGATE in retained(broker.port)
        gateway.stop()
