"""The files to deploy with: Compose services that can do little harm, and configurations that are sound."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement

from gateway.config import parse_config, warnings_of
from tests.support.places import ROOT

DOCKER = ROOT / "docker"


def services() -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"])


@pytest.mark.parametrize("name", sorted(services()))
def test_a_service_runs_without_rights_on_a_read_only_root_and_its_image_is_a_variable(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[a-z/-]+:[\w.-]+\}", service["image"])


@pytest.mark.parametrize("name", ["gateway", "gateway-a", "gateway-b"])
def test_a_gateway_subscribes_as_soon_as_the_broker_runs(name: str) -> None:
    """What it acknowledges before that is kept for nobody, and its health is asked every ten seconds."""
    assert services()[name]["depends_on"] == {"local-broker": {"condition": "service_started"}}


@pytest.mark.parametrize("name", sorted(services()))
def test_a_service_cannot_take_the_machine_and_its_log_keeps_days(name: str) -> None:
    service = services()[name]
    assert service["mem_limit"]
    assert service["cpus"]
    assert service["pids_limit"]
    options = service["logging"]["options"]
    assert (options["max-file"], options["compress"]) == ("5", "true")


def test_configuration_and_secrets_are_mounted_as_folders() -> None:
    """A file that is mounted alone stays the old one when it is replaced."""
    binds = [
        each["source"] if isinstance(each, dict) else each.split(":")[0]
        for service in services().values()
        for each in service.get("volumes", [])
        if isinstance(each, dict) or each.startswith(".")
    ]
    alone = [each for each in binds if (DOCKER / each).is_file()]
    assert alone == ["./monitoring/grafana-dashboard.json"]  # no secret, and Grafana's folder has more in it
    assert "secrets" not in yaml.safe_load((DOCKER / "compose.yaml").read_text())


def test_the_lock_file_pins_every_dependency_with_hashes() -> None:
    """`make lock` writes it anew."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = ("cbor", "sparkplug", "postgres", "proxy", "evidence")
    wanted = [*project["dependencies"]]
    wanted += [each for extra in extras for each in project["optional-dependencies"][extra]]
    lock = (DOCKER / "requirements.lock").read_text()
    entry = r"^([a-z0-9._-]+)(?:\[\w,]+)?==(\S+)(?: ; ([^\\]+))?(.*?)(?=^[a-z]|\Z)"
    entries = re.findall(entry, lock, re.MULTILINE | re.DOTALL)
    assert [name for name, _, _, rest in entries if "--hash=sha256:" not in rest] == []
    for text in wanted:
        requirement = Requirement(text)
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        pinned = [
            version
            for pin, version, marker, _ in entries
            if pin == name and (not (marker and requirement.marker) or Marker(marker) == requirement.marker)
        ]
        assert pinned, text
        assert all(map(requirement.specifier.contains, pinned)), f"{text} and the lock file's {pinned}"


def test_every_variable_of_compose_stands_in_the_example() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", (DOCKER / "compose.yaml").read_text()))
    known = set(re.findall(r"^([A-Z_]+)=", (DOCKER / ".env.example").read_text(), re.MULTILINE))
    assert used == known - {"COMPOSE_PROJECT_NAME"}


def test_what_is_published_is_published_on_the_loopback_unless_a_variable_opens_it() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert len(ports) > 5
    assert all(port.startswith(("127.0.0.1:", "${LOCAL_BIND:-127.0.0.1}:")) for port in ports)


@pytest.mark.parametrize("name", ["gateway.yaml", "scale.yaml"])
def test_the_configuration_of_a_container_is_sound_and_gives_no_warning_but_of_plain_text(
    tmp_path: Path, name: str
) -> None:
    for secret in ("gateway-password", "http-token", "cloud-ca", "gateway-cert", "gateway-key"):
        (tmp_path / secret).write_text("secret-of-" + secret)
    text = (DOCKER / "config" / name).read_text().replace("/run/secrets", str(tmp_path))
    config = parse_config(text, DOCKER / "config", name, {"GATEWAY_ID": "edge-1"})
    # Inside of the machine's own network of containers.
    assert warnings_of(config) == ("local: the password travels unencrypted; use mqtts://",)


def test_compose_takes_the_file(tmp_path: Path) -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("there is no docker-compose; on Debian: apt-get install docker-compose")
    file = shutil.copytree(DOCKER, tmp_path / "docker") / "compose.yaml"
    done = subprocess.run(
        [program, "-f", str(file), "config", "-q"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
