"""The configuration over HTTP, and what a reload would change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.gateways import GatewayProcess, gateway_config, wait_until

SECRET = "hush-hush-hush-hush"  # noqa: S105


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, Path]]:
    folder = tmp_path_factory.mktemp("settings")
    local = {"url": "mqtt://127.0.0.1:9", "username": "u", "password": SECRET}
    config = gateway_config(folder, "unused", local=local)
    with GatewayProcess(config) as gateway:
        wait_until(lambda: gateway.get("/healthz"), gateway.log())
        yield gateway, config


@pytest.fixture
def file(running: tuple[GatewayProcess, Path]) -> Iterator[Path]:
    """The file, which is afterwards as it was."""
    before = running[1].read_text()
    yield running[1]
    running[1].write_text(before)


def told(gateway: GatewayProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gateway.get("/api/configuration") or "{}")
    return found


def changed(file: Path, **sections: Any) -> None:
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | sections))


def test_what_is_in_use_is_told_without_its_secrets(running: tuple[GatewayProcess, Path]) -> None:
    text = running[0].get("/api/configuration") or ""
    assert SECRET not in text
    found = json.loads(text)
    values = {line["path"]: line["value"] for line in found["values"]}
    assert (values["local.password"], values["windows.minute.window.size"]) == ("(hidden)", "1m")
    assert found["file"] == str(running[1])
    assert found["reload"]["state"] == "same"


def test_the_plugins_of_windows_are_named_with_their_versions(running: tuple[GatewayProcess, Path]) -> None:
    (plugin,) = [one for one in told(running[0])["plugins"] if one["kind"] == "window"]
    assert (plugin["name"], plugin["used_by"], plugin["state"]) == ("stats", "minute", "in use")
    assert plugin["code"]


def test_a_changed_file_says_what_a_reload_would_change(
    running: tuple[GatewayProcess, Path], file: Path
) -> None:
    changed(file, buffer={"max_size": "3GiB", "checkpoint_interval": "500ms"})
    reload = told(running[0])["reload"]
    assert (reload["state"], reload["keys"]) == ("changed", ["buffer.max_size"])
    assert reload["values"] == [{"path": "buffer.max_size", "before": "2GiB", "after": "3GiB"}]


def test_a_changed_secret_is_named_and_stays_hidden(running: tuple[GatewayProcess, Path], file: Path) -> None:
    local = {"url": "mqtt://127.0.0.1:9", "username": "u", "password": f"{SECRET}-2"}
    changed(file, local=local)
    text = running[0].get("/api/configuration") or ""
    assert SECRET not in text
    assert json.loads(text)["reload"]["keys"] == ["local.password"]


def test_a_file_that_cannot_be_used_is_named_with_its_line(
    running: tuple[GatewayProcess, Path], file: Path
) -> None:
    changed(file, bufer={})
    reload = told(running[0])["reload"]
    assert reload["state"] == "refused"
    assert "bufer" in " ".join(reload["problems"])


def test_warnings_are_those_of_check(running: tuple[GatewayProcess, Path]) -> None:
    assert isinstance(told(running[0])["warnings"], list)
