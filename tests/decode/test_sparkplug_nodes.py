"""Real edge nodes of Sparkplug B: their metrics come under their names, whoever starts first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import MosquittoFactory
from tests.support.edge_nodes import PROGRAMS, edge_node, why_not
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import Watcher

WINDOWS = [
    {
        "name": "w",
        "route": "sparkplug",
        "key": "{node}/{device}/{name}",
        "plugin": "stats",
        "window": {"type": "count", "count": 1},
    }
]
ENOUGH = 20
METRICS: Mapping[str, Callable[[int], float]] = {
    "depth": lambda sent: -sent,
    "strokes": lambda sent: 2**40 + sent,
    "force": lambda sent: sent / 4,
}


@pytest.fixture(params=sorted(PROGRAMS))
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    name = str(request.param)
    if reason := why_not(name):
        pytest.skip(reason)
    yield name


def values_of(watcher: Watcher, name: str) -> list[float]:
    end = f"/edge/press/{name}"
    found = [json.loads(message.payload) for message in watcher.messages if message.topic.endswith(end)]
    return [result["result"]["last"] for result in found]


def unresolved(gateway: GatewayProcess) -> float:
    return gateway.metric('gateway_sparkplug_total{what="unresolved"}')


@pytest.mark.parametrize(
    "topic",
    [
        None,
        pytest.param("spBv1.0/plant/{type}/{node}/{device}", marks=pytest.mark.slow),
        pytest.param("spBv1.0/plant/DDATA/{node}/{device}", marks=pytest.mark.slow),
    ],
)
def test_metrics_of_a_node_come_under_their_names(
    kind: str, topic: str | None, tmp_path: Path, mosquitto: MosquittoFactory
) -> None:
    broker = mosquitto()
    route = {"preset": "sparkplug"} | ({"topic": topic} if topic else {})
    config = gateway_config(tmp_path, broker.url, routes=[route], windows=WINDOWS)
    with GatewayProcess(config) as gateway, Watcher(broker.port, "gateway/g1/aggregates/w/#") as watcher:
        gateway.wait_ready()
        with edge_node(kind, broker.port) as node:
            wait_until(lambda: len(values_of(watcher, "force")) > ENOUGH, gateway.log())
            assert (node.heard, unresolved(gateway)) == ([], 0)
        first = 0 if topic is None or "{type}" in topic else 1  # births are readings of their own route
        for name, value in METRICS.items():
            assert values_of(watcher, name)[:ENOUGH] == [value(n) for n in range(first, first + ENOUGH)]


@pytest.mark.slow
def test_names_are_known_after_a_kill_while_the_node_goes_on(
    kind: str, tmp_path: Path, mosquitto: MosquittoFactory
) -> None:
    broker = mosquitto()
    config = gateway_config(tmp_path, broker.url, routes=[{"preset": "sparkplug"}], windows=WINDOWS)
    with GatewayProcess(config) as gateway, Watcher(broker.port, "gateway/g1/aggregates/w/#") as watcher:
        gateway.wait_ready()
        with edge_node(kind, broker.port) as node:
            wait_until(lambda: values_of(watcher, "force"), gateway.log())
            gateway.kill()
            seen = len(watcher.messages)
            gateway.start()
            gateway.wait_ready()
            wait_until(lambda: len(watcher.messages) > seen + ENOUGH, gateway.log())
            assert (node.runs, unresolved(gateway)) == (True, 0)


@pytest.mark.slow
def test_a_node_that_was_born_before_is_asked_once_and_goes_on(
    kind: str, tmp_path: Path, mosquitto: MosquittoFactory
) -> None:
    broker = mosquitto()
    config = gateway_config(tmp_path, broker.url, routes=[{"preset": "sparkplug"}], windows=WINDOWS)
    with (
        Watcher(broker.port, "spBv1.0/plant/DDATA/#") as data,
        Watcher(broker.port, "gateway/g1/aggregates/w/#") as watcher,
        edge_node(kind, broker.port) as node,
        GatewayProcess(config) as gateway,
    ):
        wait_until(lambda: data.messages, "data of the node")
        gateway.wait_ready()
        wait_until(lambda: node.heard == ["rebirth"], gateway.log())
        before = unresolved(gateway)
        wait_until(lambda: len(values_of(watcher, "force")) > ENOUGH, gateway.log())
        assert node.runs
        assert node.heard == ["rebirth"]
        assert gateway.metric('gateway_sparkplug_total{what="rebirths"}') == 1
        assert before <= unresolved(gateway) < before + ENOUGH, "names are known again"


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["DEFLATE", "GZIP"])
def test_compressed_payloads_are_read(algorithm: str, tmp_path: Path, mosquitto: MosquittoFactory) -> None:
    if reason := why_not("sparkplug-client"):
        pytest.skip(reason)
    broker = mosquitto()
    config = gateway_config(tmp_path, broker.url, routes=[{"preset": "sparkplug"}], windows=WINDOWS)
    with GatewayProcess(config) as gateway, Watcher(broker.port, "gateway/g1/aggregates/w/#") as watcher:
        gateway.wait_ready()
        with edge_node("sparkplug-client", broker.port, compress=algorithm):
            wait_until(lambda: len(values_of(watcher, "depth")) > ENOUGH, gateway.log())
        assert values_of(watcher, "depth")[:ENOUGH] == [-n for n in range(ENOUGH)]
        assert unresolved(gateway) == 0
