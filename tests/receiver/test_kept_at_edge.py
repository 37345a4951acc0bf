"""`forward: false`: aggregates go up, raw messages stay and are not missing; they come when asked for."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import MosquittoFactory
from tests.receiver.test_proof import KEEPS_ALL, Consumer, numbered
from tests.support import commands
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish


def test_what_stays_at_the_edge_is_declared_and_sent_when_it_is_asked_for(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local, cloud = mosquitto(KEEPS_ALL), mosquitto(KEEPS_ALL)
    path = gateway_config(tmp_path, local.url, cloud={"url": cloud.url, "audit": "500ms"})
    settings = yaml.safe_load(path.read_text())
    settings["routes"][0]["forward"] = False
    path.write_text(yaml.safe_dump(settings))
    consumer = Consumer(cloud, str(tmp_path / "events.ndjson"))
    consumer.once()
    with GatewayProcess(path) as gateway:
        gateway.wait_ready()
        publish(local.port, numbered(0, 200))
        found = consumer.wait_until_audited(gateway, local, 200)
        assert found["complete"], found
        assert found["declared"]["kept"] >= 200
        assert raw_of(tmp_path) == []
        assert gateway.metric('gateway_buffer_events{status="kept"}') >= 200

        options = ("--stream", "sensors/d3", "--from", "1h")
        done = commands.gateway("buffer", "forward", "-c", path, "--json", *options)
        assert json.loads(done.stdout) == {"forwarded": 20, "live": True}
        pending = 'gateway_buffer_events{status="pending"}'
        wait_until(lambda: gateway.metric(pending) == 0, "they are sent")
        deadline_s = time.monotonic() + 30
        while len(raw_of(tmp_path)) < 20:
            assert time.monotonic() < deadline_s, raw_of(tmp_path)
            consumer.once()
        assert sorted(raw_of(tmp_path)) == [*range(3, 200, 10)]
        _, found = consumer.verify()
        assert found["complete"], found


def raw_of(folder: Path) -> list[int]:
    """The raw messages that the receiver has."""
    lines = map(json.loads, (folder / "events.ndjson").read_text().splitlines())
    return [line["payload"]["n"] for line in lines if line["kind"] == "raw"]


@pytest.mark.slow
def test_aggregates_alone_take_a_fraction_of_the_bytes_and_the_receiver_is_complete(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    """20 devices, one reading each every second, for five minutes: 100 aggregates of a minute each."""
    readings = [
        (f"sensors/d{n % 20}", json.dumps({"t": 1_700_000_000_000 + n * 50, "v": n % 97, "n": n}))
        for n in range(6000)
    ]
    sent_bytes = {}
    for forward in (True, False):
        folder = tmp_path / str(forward)
        folder.mkdir()
        local, cloud = mosquitto(KEEPS_ALL), mosquitto(KEEPS_ALL)
        path = gateway_config(folder, local.url, cloud={"url": cloud.url, "audit": "5s"})
        settings = yaml.safe_load(path.read_text())
        settings["routes"][0]["forward"] = forward
        path.write_text(yaml.safe_dump(settings))
        consumer = Consumer(cloud, str(folder / "events.ndjson"))
        consumer.once()
        with GatewayProcess(path) as gateway:
            gateway.wait_ready()
            publish(local.port, readings)
            found = consumer.wait_until_audited(gateway, local, 6000)
            assert found["complete"], found
            assert found["declared"].get("kept", 0) >= (0 if forward else 6000)
            sent_bytes[forward] = gateway.metric("gateway_bridge_wire_bytes_total")
    assert sent_bytes[False] < 0.1 * sent_bytes[True]
