"""Several gateways behind one broker: each message goes to exactly one of them, and to the cloud once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gateway.config import parse_config, warnings_of
from gateway.core.errors import ConfigError
from gateway.core.events import Reading
from tests.conftest import MosquittoFactory
from tests.proofs.test_end_to_end import drained, receive, received_events
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import Watcher, publish
from tests.support.windowing import shipped

SENT = 3000


def gateway_at(folder: Path, name: str, local_url: str, cloud_url: str) -> GatewayProcess:
    (home := folder / name).mkdir()
    more = {
        "gateway": {"id": name, "data_dir": "data"},
        "local": {"url": local_url, "protocol": 5, "share": "site"},
        "windows": [],
    }
    return GatewayProcess(gateway_config(home, local_url, cloud_url, **more))


def messages(start: int, end: int) -> list[tuple[str, str]]:
    return [(f"sensors/d{n % 7}", f'{{"v": {n}, "t": {n}}}') for n in range(start, end)]


def buffered(gateway: GatewayProcess) -> float:
    return gateway.metric('gateway_messages_total{outcome="buffered"}')


def test_two_gateways_share_a_broker_and_each_message_is_taken_by_one_of_them(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    settings = ["max_queued_messages 100000", "max_inflight_messages 1000"]
    local, cloud = mosquitto(settings), mosquitto(["max_queued_messages 100000"])
    receive(cloud.url, tmp_path / "events.ndjson")  # from now on its queue keeps what arrives
    one, two = (gateway_at(tmp_path, name, local.url, cloud.url) for name in ("g1", "g2"))
    with one, two:
        one.wait_ready()
        two.wait_ready()
        publish(local.port, messages(0, SENT // 2))
        wait_until(lambda: buffered(one) + buffered(two) == SENT // 2, "both halves")
        assert min(buffered(one), buffered(two)) > 0
        two.kill()  # with what it may have in flight
        publish(local.port, messages(SENT // 2, SENT))
        two.start()
        two.wait_ready()
        wait_until(lambda: len(one.raw_payloads()) + len(two.raw_payloads()) == SENT, "all of it")
        taken = Counter(payload["v"] for each in (one, two) for payload in each.raw_payloads())
        assert taken == Counter(range(SENT))
        wait_until(lambda: drained(one, 0) and drained(two, 0), "the drain")
        receive(cloud.url, tmp_path / "events.ndjson")
        events = [e for e in received_events(tmp_path / "events.ndjson") if e["kind"] == "raw"]
        assert Counter(event["payload"]["v"] for event in events) == Counter(range(SENT))


SPAN_MS = 5000
WINDOW = {
    "name": "part",
    "route": "sensors",
    "field": "v",
    "key": "{device}",
    "window": {"type": "tumbling", "size": "5s"},
    "allowed_lateness": "1h",
    "idle_timeout": "1s",
    "publish": {"partial": True},
}
MERGED = {name: value for name, value in WINDOW.items() if name not in ("route", "publish")} | {
    "topic": "gateway/{source}/aggregates/part/{device}",
    "merge": True,
}


@pytest.mark.slow
@pytest.mark.parametrize("plugin", ["stats", "percentiles"])
def test_parts_of_gateways_that_share_are_merged_by_a_third(
    mosquitto: MosquittoFactory, tmp_path: Path, plugin: str
) -> None:
    broker = mosquitto(["max_queued_messages 100000"])
    pair = [shared_gateway(tmp_path, name, broker.url, plugin) for name in ("a", "b")]
    (home := tmp_path / "top").mkdir()
    more: dict[str, Any] = {
        "gateway": {"id": "top", "data_dir": "data"},
        "routes": [{"preset": "partials"}],
        "windows": [MERGED | {"plugin": plugin}],
    }
    top = GatewayProcess(gateway_config(home, broker.url, **more))
    values = [(f"d{n % 7}", n, 1_790_000_000_000 + 20 * n) for n in range(2100)]
    with pair[0], pair[1], top, Watcher(broker.port, "gateway/top/aggregates/#") as watcher:
        for each in (*pair, top):
            each.wait_ready()
        publish(broker.port, [(f"sensors/{name}", f'{{"v": {v}, "t": {t}}}') for name, v, t in values])
        expected = whole_windows(values, plugin)
        wait_until(lambda: newest(watcher) == expected, "every window whole")
        assert min(map(buffered, pair)) > 100


def shared_gateway(folder: Path, name: str, url: str, plugin: str) -> GatewayProcess:
    (home := folder / name).mkdir()
    more: dict[str, Any] = {
        "gateway": {"id": name, "data_dir": "data"},
        "local": {"url": url, "protocol": 5, "share": "site"},
        "windows": [WINDOW | {"plugin": plugin}],
    }
    return GatewayProcess(gateway_config(home, url, **more))


def whole_windows(values: list[tuple[str, int, int]], plugin: str) -> dict[tuple[str, int], object]:
    """What one gateway would give that has all readings."""
    found: dict[tuple[str, int], Any] = {}
    one = shipped(plugin)
    for name, value, time_ms in values:
        at = name, time_ms - time_ms % SPAN_MS
        reading = Reading(value, time_ms, {}, name)
        found[at] = one.add_input(found.get(at, one.create_accumulator()), reading)
    return {at: rounded(one.extract_output(accumulator)) for at, accumulator in found.items()}


def newest(watcher: Watcher) -> dict[tuple[str, int], object]:
    results = [json.loads(message.payload) for message in watcher.messages]
    ordered = sorted(results, key=lambda one: one["revision"])
    return {(one["key"], one["start_ms"]): rounded(one["result"]) for one in ordered}


def rounded(result: Any) -> object:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in result.items()}


def config(local: str, more: str = "") -> str:
    return f"gateway: {{id: g1}}\nlocal: {local}\nroutes: [{{name: r, topic: sensors/+}}]\n{more}"


def test_a_share_needs_mqtt_5() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(config("{url: 'mqtt://b:1883', share: site}"))
    assert "need protocol: 5" in caught.value.problems[0]


def test_windows_over_a_share_are_warned_of() -> None:
    window = "windows: [{name: w, route: r, field: value, key: k, window: {type: count, count: 3}}]"
    shared = parse_config(config("{url: 'mqtt://b:1883', protocol: 5, share: site}", window))
    assert any("publish: {partial: true}" in warning for warning in warnings_of(shared))
    merged = parse_config(
        config(
            "{url: 'mqtt://b:1883', protocol: 5, share: site}",
            "windows: [{name: w, route: r, field: value, key: k, window: {type: tumbling, size: 1m}, "
            "publish: {partial: true}}]",
        )
    )
    assert not any("sees only" in warning for warning in warnings_of(merged))
    alone = parse_config(config("{url: 'mqtt://b:1883', protocol: 5}", window))
    assert not any("sees only" in warning for warning in warnings_of(alone))
