"""The Compose setup as a whole: what is published through it arrives once, whatever happens to the gateway.

Runs on request (GATEWAY_COMPOSE_TEST=1, or `make compose-test`, which also builds the image): it needs a
Docker engine on this machine, Compose, and the images GATEWAY_IMAGE and MOSQUITTO_IMAGE.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from brokers import free_port
from paho.mqtt.enums import CallbackAPIVersion

ROOT = Path(__file__).parents[1]
GATEWAY_IMAGE = os.environ.get("GATEWAY_IMAGE", "edge-gateway:latest")
MOSQUITTO_IMAGE = os.environ.get("MOSQUITTO_IMAGE", "eclipse-mosquitto:2")
PUBLISHED = 2000
DEVICES = 20
ARRIVAL_DEADLINE_S = 180.0
PROGRAM_DEADLINE_S = 180.0


@dataclass
class Project:
    """One Compose project on a copy of the shipped files, with its own ports, secrets and volumes."""

    folder: Path
    program: Sequence[str]
    name: str
    ports: dict[str, int]

    def run(self, *arguments: str) -> str:
        """Compose with the receiver's profile; returns what it printed."""
        compose = (
            "-p",
            self.name,
            "-f",
            str(self.folder / "docker" / "compose.yaml"),
            "--profile",
            "receiver",
        )
        done = subprocess.run(
            [*self.program, *compose, *arguments],
            env={**os.environ, **{name: str(port) for name, port in self.ports.items()}},
            capture_output=True,
            text=True,
            check=False,
            timeout=PROGRAM_DEADLINE_S,
        )
        if done.returncode:
            raise AssertionError(f"compose {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def container(self, service: str) -> str:
        return self.run("ps", "-q", service).strip()

    def received(self) -> list[dict[str, Any]]:
        """The raw events that the receiver has written."""
        text = self.run("exec", "-T", "receiver", "sh", "-c", "cat /data/received.ndjson || true")
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if line["kind"] == "raw"]

    def wait_for_events(self, count: int) -> list[dict[str, Any]]:
        """The raw events at the receiver once there are `count`, or what there is at the deadline."""
        deadline = time.monotonic() + ARRIVAL_DEADLINE_S
        while len(events := self.received()) < count and time.monotonic() < deadline:
            time.sleep(1)
        return events

    def wait_until_ready(self) -> None:
        """Until the gateway has its subscription: its session then outlives it."""
        deadline = time.monotonic() + ARRIVAL_DEADLINE_S
        while not self._is_ready():
            assert time.monotonic() < deadline, self.run("logs", "gateway")
            time.sleep(0.5)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["HTTP_PORT"], timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def compose_program() -> list[str]:
    """Compose v2, else v1, else a skip; also where the engine or an image is missing."""
    if not os.environ.get("GATEWAY_COMPOSE_TEST"):
        pytest.skip("runs on request: `make compose-test`, or GATEWAY_COMPOSE_TEST=1 with the images built")
    for program in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(program[0]) and _succeeds(*program, "version"):
            break
    else:
        pytest.skip("there is no Docker Compose")
    if not _succeeds("docker", "info"):
        pytest.skip("no Docker engine answers")
    for image in (GATEWAY_IMAGE, MOSQUITTO_IMAGE):
        if not _succeeds("docker", "image", "inspect", image) and not _succeeds("docker", "pull", image):
            pytest.skip(f"there is no image {image} (`make compose-build`)")
    return program


def _succeeds(*command: str) -> bool:
    done = subprocess.run(command, capture_output=True, check=False, timeout=PROGRAM_DEADLINE_S)
    return done.returncode == 0


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    program = compose_program()
    for folder in ("docker", "mosquitto", "plugins"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("passwords", "certs"))
    (tmp_path / "docker" / ".env").unlink(missing_ok=True)  # the test's own variables count
    for script in ("make-passwords.sh", "make-certs.sh"):
        subprocess.run(["sh", tmp_path / "mosquitto" / script], check=True, capture_output=True)
    names = ("LOCAL_PORT", "LOCAL_WS_PORT", "CLOUD_PORT", "CLOUD_TLS_PORT", "HTTP_PORT")
    project = Project(
        tmp_path, program, f"gateway-test-{uuid.uuid4().hex[:8]}", {name: free_port() for name in names}
    )
    try:
        yield project
    finally:
        project.run("down", "--volumes", "--timeout", "5")


def fleet(project: Project) -> mqtt.Client:
    """A connected client that may speak for every device."""
    paho = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="test-fleet")
    secret = (project.folder / "mosquitto" / "passwords" / "fleet.secret").read_text()
    paho.username_pw_set("fleet", secret)
    paho.connect("127.0.0.1", project.ports["LOCAL_PORT"])
    paho.loop_start()
    return paho


def publish(paho: mqtt.Client, numbers: range) -> list[mqtt.MQTTMessageInfo]:
    """Start to publish one reading for each number, spread over the devices."""
    return [
        paho.publish(f"sensors/d{number % DEVICES}/temperature", str(number), qos=1) for number in numbers
    ]


def wait_for_acks(sent: Sequence[mqtt.MQTTMessageInfo]) -> None:
    for each in sent:
        each.wait_for_publish(ARRIVAL_DEADLINE_S)


def kill(container: str) -> None:
    """End the container's process as a crash would, and see that it is so."""
    subprocess.run(["docker", "kill", "-s", "KILL", container], check=True, capture_output=True)
    waited = subprocess.run(["docker", "wait", container], check=True, capture_output=True, text=True)
    assert waited.stdout.strip() == "137"


def test_every_event_arrives_once_although_the_gateway_is_killed_while_they_flow(project: Project) -> None:
    project.run("up", "-d", "--no-build")
    project.wait_until_ready()
    gateway = project.container("gateway")
    paho = fleet(project)

    sent = publish(paho, range(PUBLISHED))
    wait_for_acks(sent[: PUBLISHED // 4])
    kill(gateway)  # the fleet goes on
    wait_for_acks(sent[: PUBLISHED // 2])
    project.run("start", "gateway")
    wait_for_acks(sent)
    project.wait_for_events(PUBLISHED)
    wait_for_acks(publish(paho, range(PUBLISHED, PUBLISHED + DEVICES)))  # one more per stream: all is alive

    events = project.wait_for_events(PUBLISHED + DEVICES)
    paho.disconnect()
    paho.loop_stop()
    assert sorted(event["payload"] for event in events) == list(range(PUBLISHED + DEVICES))
    assert len({event["event_id"] for event in events}) == len(events)
    assert_numbers_are_dense(events)


def assert_numbers_are_dense(events: Sequence[dict[str, Any]]) -> None:
    by_stream = defaultdict(list)
    for event in events:
        by_stream[event["stream"]].append(event["sequence_num"])
    assert len(by_stream) == DEVICES
    for stream, numbers in by_stream.items():
        assert numbers == list(range(1, len(numbers) + 1)), stream
