"""A Compose project of its own for a test, a fleet that publishes through it, and the receiver's count."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
import yaml
from paho.mqtt.enums import CallbackAPIVersion

from tests.support.places import ROOT
from tests.support.ports import free_port

GATEWAY_IMAGE = os.environ.get("GATEWAY_IMAGE", "edge-gateway:latest")
MOSQUITTO_IMAGE = os.environ.get("MOSQUITTO_IMAGE", "eclipse-mosquitto:2")
PORTS = ("LOCAL_PORT", "LOCAL_WS_PORT", "CLOUD_PORT", "CLOUD_TLS_PORT", "HTTP_PORT", "PROMETHEUS_PORT")
CERTIFICATES = ("edge-1", "edge-1-a", "edge-1-b")
DEVICES = 20
DEADLINE_S = 180.0


@dataclass
class Project:
    """One Compose project on a copy of the shipped files."""

    folder: Path
    program: Sequence[str]
    name: str
    ports: Mapping[str, int]
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str) -> str:
        """Compose with every profile known; returns what it printed."""
        files = ["-f", str(self.folder / "docker" / "compose.yaml")]
        if (override := self.folder / "docker" / "override.yaml").exists():
            files += ["-f", str(override)]
        profiles = [
            word for each in ("receiver", "fleet", "monitoring", "scale") for word in ("--profile", each)
        ]
        ports = {name: str(port) for name, port in self.ports.items()}
        return program(
            *self.program,
            *("-p", self.name),
            *files,
            *profiles,
            *arguments,
            environment={**ports, **self.variables},
        )

    def up(self, *services: str) -> None:
        """Start `services` and what they depend on."""
        self.run("up", "-d", "--no-build", *services)

    def override(self, settings: Mapping[str, Any]) -> None:
        """Settings that this test lays over those of compose.yaml."""
        (self.folder / "docker" / "override.yaml").write_text(yaml.safe_dump(settings))

    def container(self, service: str) -> str:
        return self.run("ps", "-a", "-q", service).strip()

    def inside(self, service: str, script: str) -> str:
        """What a shell script prints inside of a service's container, as the user that it runs as."""
        return docker("exec", self.container(service), "sh", "-c", script)

    def state(self, service: str) -> dict[str, Any]:
        """What the engine says of the service's container."""
        found: dict[str, Any] = json.loads(docker("inspect", self.container(service)))[0]
        return found

    def received(self) -> list[dict[str, Any]]:
        """The raw events that the receiver has written."""
        text = self.run("exec", "-T", "receiver", "sh", "-c", "cat /data/received.ndjson || true")
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if line["kind"] == "raw"]

    def verdict(self) -> dict[str, Any]:
        """What `gateway receive --verify` says of all that was received (a copy: the file is in use)."""
        copy = "rm -rf /tmp/copy; mkdir /tmp/copy; cp /data/received.ndjson* /tmp/copy/"
        verify = "gateway receive --verify --json --output /tmp/copy/received.ndjson || true"
        verdict: dict[str, Any] = json.loads(self.inside("receiver", f"{copy}; {verify}"))["verify"]
        return verdict

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a page of the gateway; 0 where nothing answers."""
        token = (self.folder / "mosquitto" / "passwords" / "http-token.secret").read_text().strip()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['HTTP_PORT']}{path}", headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - http
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read().decode()
        except OSError:
            return 0, ""

    def wait_until_ready(self) -> None:
        """Until the gateway has its subscription: its session then outlives it."""
        wait_for(lambda: self.get("/readyz")[0] == 200, lambda: self.run("logs", "gateway"))


class Fleet:
    """A client that may speak for every device, and what the broker has acknowledged to it."""

    def __init__(self, project: Project) -> None:
        self.sent: list[mqtt.MQTTMessageInfo] = []
        self._paho = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="test-fleet")
        secret = (project.folder / "mosquitto" / "passwords" / "fleet.secret").read_text()
        self._paho.username_pw_set("fleet", secret)
        self._paho.connect("127.0.0.1", project.ports["LOCAL_PORT"])
        self._paho.loop_start()

    def publish(self, count: int) -> None:
        """Publish `count` more readings, spread over the devices, and wait for their PUBACKs."""
        for number in range(len(self.sent), len(self.sent) + count):
            topic = f"sensors/d{number % DEVICES}/temperature"
            self.sent.append(self._paho.publish(topic, str(number), qos=1))
        for each in self.sent[-count:]:
            each.wait_for_publish(DEADLINE_S)
            assert each.is_published()

    def leave(self) -> None:
        self._paho.disconnect()
        self._paho.loop_stop()


def wait_for(condition: Callable[[], bool], report: Callable[[], str] = str) -> None:
    """Until `condition` holds; at the deadline a failure with the words of `report`."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, report()
        time.sleep(0.5)


