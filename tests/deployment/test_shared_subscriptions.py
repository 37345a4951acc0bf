"""Several gateways behind one broker: each message goes to exactly one of them, and to the cloud once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from gateway.config import parse_config, warnings_of
from gateway.core.errors import ConfigError
from tests.conftest import MosquittoFactory
from tests.proofs.test_end_to_end import drained, receive, received_events
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish

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


def config(local: str, more: str = "") -> str:
    return f"gateway: {{id: g1}}\nlocal: {local}\nroutes: [{{name: r, topic: sensors/+}}]\n{more}"


def test_a_share_needs_mqtt_5() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(config("{url: 'mqtt://b:1883', share: site}"))
    assert "need protocol: 5" in caught.value.problems[0]


def test_windows_over_a_share_are_warned_of() -> None:
    window = "windows: [{name: w, route: r, field: value, key: k, window: {type: count, count: 3}}]"
    shared = parse_config(config("{url: 'mqtt://b:1883', protocol: 5, share: site}", window))
    assert any("sees only" in warning for warning in warnings_of(shared))
    alone = parse_config(config("{url: 'mqtt://b:1883', protocol: 5}", window))
    assert not any("sees only" in warning for warning in warnings_of(alone))
