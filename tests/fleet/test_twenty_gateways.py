"""Twenty gateways, each a process of its own beside a broker of its own, and two receivers of one group."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.core.events import Kind
from gateway.receiver.stored_output import events_of_output
from tests.conftest import MosquittoFactory
from tests.fleet.test_against_gateways import WINDOWS, messages
from tests.fleet.test_fleet_run import fleet_run, results
from tests.proofs.test_end_to_end import drained
from tests.receiver.test_share import start, verified
from tests.support.brokers import Broker
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.postgres import new_database
from tests.support.publishing import publish

psycopg = pytest.importorskip("psycopg")

GATEWAYS = 20
HALF = 150  # messages of each gateway before the faults, and after them; from seven devices, some late
PATIENCE_S = 240.0  # 44 processes share the machine


@contextmanager
def two_receivers(url: str, output: str, folder: Path) -> Iterator[list[Any]]:
    logs = [folder / "one.log", folder / "two.log"]
    members = [start(url, output, log) for log in logs]
    try:
        for log in logs:
            wait_for(partial(says, log, "subscribed to"), "both receive")
        yield members
    finally:
        for one in members:
            one.kill()
            one.wait()


def says(log: Path, words: str) -> bool:
    return words in log.read_text()


def has_stored(gateway: GatewayProcess, count: int) -> bool:
    return len(gateway.raw_payloads()) == count


def wait_for(true: Callable[[], object], what: str) -> None:
    wait_until(true, what, PATIENCE_S)


def raw_rows(output: str) -> tuple[int, int]:
    """Rows of devices' messages, and different ones."""
    with psycopg.connect(output) as connection:
        sql = "SELECT count(*), count(DISTINCT (gateway, payload)) FROM gateway_events WHERE kind = 'raw'"
        found: tuple[int, int] = connection.execute(sql).fetchone()
        return found


def site(folder: Path, number: int, local: Broker, cloud: Broker) -> GatewayProcess:
    (home := folder / f"g{number}").mkdir()
    more: dict[str, Any] = {"gateway": {"id": f"g{number}", "data_dir": "data"}, "windows": WINDOWS}
    uplink = {"url": cloud.url, "audit": "1s", "batch_events": 25}
    return GatewayProcess(gateway_config(home, local.url, cloud=uplink, **more))


@pytest.mark.slow
def test_every_event_is_there_once_and_the_windows_are_the_gateways_own(
    mosquitto: MosquittoFactory, tmp_path: Path, postgres_url: str
) -> None:
    """A receiver is killed in mid-stream, the cloud's broker hangs, and every seventh gateway is killed."""
    output = new_database(postgres_url)
    cloud = mosquitto(["max_queued_messages 100000", "max_inflight_messages 100"])
    locals_ = [mosquitto(["max_queued_messages 100000"]) for _ in range(GATEWAYS)]
    gateways = [site(tmp_path, number, local, cloud) for number, local in enumerate(locals_)]
    with two_receivers(cloud.url, output, tmp_path) as members, ExitStack() as running:
        for gateway in gateways:
            running.enter_context(gateway)
        for gateway in gateways:
            wait_for(partial(gateway.get, "/readyz"), f"{gateway.config} is ready")
        for number, local in enumerate(locals_):
            publish(local.port, messages(0, HALF, number))
        wait_for(lambda: raw_rows(output)[0] > GATEWAYS * HALF // 4, "events at the receivers")
        members[1].kill()
        cloud.pause()
        for gateway in gateways[::7]:
            gateway.kill()
        for number, local in enumerate(locals_):
            publish(local.port, messages(HALF, 2 * HALF, 100 + number))
        for gateway in gateways[::7]:
            gateway.start()
        cloud.resume()
        expected = GATEWAYS * 2 * HALF
        for gateway in gateways:
            wait_for(partial(has_stored, gateway, 2 * HALF), "all is stored")
            wait_for(partial(drained, gateway, 0), "all is sent")
        wait_for(lambda: raw_rows(output) == (expected, expected), "all is received, once")
        wait_for(lambda: verified(output)["complete"], "the proof")

    own = Counter(
        (stored.gateway_id, json.dumps(json.loads(stored.event.payload), sort_keys=True))
        for stored in events_of_output(output)
        if stored.event.kind == Kind.AGGREGATE
    )
    config = tmp_path / "g0" / "gateway.yaml"
    done = fleet_run(config, output, workers=2, more=["--no-flush"])
    report = json.loads(done.stdout)
    assert (done.returncode, report["events"], len(report["gateways"])) == (0, expected, GATEWAYS), report
    found: Counter[tuple[str, str]] = Counter()
    for line in results(config):
        result = json.loads(line)
        name = result.pop("gateway")
        if result["kind"] != "dropped":
            found[name, json.dumps(result, sort_keys=True)] += 1
    assert len(own) > 30 * GATEWAYS
    assert found == own
