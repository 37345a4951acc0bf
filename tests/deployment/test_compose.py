"""The Compose setup as a whole: what is published arrives once, whatever happens to the containers.

Runs on request (GATEWAY_COMPOSE_TEST=1, or `make compose-test`, which also builds the image): it needs a
Docker engine on this machine, Compose, and the images GATEWAY_IMAGE and MOSQUITTO_IMAGE.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.support.composed import (
    DEVICES,
    Fleet,
    Project,
    assert_all_arrived_once,
    compose_project,
    docker,
    needs_image,
    wait_for,
)

BATCH = 500
KILLED = 137
SHIPPED_SERVICES = ("local-broker", "cloud-broker", "gateway", "receiver")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    yield from compose_project(tmp_path)


@pytest.fixture
def running(project: Project) -> Project:
    """The project with brokers, gateway and receiver up and ready."""
    return start(project)


@pytest.fixture
def fleet(running: Project) -> Iterator[Fleet]:
    fleet = Fleet(running)
    yield fleet
    fleet.leave()


def start(project: Project) -> Project:
    project.up(*SHIPPED_SERVICES)
    project.wait_until_ready()
    # What the cloud broker takes before the receiver's first subscription goes to nobody.
    wait_for(lambda: "subscribed to" in project.run("logs", "receiver"))
    return project


def kill(container: str) -> None:
    """End the container's process as a crash would, and see that it is so."""
    docker("kill", "-s", "KILL", container)
    assert docker("wait", container).strip() == str(KILLED)


@pytest.mark.parametrize("service", ["gateway", "cloud-broker"])
def test_every_event_arrives_once_although_a_container_is_killed_while_they_flow(
    running: Project, fleet: Fleet, service: str
) -> None:
    fleet.publish(BATCH)
    kill(running.container(service))
    fleet.publish(BATCH)
    running.run("start", service)
    fleet.publish(BATCH)
    assert_all_arrived_once(running, fleet)


@pytest.mark.parametrize("service", ["gateway", "cloud-broker"])
def test_every_event_arrives_once_although_a_container_hangs_for_a_while(
    running: Project, fleet: Fleet, service: str
) -> None:
    container = running.container(service)
    fleet.publish(BATCH)
    docker("pause", container)
    fleet.publish(BATCH)
    assert running.state(service)["State"]["Paused"]
    docker("unpause", container)
    fleet.publish(BATCH)
    assert_all_arrived_once(running, fleet)


@pytest.mark.parametrize("network", ["uplink", "edge"])
def test_every_event_arrives_once_although_the_gateway_loses_a_network(
    running: Project, fleet: Fleet, network: str
) -> None:
    name, container = f"{running.name}_{network}", running.container("gateway")
    fleet.publish(BATCH)
    docker("network", "disconnect", name, container)
    fleet.publish(BATCH)
    assert name not in running.state("gateway")["NetworkSettings"]["Networks"]
    docker("network", "connect", "--alias", "gateway", name, container)
    fleet.publish(BATCH)
    assert_all_arrived_once(running, fleet)


def test_a_small_disk_that_gets_full_holds_messages_back_and_loses_none(project: Project) -> None:
    tmpfs = {"type": "tmpfs", "device": "tmpfs", "o": "size=16m,uid=10001"}
    project.override({"volumes": {"gateway-data": {"driver_opts": tmpfs}}})
    fleet = Fleet(start(project))
    fleet.publish(BATCH)

    def is_full() -> bool:  # again and again, for the gateway gives up its ballast
        project.inside("gateway", "cat /dev/zero >>/data/filler || true")
        fleet.publish(DEVICES)
        return project.get("/readyz")[0] == 503

    wait_for(is_full, lambda: project.get("/api/buffer")[1])
    fleet.publish(BATCH)
    assert len(project.received()) < len(fleet.sent)
    project.inside("gateway", "rm /data/filler")

    fleet.publish(BATCH)
    assert_all_arrived_once(project, fleet)
    fleet.leave()


def test_every_event_arrives_once_although_the_gateway_is_killed_for_want_of_memory(project: Project) -> None:
    limit = "300m"
    project.override({"services": {"gateway": {"mem_limit": limit, "memswap_limit": limit}}})
    fleet = Fleet(start(project))
    fleet.publish(BATCH)

    before = project.state("gateway")["State"]["StartedAt"]
    # Files of a tmpfs count as memory of the container; the largest process is what the kernel then ends.
    container = project.container("gateway")
    docker("exec", "-d", container, "sh", "-c", "cat /dev/zero >/tmp/filler")
    wait_for(lambda: project.state("gateway")["State"]["StartedAt"] != before)
    events = docker("events", "--since", before, "--until", "0s", "--filter", f"container={container}")
    assert f"exitCode={KILLED}" in events
    assert " oom " in events
    fleet.publish(BATCH)

    assert_all_arrived_once(project, fleet)
    fleet.leave()


