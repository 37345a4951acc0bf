"""`gateway render`, `gateway config sign` and `gateway support bundle`."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.config import parse_config
from gateway.config.rendering import render
from gateway.core.errors import ConfigError
from gateway.wire.signatures import new_key
from gateway.wire.signed_config import read_signed_config
from tests.support.gateways import HOST, gateway_config

TEMPLATE = """\
gateway: {id: "${SITE}", data_dir: data}
local: {url: "mqtt://${BROKER}:1883", username: gateway, password: "${PASSWORD:-none}"}
routes: [{name: sensors, topic: "sensors/{device}"}]
log: {level: "${LEVEL}"}
"""
SITES = """\
plant-7: {BROKER: 10.0.7.1, LEVEL: info}
plant-8: {BROKER: 10.0.8.1, LEVEL: debug}
"""
SECRET = "hunter2-which-nobody-may-read"  # noqa: S105 - made up


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_one_template_gives_a_sound_configuration_per_site(tmp_path: Path) -> None:
    template, sites, made = tmp_path / "t.yaml", tmp_path / "sites.yaml", tmp_path / "made"
    template.write_text(TEMPLATE)
    sites.write_text(SITES)
    done = run("render", template, "--sites", sites, "-o", made)
    assert done.exit_code == 0, done.output
    assert "2 configurations" in done.output
    found = [parse_config((made / f"plant-{n}.yaml").read_text(), tmp_path, environ={}) for n in (7, 8)]
    assert [(one.gateway.id, one.local.url, one.log.level) for one in found] == [
        ("plant-7", "mqtt://10.0.7.1:1883", "info"),
        ("plant-8", "mqtt://10.0.8.1:1883", "debug"),
    ]
    assert "${PASSWORD:-none}" in (made / "plant-7.yaml").read_text()  # for the gateway's own environment
    one = run("render", template, "--sites", sites, "--site", "plant-8")
    assert one.output == (made / "plant-8.yaml").read_text()


def test_a_place_that_is_no_yaml_must_be_in_quotes() -> None:
    with pytest.raises(ConfigError, match="the template"):
        render("log: {level: ${LEVEL}}\n", {"LEVEL": "info"}, "plant-7")


@pytest.mark.parametrize("value", ["info\nhttp: off\nx: y", "a: b", "# gone", "'"])
def test_a_value_that_would_change_the_structure_is_an_error(value: str) -> None:
    with pytest.raises(ConfigError, match="plant-7"):
        render("log:\n  level: ${LEVEL}\nhttp: {}\n", {"LEVEL": value}, "plant-7")


def test_sites_that_are_no_sites_are_an_error(tmp_path: Path) -> None:
    template, sites = tmp_path / "t.yaml", tmp_path / "sites.yaml"
    template.write_text(TEMPLATE)
    sites.write_text("plant-7: [a]\n")
    assert run("render", template, "--sites", sites, "-o", tmp_path / "made").exit_code == 1
    sites.write_text(SITES)
    assert run("render", template, "--sites", sites, "--site", "plant-9").exit_code == 2
    assert run("render", template, "--sites", sites).exit_code == 2


def test_a_configuration_is_signed_on_the_command_line(tmp_path: Path) -> None:
    private, public = new_key()
    (tmp_path / "fleet.key").write_bytes(private)
    config = gateway_config(tmp_path, f"mqtt://{HOST}:9")
    message = tmp_path / "message.json"
    more = ("--key", tmp_path / "fleet.key", "--version", 3, "--gateway", "g1", "-o", message)
    done = run("config", "sign", config, *more)
    assert done.exit_code == 0, done.output
    found = read_signed_config(message.read_bytes(), "g1", public)
    assert (found.version, found.text) == (3, config.read_text())


@pytest.mark.parametrize("sound", [True, False])
def test_a_support_bundle_has_what_helps_and_no_secret(tmp_path: Path, sound: bool) -> None:
    config = gateway_config(tmp_path, f"mqtt://{HOST}:9", None if sound else "")
    (tmp_path / "secret").write_text(SECRET)
    text = config.read_text().replace("local:\n", f"local:\n  username: u\n  password: {SECRET}\n")
    config.write_text(text)
    output = tmp_path / "bundle.tar.gz"
    done = run("support", "bundle", "-c", config, "-o", output)
    assert done.exit_code == 0, done.output
    with tarfile.open(output) as archive:
        parts = {each.name: archive.extractfile(each).read().decode() for each in archive}  # type: ignore[union-attr]
    assert not [name for name, content in parts.items() if SECRET in content]
    told = json.loads(parts["gateway-support/config.json"])
    assert ("config" in told) == sound
    assert "mqtt-edge-gateway" in parts["gateway-support/packages.txt"]
    assert output.stat().st_mode & 0o777 == 0o600


def test_a_support_bundle_has_no_secret_of_the_environment_nor_of_a_configuration_that_ran_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "s.from-the-environment")
    quoted = 'with "quotes" and \\ and ü'
    config = gateway_config(tmp_path, f"mqtt://{HOST}:9")
    text = config.read_text()
    command = "local:\n  username: u\n  password: {command: 'vault read -field=x ${VAULT_TOKEN}'}\n"
    config.write_text(text.replace("local:\n", command))
    data = tmp_path / "data"
    data.mkdir()
    old = text.replace("local:\n", f"local:\n  username: u\n  password: {json.dumps(quoted)}\n")
    (data / "last-good.yaml").write_text(old)
    parts = {"log.jsonl": json.dumps({"message": f"refused {quoted}"}), "state.json": f"as it is: {quoted}"}
    output = tmp_path / "bundle.tar.gz"
    monkeypatch.setattr("gateway.cli.support._fetched", lambda *_: "".join(parts.values()))
    done = run("support", "bundle", "-c", config, "-o", output)
    assert done.exit_code == 0, done.output
    with tarfile.open(output) as archive:
        whole = "".join(archive.extractfile(each).read().decode() for each in archive)  # type: ignore[union-attr]
    assert "refused" in whole
    assert "from-the-environment" not in whole
    assert "quotes" not in whole


def test_a_site_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("gateway: {id: x}\n")
    (tmp_path / "sites.yaml").write_text("../outside: {A: 1}\n")
    done = run("render", tmp_path / "t.yaml", "--sites", tmp_path / "sites.yaml", "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "no name of a file" in " ".join(done.output.split())
    assert not (tmp_path / "outside.yaml").exists()
