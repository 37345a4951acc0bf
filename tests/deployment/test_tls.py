"""Mutual TLS on both sides with the shipped brokers, ACLs and certificates; what leaks into logs: nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from paho.mqtt.enums import MQTTProtocolVersion

from tests.conftest import MosquittoFactory
from tests.deployment.test_mosquitto import Shipped, join, shipped
from tests.support import commands
from tests.support.gateways import HOST, GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port

CLIENTS = {"local": ("gateway", "hall-1"), "cloud": ("plant-7",)}


def with_certificates(mosquitto: MosquittoFactory, folder: Path, side: str) -> Shipped:
    """A broker with the shipped file of `side` and an authority of its own; TLS on the local side too."""
    folder.mkdir()
    return shipped(mosquitto, folder, f"{side}.conf", clients=CLIENTS[side], uncomment=True)


def files(side: Shipped, name: str) -> dict[str, str]:
    certs = side.folder / "certs"
    return {
        "ca_file": str(certs / "ca.pem"),
        "cert_file": str(certs / f"{name}.pem"),
        "key_file": str(certs / f"{name}.key"),
    }


def secret(side: Shipped, account: str) -> str:
    return (side.folder / "passwords" / f"{account}.secret").read_text()


def test_a_gateway_between_two_brokers_with_certificates_sends_readings_up_and_commands_down(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local = with_certificates(mosquitto, tmp_path / "local", "local")
    cloud = with_certificates(mosquitto, tmp_path / "cloud", "cloud")
    token = "a-token-that-nobody-may-read"  # noqa: S105 - made up
    (tmp_path / "token").write_text(token)
    config = gateway_config(tmp_path, "unused")
    settings = yaml.safe_load(config.read_text())
    settings |= {
        "gateway": {"id": "plant-7", "data_dir": "data"},
        "local": {"url": f"mqtts://localhost:{local.ports[8885]}", "tls": files(local, "gateway")},
        "cloud": {
            "url": f"mqtts://localhost:{cloud.ports[8883]}",
            "tls": files(cloud, "plant-7"),
            "format": "event",
            "downlink": [{"topic": "commands/plant-7/{device}/power", "to": "cmnd/{device}/POWER"}],
        },
        "http": settings["http"] | {"token_file": "token"},
        "log": {"level": "debug"},
    }
    settings["routes"][0] |= {"topic": "sensors/{device}/{quantity}"}
    config.write_text(yaml.safe_dump(settings))

    receiver = join(cloud.ports[1883], "rx", "receiver", secret(cloud, "receiver"))
    receiver.subscribe("gateway/plant-7/up/#")
    operator = join(
        cloud.ports[1883],
        "op",
        "operator",
        secret(cloud, "operator"),
        protocol=MQTTProtocolVersion.MQTTv5,
    )
    device = join(
        local.ports[8883], "hall-1", secure=local.tls("hall-1"), protocol=MQTTProtocolVersion.MQTTv5
    )
    device.subscribe("cmnd/hall-1/#")
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()  # before the subscription stands the broker drops what is published
        for link in ("downlink", "downlink-local"):
            wait_until(lambda link=link: f"{link}: connected" in gateway.log(), link)
        assert device.publish("sensors/hall-2/temperature", b'{"v": 2}') == "Not authorized"
        assert not device.publish("sensors/hall-1/temperature", b'{"v": 1}').is_failure
        assert receiver.next()[0] == "gateway/plant-7/up/event/sensors/hall-1/temperature"
        assert not operator.publish("commands/plant-7/hall-1/power", b"ON").is_failure
        assert device.next()[:2] == ("cmnd/hall-1/POWER", b"ON")
        assert operator.publish("gateway/plant-7/up/event/x", b"forged") == "Not authorized"
        assert gateway.stop() == 0
        said = gateway.log()
    for peer in (device, operator, receiver):
        peer.leave()
    assert token not in said
    assert "PRIVATE KEY" not in said


def test_another_gateways_commands_are_not_delivered(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    cloud = with_certificates(mosquitto, tmp_path / "cloud", "cloud")
    gateway = join(cloud.ports[8883], "plant-7", secure=cloud.tls("plant-7"))
    gateway.subscribe("commands/#")
    operator = join(cloud.ports[1883], "op", "operator", secret(cloud, "operator"))

    operator.publish("commands/plant-8/hall-1/power", b"OFF")
    operator.publish("commands/plant-7/hall-1/power", b"ON")

    assert gateway.next()[:2] == ("commands/plant-7/hall-1/power", b"ON")
    gateway.leave()
    operator.leave()


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_no_secret_stands_in_what_check_prints(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "password").write_text("of-the-cloud")
    (tmp_path / "token").write_text("of-the-page-which-nobody-sees")
    more: dict[str, Any] = {
        "local": {"url": "mqtt://127.0.0.1:9", "username": "u", "password": "of-the-devices"},
        "cloud": {"url": "mqtt://127.0.0.1:9", "username": "u", "password_file": "password"},
        "http": {"listen": f"{HOST}:{free_port()}", "token_file": "token"},
    }
    config = gateway_config(tmp_path, "unused", **more)
    done = commands.gateway("check", "-c", config, *arguments)
    assert "g1" in done.stdout
    assert "of-the" not in done.stdout + done.stderr, json.dumps(done.stdout)
