"""Every command that needs a configuration finds gateway.yaml where it is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.buffers import append, events, opened
from tests.support.commands import gateway
from tests.support.gateways import gateway_config

COMMANDS = (
    *("check", "buffer stats", "buffer list", "buffer audit", "buffer verify", "buffer export"),
    *("buffer retry --all", "buffer drop --all --yes", "buffer forward --all", "buffer compact"),
    *("buffer adopt --yes", "buffer backup", "replay --input events.ndjson"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_reads_gateway_yaml_where_it_is_given_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    gateway_config(tmp_path, "mqtt://127.0.0.1:9")
    (tmp_path / "events.ndjson").touch()
    (tmp_path / "data").mkdir()
    with opened(tmp_path / "data" / "events.db") as store:
        append(store, events(5))
    monkeypatch.chdir(tmp_path)
    done = gateway(*command.split())
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["clock status", "clock devices", "buffer restore"])
def test_a_command_without_its_gateway_or_backup_says_so_and_not_that_it_needs_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    gateway_config(tmp_path, "mqtt://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    done = gateway(*command.split())
    assert done.returncode == 1
    assert "--config" not in done.stderr
