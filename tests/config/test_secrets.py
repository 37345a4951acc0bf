"""No secret is shown, wherever it stands in the configuration and whatever is wrong with it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.host.logs import set_up_logging
from tests.conftest import MosquittoFactory
from tests.deployment.test_mosquitto import shipped
from tests.support.gateways import GatewayProcess, gateway_config, wait_until

SECRET = "hunter2-which-nobody-may-read"  # noqa: S105 - made up

BASE = """\
gateway: {id: g1, data_dir: data}
routes: [{name: sensors, topic: "sensors/{device}"}]
"""
# What a person could write: the right ways, and the slips.
SOUND = {
    "a password": f"local: {{url: mqtt://127.0.0.1, username: u, password: {SECRET}}}",
    "a file": "local: {url: mqtt://127.0.0.1, username: u, password_file: secret}",
    "a variable": "cloud: {url: mqtts://cloud.example, username: u, password: '${SECRET}'}",
    "a token": f"http: {{token: {SECRET}}}",
    "a token's file": "http: {token_file: secret}",
    "without a user": f"local: {{url: mqtt://127.0.0.1, password: {SECRET}}}",
}
FAULTY = {
    "in a URL": f"cloud: {{url: 'mqtts://user:{SECRET}@cloud.example'}}",
    "in a URL by a variable": "cloud: {url: 'mqtts://user:${SECRET}@cloud.example'}",
    "in a URL without a scheme": f"cloud: {{url: 'user:{SECRET}@cloud.example'}}",
    "in a URL with a wrong port": f"cloud: {{url: 'mqtts://user:{SECRET}@cloud.example:port'}}",
    "in a URL's query": f"cloud: {{url: 'mqtts://cloud.example?password={SECRET}'}}",
    "under a misspelt key": f"local: {{url: mqtt://127.0.0.1, pasword: {SECRET}}}",
    "as a list": f"local: {{url: mqtt://127.0.0.1, username: u, password: [{SECRET}]}}",
    "as a mapping": f"http: {{token: {{value: {SECRET}}}}}",
    "as a number's place": "buffer: {max_size: '${SECRET}'}",
    "beside its file": f"http: {{token: {SECRET}, token_file: secret}}",
    "in broken YAML": f'local: {{url: mqtt://127.0.0.1, password: "{SECRET}',
    "twice": f"local: {{url: mqtt://127.0.0.1, password: {SECRET}, password: {SECRET}}}",
}


def said(folder: Path, line: str, command: str, *arguments: str) -> tuple[int, str]:
    """Exit code and words of `gateway COMMAND` with a configuration that has this line."""
    (folder / "secret").write_text(SECRET)
    file = folder / "gateway.yaml"
    file.write_text(BASE + line + "\n")
    done = CliRunner().invoke(app, [command, "-c", str(file), *arguments], env={"SECRET": SECRET})
    return done.exit_code, done.stdout + done.stderr


@pytest.mark.parametrize("line", SOUND.values(), ids=SOUND)
def test_check_shows_no_secret_of_a_sound_configuration(tmp_path: Path, line: str) -> None:
    for arguments in ([], ["--json"]):
        code, words = said(tmp_path, line, "check", *arguments)
        assert code == 0, words
        assert SECRET not in words


@pytest.mark.parametrize("line", FAULTY.values(), ids=FAULTY)
def test_a_problem_is_named_without_the_secret(tmp_path: Path, line: str) -> None:
    for command, arguments in (("check", []), ("check", ["--json"]), ("run", [])):
        code, words = said(tmp_path, line, command, *arguments)
        assert code == 1, words
        assert SECRET not in words


def test_a_gateway_that_two_brokers_refuse_tells_no_password_in_log_page_or_metrics(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    port = shipped(mosquitto, tmp_path, "local.conf").ports[1883]
    (tmp_path / "secret").write_text(SECRET)
    peer = {"url": f"mqtt://127.0.0.1:{port}", "username": "gateway"}
    settings: dict[str, Any] = {
        "local": peer | {"password": SECRET},
        "cloud": peer | {"password_file": "secret"},
        "log": {"level": "debug"},
    }
    with GatewayProcess(gateway_config(tmp_path, "unused", **settings)) as gateway:
        for link in ("ingest", "bridge-0"):
            wait_until(
                lambda link=link: f"{link}: no connection to 127.0.0.1:{port}: " in gateway.log(), link
            )
        wait_until(lambda: gateway.get("/metrics"), "the page")
        told = [gateway.get(path) for path in ("/metrics", "/api/state", "/readyz")]
        assert gateway.stop() == 0
        assert all(told[:2])
        assert SECRET not in gateway.log() + "".join(map(str, told))


@pytest.mark.parametrize(("level", "shown"), [("debug", ["a word"]), ("warning", [])])
def test_values_of_statements_are_in_no_log(
    level: str, shown: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    handlers, root_level = root.handlers[:], root.level
    try:
        set_up_logging(level, "json")
        logging.getLogger("peewee").debug("('INSERT …', ['a secret'])")
        logging.getLogger("asyncio").info("nothing that matters")
        logging.getLogger("gateway").debug("a word")
    finally:
        root.handlers[:] = handlers
        root.setLevel(root_level)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["message"] for line in lines if line["logger"] == "gateway"] == shown
    assert not any("secret" in line["message"] for line in lines)
    assert level == "debug" or lines == []
