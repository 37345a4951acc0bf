"""A gateway that ran before goes on with its last good configuration, and says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from gateway.app.configuration import Configuration
from gateway.config.load import data_dir_of
from gateway.core.errors import ConfigError
from gateway.host.last_good import LAST_GOOD_FILE
from tests.support.gateways import HOST, GatewayProcess, gateway_config, wait_until

NOBODY = f"mqtt://{HOST}:9"


def problems(gateway: GatewayProcess) -> list[str]:
    state = gateway.get("/api/state")
    return json.loads(state)["gateway"]["problems"] if state else []


def test_a_bad_file_at_the_start_runs_the_last_good_one_and_says_so(tmp_path: Path) -> None:
    config = gateway_config(tmp_path, NOBODY, config={"version": "spring"})
    good = config.read_text()
    with GatewayProcess(config) as gateway:
        wait_until(lambda: gateway.get("/healthz"), "the first start")
        assert gateway.stop() == 0
        config.write_text(f"{good}colour: blue\n")
        gateway.start()
        wait_until(lambda: problems(gateway), "it runs in spite of the file")
        told = json.loads(gateway.get("/api/state") or "")["gateway"]["config"]
        assert told["source"] == "last_good"
        assert told["version"] == "spring"
        assert "gateway.yaml is not in use: " in told["problem"]
        assert told["problem"] in problems(gateway)
        used = f'hash="{told["hash"]}",source="last_good",version="spring"'
        assert gateway.metric(f"gateway_config_info{{{used}}}") == 1
        config.write_text(good)
        gateway.reload()
        wait_until(lambda: '"source":"file"' in (gateway.get("/api/state") or ""), "the mended file")


def test_a_configuration_that_cannot_be_started_gives_way_to_the_last_good_one(tmp_path: Path) -> None:
    config = gateway_config(tmp_path, NOBODY)
    with GatewayProcess(config) as gateway:
        wait_until(lambda: gateway.get("/healthz"), "the first start")
        assert gateway.stop() == 0
        settings = yaml.safe_load(config.read_text())
        (tmp_path / "plugins").mkdir()
        (tmp_path / "plugins" / "leaver.py").write_text("class Plugin:\n    pass\n\n\nraise SystemExit(3)\n")
        settings["windows"][0]["plugin"] = "leaver"
        config.write_text(yaml.safe_dump(settings))
        gateway.start()
        wait_until(
            lambda: any("cannot be started" in each for each in problems(gateway)), "it runs and says why"
        )


@pytest.mark.parametrize("broken", ["gateway: {id: g1, data_dir: data\n", "", "- a list\n", "\0"])
def test_whatever_the_file_holds_the_last_good_one_is_found(tmp_path: Path, broken: str) -> None:
    config = gateway_config(tmp_path, NOBODY)
    first = Configuration(config)
    loaded = first.first()
    loaded.config.gateway.data_dir.mkdir()
    first.started(loaded)
    config.write_text(broken)
    assert Configuration(config).first().config == loaded.config


def test_without_a_last_good_one_a_bad_file_is_an_error(tmp_path: Path) -> None:
    config = gateway_config(tmp_path, NOBODY)
    config.write_text("colour: blue\n")
    with pytest.raises(ConfigError):
        Configuration(config).first()


def test_the_last_good_one_of_another_file_is_not_taken(tmp_path: Path) -> None:
    config = gateway_config(tmp_path, NOBODY)
    first = Configuration(config)
    loaded = first.first()
    loaded.config.gateway.data_dir.mkdir()
    first.started(loaded)
    kept = tmp_path / "data" / LAST_GOOD_FILE
    assert kept.stat().st_mode & 0o777 == 0o600  # it may hold a password
    config.write_text("colour: blue\n")
    other = config.rename(tmp_path / "other.yaml")
    with pytest.raises(ConfigError):
        Configuration(other).first()
    assert Configuration(config).first().config == loaded.config  # the file itself is gone


@pytest.mark.parametrize(
    "text",
    [
        "gateway: {id: x, data_dir: ./here}\nroutes: 7",
        "gateway:\n  data_dir: './here'\n  id: [\n",
        "gateway: {data_dir: ./here, id: ",
    ],
)
def test_the_data_directory_is_found_in_a_file_that_has_problems(text: str, tmp_path: Path) -> None:
    assert data_dir_of(text, tmp_path, {}) == tmp_path / "here"
