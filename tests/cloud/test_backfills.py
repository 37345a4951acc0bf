"""What was kept at the edge goes up when it is asked for: by a request, or by an alarm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config import parse_config
from gateway.core.errors import ConfigError
from gateway.wire.frame import decode_batch
from tests.conftest import MosquittoFactory
from tests.support.buffers import event
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import Watcher, publish
from tests.support.stub_broker import SUBSCRIBE, Answer, Packet, StubBroker, suback
from tests.support.uplinks import cloud_config, statuses, uplink

ROUTE = {"name": "r", "topic": "sensors/{device}", "forward": False}
START_MS = 1_700_000_000_000


def config(**cloud: Any) -> Any:
    return parse_config(json.dumps({"gateway": {"id": "g1"}, "routes": [ROUTE], "cloud": cloud}))


def keep(count: int, first: int = 0) -> Callable[[Any], None]:
    """Events of two devices, one each second, that stay at the edge."""

    def change(store: Any) -> None:
        made = [
            event(f"sensors/d{n % 2}", b'{"v": %d}' % n, at=1000 * n) for n in range(first, first + count)
        ]
        store.append([each._replace(kept=True) for each in made])

    return change


def ask(port: int, **request: Any) -> None:
    publish(port, [("gateway/g1/down/backfill", json.dumps(request))])


def answers(watcher: Watcher) -> list[dict[str, Any]]:
    return [json.loads(each.payload) for each in watcher.messages]


def values(watcher: Watcher) -> list[int]:
    return [
        json.loads(one.payload)["v"]
        for each in watcher.messages
        for one in decode_batch(bytes(each.payload)).events
    ]


@pytest.mark.parametrize("more", [{}, {"client_id": "exact", "downlink": [{"topic": "commands/{d}"}]}])
def test_a_request_is_answered_with_how_many_from_when_to_when_and_they_come(
    mosquitto: MosquittoFactory, tmp_path: Path, more: dict[str, Any]
) -> None:
    cloud = mosquitto()
    with (
        Watcher(cloud.port, "gateway/g1/backfill") as told,
        Watcher(cloud.port, "gateway/g1/up/#") as received,
        uplink(config(url=cloud.url, audit="off", **more), tmp_path / "events.db", []) as writer,
    ):
        writer.call(keep(100))
        ask(cloud.port, stream="#", from_ms=5, to_ms="x")
        wait_until(lambda: [each["state"] for each in answers(told)] == ["refused"], "the refusal")
        span = {"from_ms": START_MS + 20_000, "to_ms": START_MS + 50_000}
        ask(cloud.port, stream="sensors/d1", **span, label="why")
        wait_until(lambda: len(told.messages) == 3, "the answers")
        started, done = answers(told)[1:]
        assert started == {
            **{"state": "started", "stream": "sensors/d1", **span, "label": "why", "events": 15},
            **{"first_ms": START_MS + 21_000, "last_ms": START_MS + 49_000},
        }
        assert (done["state"], done["events"]) == ("done", 15)
        wait_until(lambda: len(received.messages) >= 1 and len(values(received)) == 15, "the events")
        assert values(received) == [*range(21, 50, 2)]
        assert statuses(writer)["KEPT"] == 85
        ask(cloud.port, stream="sensors/d1", **span)
        wait_until(lambda: len(told.messages) == 5, "the answers to the same again")
        assert answers(told)[-1]["events"] == 0


def test_live_events_never_wait_behind_a_backfill(tmp_path: Path) -> None:
    """The service takes 20 messages in a second; 20,000 old events of the same streams take longer."""
    cloud = StubBroker()
    settings = config(url=cloud.url, audit="off", messages="20/s", batch_events=500, topics={"status": "off"})
    with cloud.running(), uplink(settings, tmp_path / "events.db", []) as writer:
        writer.call(keep(20_000))
        wait_until(lambda: cloud.of(SUBSCRIBE), "the subscription")
        _request(cloud, {"stream": "#", "from_ms": 0, "to_ms": 2**50})
        wait_until(lambda: statuses(writer)["SYNCED"] > 2000, "some of it")
        writer.call(lambda store: store.append([event("sensors/d1", b'{"v": -1}', at=10**8)]))
        before = len(cloud.events)
        wait_until(lambda: any(each.payload == b'{"v": -1}' for each in cloud.events), "the live event")
        position = next(at for at, each in enumerate(cloud.events) if each.payload == b'{"v": -1}')
    assert position - before <= 2000


def _request(cloud: StubBroker, request: dict[str, Any]) -> None:
    """Send it down on every connection that is open; those that have not subscribed ignore it."""
    topic, payload = b"gateway/g1/down/backfill", json.dumps(request).encode()
    body = len(topic).to_bytes(2, "big") + topic + b"\x00" + payload
    cloud.send_all(bytes([0x30, len(body)]) + body)


def test_a_refused_subscription_costs_nothing_else(tmp_path: Path) -> None:
    def rule(packet: Packet) -> Answer | None:
        return suback(packet, 0x87) if packet.kind == SUBSCRIBE else None

    cloud = StubBroker(rule)
    settings = config(url=cloud.url, audit="off", client_id="exact")
    messages = [("other/d", f"{n}") for n in range(50)]
    with cloud.running(), uplink(settings, tmp_path / "events.db", messages) as writer:
        wait_until(lambda: statuses(writer)["SYNCED"] == 50, "the drain")
        wait_until(lambda: cloud.of(SUBSCRIBE), "the subscription")
        assert cloud.connections == 1


def test_nothing_is_subscribed_to_where_nothing_is_kept_or_it_is_off(tmp_path: Path) -> None:
    for number, settings in enumerate((cloud_config, config)):
        cloud = StubBroker()
        given = settings(url=cloud.url, audit="off", **({"backfill": "off"} if settings is config else {}))
        messages = [("other/d", "1")]
        with cloud.running(), uplink(given, tmp_path / f"{number}.db", messages) as writer:
            wait_until(lambda w=writer: statuses(w)["SYNCED"] == 1, "the drain")
        assert not cloud.of(SUBSCRIBE)


def test_an_alarm_pulls_the_raw_data_around_it(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    local, cloud = mosquitto(), mosquitto()
    with (
        Watcher(cloud.port, "gateway/g1/up/#") as received,
        Watcher(cloud.port, "gateway/g1/backfill") as told,
    ):
        with GatewayProcess(_with_alarm(tmp_path, local.url, cloud.url)) as gateway:
            gateway.wait_ready()
            readings = [(START_MS + 1000 * n, 50 if n == 600 else 20) for n in range(660)]
            publish(local.port, [("sensors/d1", json.dumps({"t": t, "v": v})) for t, v in readings])
            publish(local.port, [("sensors/d2", json.dumps({"t": t, "v": 20})) for t, _ in readings])
            wait_until(lambda: sum(each["state"] == "done" for each in answers(told)) == 2, "both requests")
            alarm_ms = START_MS + 600_000
            wanted = [t for t, _ in readings if alarm_ms - 120_000 <= t < alarm_ms + 2000]
            wait_until(lambda: len(times_of_raw(received)) >= len(wanted), "the raw data")
            assert sorted(times_of_raw(received)) == wanted
            audit = gateway.audit()
        assert audit.problems == ()


def times_of_raw(received: Watcher) -> list[int]:
    """The times of the readings that have come."""
    return [
        json.loads(one.payload)["t"]
        for each in received.messages
        for one in decode_batch(bytes(each.payload)).events
        if one.stream.startswith("sensors/")
    ]


def _with_alarm(folder: Path, local_url: str, cloud_url: str) -> Path:
    path = gateway_config(folder, local_url, cloud={"url": cloud_url, "audit": "1s"}, windows=[])
    settings = yaml.safe_load(path.read_text())
    settings["routes"][0]["forward"] = False
    settings["windows"] = [
        {
            "name": "hot",
            "route": "sensors",
            "field": "v",
            "key": "{device}",
            "plugin": "threshold",
            "options": {"above": 40},
            "window": {"type": "count", "count": 1},
            "backfill": {"before": "2m", "after": "2s"},
        }
    ]
    path.write_text(yaml.safe_dump(settings))
    return path


def test_check_says_where_a_backfill_has_no_way_up() -> None:
    window = {
        **{"name": "w", "topic": "a/{d}", "key": "{d}", "plugin": "threshold", "options": {"above": 1}},
        **{"window": {"type": "count", "count": 1}, "backfill": {}},
    }
    base = {"gateway": {"id": "g1"}, "windows": [window]}
    for cloud, missing in (
        ({}, "needs cloud"),
        ({"cloud": {"url": "mqtt://c", "backfill": "off"}}, "is off"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse_config(json.dumps({**base, **cloud}))
        assert missing in str(caught.value.problems)
