"""SIGHUP: what was taken up is said, and nothing that stands in the file ends a running gateway."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import yaml

from gateway.cli.run import _load_again
from gateway.config import load_config
from gateway.config.differences import changed_keys
from tests.support.gateways import HOST, GatewayProcess, gateway_config, wait_until

NOBODY = f"mqtt://{HOST}:9"
PLUGIN = "import sys\n\n\nclass Plugin:\n    pass\n\n\nsys.exit(3)\n"


def changed(config: Path, **sections: object) -> None:
    settings = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(settings | sections))


def test_a_configuration_that_cannot_be_read_does_not_end_a_running_gateway(tmp_path: Path) -> None:
    config = gateway_config(tmp_path, NOBODY)
    sound = config.read_text()
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "leaver.py").write_text(PLUGIN)
    deep = {"name": "deep", "topic": "deep/{d}", "fields": {"v": "(" * 2000 + "a" + ")" * 2000}}
    window = {"name": "w", "route": "sensors", "field": "v", "plugin": "leaver"}
    with GatewayProcess(config) as gateway:
        wait_until(lambda: gateway.get("/healthz"), "the start")

        def refuses(times: int) -> None:
            gateway.reload()
            said = ("is not reloaded", "the old one stays active")
            wait_until(lambda: sum(gateway.log().count(each) for each in said) == times, "it says so")
            wait_until(lambda: gateway.get("/healthz"), "it runs")

        changed(config, routes=[*yaml.safe_load(sound)["routes"], deep])
        refuses(1)
        assert "nested too deeply" in gateway.log()
        config.unlink()
        os.mkfifo(config)
        refuses(2)
        assert "not a regular file" in gateway.log()
        config.unlink()
        config.write_text(sound)
        changed(config, windows=[window | {"window": {"type": "tumbling", "size": "1m"}}])
        refuses(3)
        assert "SystemExit" in gateway.log()
        config.write_text(sound)
        changed(config, buffer={"checkpoint_interval": "1s"})
        gateway.reload()
        wait_until(lambda: "reloaded; changed: buffer.checkpoint_interval" in gateway.log(), "what changed")
        wait_until(lambda: gateway.get("/healthz"), "it runs")
        assert gateway.stop() == 0


def test_what_changed_is_named_by_its_keys_and_never_by_its_values(tmp_path: Path) -> None:
    config = gateway_config(tmp_path, NOBODY)
    before = load_config(config)
    settings = yaml.safe_load(config.read_text())
    settings["local"] |= {"username": "u", "password": "hunter2-hunter2"}
    settings["windows"][0]["window"]["size"] = "2m"
    settings["windows"].append(settings["windows"][0] | {"name": "second"})
    settings["cloud"] = {"url": NOBODY}
    config.write_text(yaml.safe_dump(settings))
    assert changed_keys(before, before) == []
    found = changed_keys(before, load_config(config))
    assert {*found} >= {"local.username", "local.password", "windows.second", "cloud"}
    assert any(name.startswith("windows.minute.window") for name in found)
    assert "hunter2" not in " ".join(found)


@pytest.mark.parametrize("alone", [True, False])
def test_an_unchanged_file_is_said_and_one_that_is_mounted_alone_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, alone: bool
) -> None:
    config = gateway_config(tmp_path, NOBODY)
    before = load_config(config)
    monkeypatch.setattr("gateway.cli.run.os.path.ismount", lambda _: alone)
    monkeypatch.setattr("gateway.cli.run.set_up_logging", lambda *_: None)
    with caplog.at_level(logging.INFO):
        found = _load_again(config, before)
    assert found is not None
    assert found.config == before
    assert "has not changed" in caplog.text
    assert ("mount its folder instead" in caplog.text) == alone
