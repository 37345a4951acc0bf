"""What `fleet run` makes of the events at the receiver is what the gateways themselves have sent up."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MosquittoFactory
from tests.fleet.test_fleet_run import fleet_run, results
from tests.proofs.test_end_to_end import drained, receive, received_events
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish

NAMES = ("g1", "g2", "g3")
DEVICES = 7
WINDOWS = [
    {
        "name": name,
        "route": "sensors",
        "field": "v",
        "key": "{device}",
        "idle_timeout": "1h",
        "allowed_lateness": "20s",
        "out_of_orderness": "1s",
        "publish": {"quality": True},
        **more,
    }
    for name, more in (
        ("grid", {"window": {"type": "tumbling", "size": "10s"}, "watermark": "shared"}),
        ("hops", {"window": {"type": "hopping", "size": "30s", "slide": "10s"}, "plugin": "percentiles"}),
        ("walks", {"window": {"type": "session", "gap": "1500ms"}}),
    )
]


def messages(start: int, end: int, seed: int) -> list[tuple[str, str]]:
    chance = random.Random(seed)
    found = []
    for n in range(start, end):
        late_ms = chance.choice((5_000, 15_000, 60_000)) if chance.random() < 0.1 else 0
        time_ms = 1_790_000_000_000 + 100 * n - late_ms
        found.append((f"sensors/d{n % DEVICES}", json.dumps({"v": chance.random(), "t": time_ms})))
    return found


@pytest.mark.slow
def test_the_aggregates_are_those_of_the_gateways(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    """Three gateways with an odd number of devices and late data; one is killed in the middle."""
    queued = ["max_queued_messages 100000", "max_inflight_messages 1000"]
    cloud = mosquitto(queued)
    output = tmp_path / "received.ndjson"
    receive(cloud.url, output)  # from now on its queue keeps what arrives
    locals_ = [mosquitto(queued) for _ in NAMES]
    gateways = []
    for name, local in zip(NAMES, locals_, strict=True):
        (home := tmp_path / name).mkdir()
        more: dict[str, Any] = {"gateway": {"id": name, "data_dir": "data"}, "windows": WINDOWS}
        gateways.append(GatewayProcess(gateway_config(home, local.url, cloud.url, **more)))
    one, two, three = gateways
    with one, two, three:
        for running in gateways:
            running.wait_ready()
        for seed, local in enumerate(locals_):
            publish(local.port, messages(0, 1000, seed))
        two.kill()
        for seed, local in enumerate(locals_):
            publish(local.port, messages(1000, 2000, 10 + seed))
        two.start()
        two.wait_ready()
        wait_until(lambda: all(len(each.raw_payloads()) == 2000 for each in gateways), "everything stored")
        wait_until(lambda: all(drained(each, 0) for each in gateways), "the drain")
    receive(cloud.url, output)
    own = [
        (event["gateway"], json.dumps(event["payload"], sort_keys=True))
        for event in received_events(output)
        if event["kind"] == "aggregate"
    ]
    config = tmp_path / "g1" / "gateway.yaml"
    done = fleet_run(config, output, workers=2, more=["--no-flush"])
    report = json.loads(done.stdout)
    assert (done.returncode, report["events"], len(report["gateways"])) == (0, 6000, 3), report
    found = []
    for line in results(config):
        result = json.loads(line)
        name = result.pop("gateway")
        if result["kind"] != "dropped":
            found.append((name, json.dumps(result, sort_keys=True)))
    assert len(own) > 500
    assert Counter(found) == Counter(own)