def program(*command: str, environment: Mapping[str, str] | None = None) -> str:
    """Standard output of a program that must succeed."""
    done = subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def docker(*arguments: str) -> str:
    return program("docker", *arguments)


def needs_image(image: str, advice: str) -> None:
    """Skip where `image` is not here and cannot be pulled."""
    if not _succeeds("docker", "image", "inspect", image) and not _succeeds("docker", "pull", image):
        pytest.skip(f"there is no image {image} ({advice})")


def compose_program() -> list[str]:
    """Compose v2, else v1, else a skip; also where the engine or an image is missing."""
    if not os.environ.get("GATEWAY_COMPOSE_TEST"):
        pytest.skip("runs on request: `make compose-test`, or GATEWAY_COMPOSE_TEST=1 with the images built")
    for words in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(words[0]) and _succeeds(*words, "version"):
            break
    else:
        pytest.skip("there is no Docker Compose")
    if not _succeeds("docker", "info"):
        pytest.skip("no Docker engine answers")
    for image in (GATEWAY_IMAGE, MOSQUITTO_IMAGE):
        needs_image(image, "`make compose-build`")
    return words


def _succeeds(*command: str) -> bool:
    done = subprocess.run(command, capture_output=True, check=False, timeout=DEADLINE_S)
    return done.returncode == 0


def compose_project(folder: Path) -> Iterator[Project]:
    """A project in `folder`, with nothing started; it and its volumes are gone afterwards."""
    words = compose_program()
    for part in ("docker", "mosquitto", "plugins"):
        shutil.copytree(
            ROOT / part, folder / part, ignore=shutil.ignore_patterns("passwords", "certs", "mounts")
        )
    (folder / "docker" / ".env").unlink(missing_ok=True)  # the test's own variables count
    program("sh", str(folder / "mosquitto" / "make-passwords.sh"))
    program("sh", str(folder / "mosquitto" / "make-certs.sh"), *CERTIFICATES)
    program("sh", str(folder / "docker" / "make-mounts.sh"))
    for name in ("gateway.yaml", "scale.yaml"):  # the proof of completeness need not wait for a minute
        file = folder / "docker" / "config" / name
        file.write_text(file.read_text().replace("\ncloud:\n", "\ncloud:\n  audit: 1s\n"))
    ports = {name: free_port() for name in PORTS}
    project = Project(folder, words, f"gateway-test-{uuid.uuid4().hex[:8]}", ports)
    try:
        yield project
    finally:
        project.run("down", "--volumes", "--timeout", "5")


def assert_all_arrived_once(project: Project, fleet: Fleet, *, gateways: int = 1) -> None:
    """Every reading that was acknowledged to the fleet is at the receiver, once, and the audit proves it.

    Before that one more reading per device passes through, so all is alive.
    """
    fleet.publish(DEVICES)
    expected = list(range(len(fleet.sent)))
    wait_for(lambda: len(project.received()) >= len(expected), lambda: project.run("logs", "--tail", "60"))
    events = project.received()
    assert sorted(event["payload"] for event in events) == expected
    assert len({event["event_id"] for event in events}) == len(events)
    assert_numbers_are_dense(events)
    wait_for(lambda: project.verdict()["complete"], lambda: str(project.verdict()))
    assert len(project.verdict()["gateways"]) == gateways


def assert_numbers_are_dense(events: Sequence[dict[str, Any]]) -> None:
    """Each gateway has numbered each stream's events without a gap, and they came in this order."""
    by_stream = defaultdict(list)
    for event in events:
        by_stream[event["gateway"], event["stream"]].append(event["sequence_num"])
    for stream, numbers in by_stream.items():
        assert numbers == list(range(1, len(numbers) + 1)), stream
