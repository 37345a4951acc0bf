"""A damaged file that a command reads: said without a traceback, and to the gateway that runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.buffer.repair.damage import noted_damage
from tests.support.buffers import append, events, opened, sql
from tests.support.commands import gateway
from tests.support.gateways import gateway_config


@pytest.mark.parametrize("command", ["audit", "list", "stats"])
def test_damage_that_a_command_reads_is_said_and_noted(tmp_path: Path, command: str) -> None:
    config = gateway_config(tmp_path, "mqtt://127.0.0.1:9")
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "events.db"
    with opened(path) as store:
        append(store, events(500))
    sql(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    ((page_bytes,),) = sql(path, "PRAGMA page_size")
    content = bytearray(path.read_bytes())
    content[page_bytes:] = b"\xff" * (len(content) - page_bytes)
    path.write_bytes(content)
    done = gateway("buffer", command, "-c", config)
    assert done.returncode == 1
    assert "is damaged" in done.stderr
    assert "malformed" in noted_damage(path)
