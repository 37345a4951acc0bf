"""A gateway with another id on an existing buffer: refused, or taken over by `gateway buffer adopt`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.conftest import MosquittoFactory
from tests.support.buffers import opened, sql
from tests.support.commands import gateway
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import Watcher, publish

NOBODY = "mqtt://127.0.0.1:9"


def renamed(config: Path, gateway_id: str, **more: object) -> Path:
    settings = yaml.safe_load(config.read_text())
    settings["gateway"]["id"] = gateway_id
    config.write_text(yaml.safe_dump(settings | more))
    return config


def has_session(port: int, client_id: str) -> bool:
    """Whether the broker keeps a session of that name; it stays as it is."""
    present: list[bool] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=False)
    client.on_connect = lambda *found: present.append(found[2].session_present)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        wait_until(lambda: present, "the broker's answer")
    finally:
        client.disconnect()
        client.loop_stop()
    return present[0]


def test_another_id_is_refused_until_the_buffer_is_adopted_and_then_the_backlog_arrives(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local, cloud = mosquitto(), mosquitto()
    config = gateway_config(tmp_path, local.url, NOBODY)
    with GatewayProcess(config) as first:
        first.wait_ready()
        publish(local.port, [(f"sensors/d{n}", b'{"v": 1}') for n in range(30)])
        first.stop()
    buffer = tmp_path / "data" / "events.db"
    ids = sql(buffer, "SELECT value FROM meta WHERE name = 'buffer_id'")

    renamed(config, "g2", cloud={"url": cloud.url, "format": "event"})
    refused = gateway("run", "-c", config)
    assert refused.returncode == 1
    assert "belongs to the gateway 'g1', not to 'g2'" in refused.stderr
    assert "gateway buffer adopt" in refused.stderr
    assert gateway("buffer", "compact", "-c", config).returncode == 1

    local.stop()
    unreachable = gateway("buffer", "adopt", "-c", config, "--yes")
    assert unreachable.returncode == 1
    assert "nothing was changed" in unreachable.stderr
    local.start()
    done = json.loads(gateway("buffer", "adopt", "-c", config, "--yes", "--json").stdout)
    assert done == {"before": "g1", "ended_session": "gateway-g1", "live": False}
    assert not has_session(local.port, "gateway-g1")
    assert sql(buffer, "SELECT value FROM meta WHERE name = 'buffer_id'") != ids

    with Watcher(cloud.port, "gateway/g2/up/event/sensors/#") as arrived, GatewayProcess(config) as second:
        wait_until(lambda: len({m.topic for m in arrived.messages}) == 30, "the backlog under the new id")
        second.stop()
        assert not second.audit().problems


@pytest.mark.parametrize("owner", ["", "g1"])
def test_ones_own_and_an_older_buffer_need_no_adoption(tmp_path: Path, owner: str) -> None:
    config = gateway_config(tmp_path, NOBODY)
    (tmp_path / "data").mkdir()
    buffer = tmp_path / "data" / "events.db"
    with opened(buffer) as store, store.transaction():
        if owner:
            store.identity.belong_to(owner)
    assert gateway("buffer", "compact", "-c", config).returncode == 0
    with opened(buffer) as store:
        assert store.identity.gateway_id == "g1"


def test_a_damaged_owner_locks_nobody_out(tmp_path: Path) -> None:
    config = gateway_config(tmp_path, NOBODY)
    (tmp_path / "data").mkdir(exist_ok=True)
    buffer = tmp_path / "data" / "events.db"
    with opened(buffer) as store, store.transaction():
        store.identity.belong_to("g1")
    sql(buffer, "UPDATE meta SET value = replace(value, 'g1', 'g3') WHERE name = 'gateway_id'")
    assert gateway("buffer", "compact", "-c", config).returncode == 0