def test_it_stops_within_ten_seconds_with_the_cloud_away_and_everything_safe(
    running: Project, fleet: Fleet
) -> None:
    docker("pause", running.container("cloud-broker"))
    fleet.publish(BATCH)
    docker("stop", "--time", "10", running.container("gateway"))  # then it is killed
    assert running.state("gateway")["State"]["ExitCode"] == 0
    fleet.publish(BATCH)
    docker("unpause", running.container("cloud-broker"))
    running.run("start", "gateway")
    assert_all_arrived_once(running, fleet)


def test_every_profile_but_monitoring_runs_without_root_rights_or_a_writable_root(project: Project) -> None:
    project.up("gateway", "fleet", "receiver", "cloud-broker")
    project.wait_until_ready()
    wait_for(lambda: len(project.received()) > 100, lambda: project.run("logs", "fleet"))
    for service in ("local-broker", "cloud-broker", "gateway", "fleet", "receiver"):
        assert_has_no_rights(project, service)
    missing = (
        "import gateway.http.assets as a, gateway.pipeline.plugins_loader as p, gateway.decode.presets as s\n"
    )
    missing += "assert 'index.html' in a.Assets()._assets; assert 'stats' in p.find_plugins(); print('here')"
    python = f'/opt/gateway/bin/python -c "{missing}"'
    assert project.inside("gateway", python).strip() == "here"


def assert_has_no_rights(project: Project, service: str) -> None:
    """It is not root, has no capability and cannot get any, and cannot write to its own root."""
    assert project.inside(service, "id -u").strip() != "0"
    status = dict(line.split(":\t") for line in project.inside(service, "cat /proc/1/status").splitlines())
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert "Read-only" in project.inside(service, "touch /file /opt/file /etc/file 2>&1 || true")


def is_healthy(project: Project, service: str) -> bool:
    return bool(project.state(service)["State"]["Health"]["Status"] == "healthy")


def test_two_gateways_that_share_the_messages_bring_each_up_once(project: Project) -> None:
    project.up("local-broker", "cloud-broker", "gateway-a", "gateway-b", "receiver")
    for service in ("gateway-a", "gateway-b"):
        wait_for(partial(is_healthy, project, service), lambda: project.run("logs"))
    fleet = Fleet(project)
    fleet.publish(BATCH)
    kill(project.container("gateway-a"))
    fleet.publish(BATCH)
    project.run("start", "gateway-a")
    assert_all_arrived_once(project, fleet, gateways=2)
    fleet.leave()


def test_prometheus_reads_the_metrics_and_the_rules(project: Project) -> None:
    image = os.environ.get("PROMETHEUS_IMAGE", "prom/prometheus:v2.55.1")
    needs_image(image, "docker/prometheus.Dockerfile builds one")
    start(project).up("prometheus")

    def ask(path: str) -> str:
        url = f"http://127.0.0.1:{project.ports['PROMETHEUS_PORT']}/api/v1/{path}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.dumps(json.load(answer)["data"])

    def is_scraped() -> bool:
        try:
            return '"health": "up"' in ask("targets")
        except OSError:
            return False

    wait_for(is_scraped, lambda: project.run("logs", "prometheus"))
    wait_for(partial(is_healthy, project, "prometheus"))
    assert_has_no_rights(project, "prometheus")
    assert ask("rules").count('"type": "alerting"') == 15
    assert '"health": "err"' not in ask("rules")


def test_an_older_image_is_replaced_with_a_backlog_and_nothing_is_lost(project: Project) -> None:
    older = os.environ.get("GATEWAY_OLD_IMAGE")
    if not older:
        pytest.skip("GATEWAY_OLD_IMAGE names no image of an earlier version")
    project.variables["GATEWAY_IMAGE"] = older
    settings = project.folder / "docker" / "config" / "gateway.yaml"
    current = settings.read_text()
    settings.write_text(in_older_words(current))
    fleet = Fleet(start(project))
    fleet.publish(BATCH)
    docker("pause", project.container("cloud-broker"))
    fleet.publish(BATCH)  # in the older version's buffer
    docker("stop", project.container("gateway"))
    docker("unpause", project.container("cloud-broker"))
    wait_for(partial(is_healthy, project, "cloud-broker"))
    del project.variables["GATEWAY_IMAGE"]
    settings.write_text(current)
    start(project)
    assert "events.db.v" in project.inside("gateway", "ls /data"), project.run("logs", "gateway")
    assert_all_arrived_once(project, fleet)
    fleet.leave()


def in_older_words(text: str) -> str:
    """A configuration without the settings that the first versions did not have."""
    config = yaml.safe_load(text)
    del config["cloud"]["audit"]
    config["http"] = {"listen": config["http"]["listen"]}
    return yaml.safe_dump(config)
