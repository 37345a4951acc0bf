"""What the gateway asks the local broker for: each message once, nothing that no route wants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import yaml

from gateway.buffer.reader import Reader
from gateway.core.topics import filter_matches
from gateway.local.copies import Copies
from gateway.local.subscriptions import Memory, Report, Subscriptions
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.link import Link, Session
from tests.conftest import MosquittoFactory
from tests.support.asked_broker import asked_broker
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port
from tests.support.publishing import publish
from tests.support.stub_broker import SILENCE, SUBSCRIBE, Answer, Packet, StubBroker, suback

OVERLAPPING = [{"name": "one", "topic": "a/{device}/t"}, {"name": "rest", "topic": "a/d1/{rest...}"}]
BUFFERED = 'gateway_messages_total{outcome="buffered"}'


def written(folder: Path, url: str, routes: list[dict[str, str]], **local: object) -> Path:
    return gateway_config(folder, url, routes=routes, windows=[], local={"url": url, **local})


def alerts(gateway: GatewayProcess) -> list[str]:
    """The names of the alerts in the buffer."""
    reader = Reader(gateway.buffer_path)
    try:
        derived = reader.derived_after(0, 1000)
        return [json.loads(payload)["alert"] for payload in reader.payloads(derived)]
    finally:
        reader.close()


@pytest.mark.parametrize("broker", ["embedded", "mosquitto 3.1.1", "mosquitto 5"])
def test_routes_that_overlap_store_a_message_once(
    mosquitto: MosquittoFactory, tmp_path: Path, broker: str
) -> None:
    if broker == "embedded":
        port = free_port()
        config = written(tmp_path, "embedded", OVERLAPPING, listen=f"127.0.0.1:{port}")
    else:
        local = mosquitto()
        port = local.port
        config = written(tmp_path, local.url, OVERLAPPING, protocol=broker.split()[1])
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        wait_until(lambda: "since_ms" in (gateway.get("/api/state") or ""), "the state")
        wait_until(lambda: _since_ms(gateway) is not None, "the subscription")
        publish(port, [("a/d1/t", str(number)) for number in range(200)])
        publish(
            port, [("a/d2/t", "both"), ("a/d1/x", "both"), ("a/d2/x", "for no route"), ("a/d1/t", "last")]
        )
        wait_until(lambda: gateway.metric(BUFFERED) >= 203, "all but a/d2/x")
        assert gateway.stop() == 0
        found = gateway.audit()
        assert not found.problems
        assert found.messages == {"buffered": 203}


def _since_ms(gateway: GatewayProcess) -> int | None:
    told = json.loads(gateway.get("/api/state") or "{}")
    since_ms: int | None = told.get("sections", {}).get("subscriptions", {}).get("since_ms")
    return since_ms


@pytest.mark.parametrize("protocol", ["3.1.1", pytest.param("5", marks=pytest.mark.slow)])
def test_a_filter_that_no_route_names_any_more_is_unsubscribed_after_a_restart(
    mosquitto: MosquittoFactory, tmp_path: Path, protocol: str
) -> None:
    local = mosquitto(["log_type information", "log_type unsubscribe"])
    old = [{"name": "kept", "topic": "a/{x}"}, {"name": "gone", "topic": "b/{x}"}]
    with GatewayProcess(written(tmp_path, local.url, old, protocol=protocol)) as gateway:
        gateway.wait_ready()
        wait_until(lambda: _since_ms(gateway) is not None, "the subscription")
        since_ms = _since_ms(gateway)
        assert gateway.stop() == 0
        config = yaml.safe_load(gateway.config.read_text()) | {"routes": old[:1]}
        gateway.config.write_text(yaml.safe_dump(config))
        gateway.start()
        wait_until(lambda: "b/+" in local.log(), "the broker has unsubscribed it")
        wait_until(lambda: gateway.get("/readyz") is not None, "the gateway")
        assert _since_ms(gateway) == since_ms
        assert gateway.stop() == 0
        publish(local.port, [("b/x", "unwanted"), ("a/x", "wanted")])
        gateway.start()
        wait_until(lambda: gateway.metric(BUFFERED) == 1, "what is wanted")
        assert gateway.metric('gateway_messages_rejected_total{reason="no_route"}') == 0


def test_a_session_that_the_broker_has_lost_is_an_alert(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    local = mosquitto()  # without persistence: it forgets with its restart
    with GatewayProcess(written(tmp_path, local.url, [{"name": "a", "topic": "a/{x}"}])) as gateway:
        gateway.wait_ready()
        wait_until(lambda: _since_ms(gateway) is not None, "the subscription")
        assert alerts(gateway) == []
        before_ms = _since_ms(gateway)
        local.kill()
        local.start()
        wait_until(lambda: alerts(gateway) == ["session_lost"], "the alert")
        wait_until(lambda: (_since_ms(gateway) or 0) > (before_ms or 0), "the new subscription")


class Noted:
    """Notes what a `Subscriptions` says."""

    def __init__(self) -> None:
        self.saved = Memory()
        self.alerts: list[str] = []

    def report(self) -> Report:
        return Report(self._save, lambda name, _message: self.alerts.append(name), lambda: 1)

    def _save(self, memory: Memory) -> None:
        self.saved = memory


class Owner(Session):
    """As `Ingest` uses them."""

    def __init__(self, subscriptions: Subscriptions) -> None:
        self.subscriptions = subscriptions

    def connected(self, link: Link, session_present: bool) -> None:
        self.subscriptions.connected(link, session_present)

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        self.subscriptions.answered(link, codes)

    def work(self, link: Link) -> float:
        self.subscriptions.work(link)
        return 0.01


def test_a_refused_filter_is_named_and_asked_for_again_and_the_others_stand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.local.subscriptions.REFUSED_RETRY_S", 0.0)
    said = Noted()
    subscriptions = Subscriptions({"good": 1, "bad/#": 1}, Memory(), said.report())
    with asked_broker() as (port, sent):
        link = Link("tested", Endpoint("127.0.0.1", port, "tested", persistent=True), Owner(subscriptions))
        link.start()
        try:
            asked = sent()
            assert b"good" in asked and b"bad/#" in asked
            sent.answer(b"\x90\x04" + asked[2:4] + b"\x01\x80")
            again = sent()
            assert b"bad/#" in again and b"good" not in again
            assert subscriptions.problems == [
                f"no subscription to bad/#: refused by 127.0.0.1:{port} with reason 0x80"
            ]
            assert (said.alerts, link.connected, link.metrics.failures) == (["subscription_refused"], True, 0)
            assert subscriptions.since_ms == 1
            sent.answer(b"\x90\x03" + again[2:4] + b"\x01")
            wait_until(lambda: not subscriptions.problems, "the broker has changed its mind")
        finally:
            link.stop()


def test_the_gateway_is_ready_only_once_the_broker_has_answered_the_subscription(tmp_path: Path) -> None:
    broker = StubBroker(lambda packet: SILENCE if packet.kind == SUBSCRIBE else None)
    with broker.running(), GatewayProcess(gateway_config(tmp_path, broker.url)) as gateway:
        waits = "the local broker has not answered the subscription to sensors/+ yet"
        wait_until(lambda: waits in (gateway.get("/api/state") or ""), "it says what it waits for")
        wait_until(lambda: broker.of(SUBSCRIBE), "the subscription is asked for")
        assert gateway.get("/readyz") is None
        assert gateway.get("/healthz") is not None
        broker.rule = lambda _packet: None
        broker.drop_all()
        gateway.wait_ready()


def test_a_session_that_is_kept_for_a_shorter_time_than_asked_is_an_alert() -> None:
    said = Noted()
    connack = b"\x20\x08\x00\x00\x05\x11\x00\x00\x00\x3c"  # session expiry: 60 s
    subscriptions = Subscriptions({"a": 1}, Memory(), said.report())
    with asked_broker(connack=connack) as (port, sent):
        endpoint = Endpoint("127.0.0.1", port, "tested", "5", persistent=True)
        link = Link("tested", endpoint, Owner(subscriptions))
        link.start()
        try:
            assert b"\x00\x01a\x11" in sent()  # QoS 1, retained messages only if the subscription is new
            assert said.alerts == ["session_expiry"]
        finally:
            link.stop()


def test_the_memory_of_another_broker_is_not_used(tmp_path: Path) -> None:
    memory, path = Memory("one", ["a/#"], 5), tmp_path / "memory"
    assert Subscriptions({"b": 1}, memory, Noted().report(), session="other").since_ms is None
    assert Subscriptions({"b": 1}, memory, Noted().report(), session="one").since_ms == 5
    assert Memory.read(path) == Memory()
    memory.write(path)
    assert Memory.read(path) == memory
    path.write_text("cut of")
    assert Memory.read(path) == Memory()


# --- copies ---

WANTED = {"a/+/t": 1, "a/d1/#": 1}


def granted(wanted: dict[str, int]) -> tuple[Copies, dict[str, int]]:
    copies = Copies()
    ids = copies.renew(wanted)
    for name, qos in wanted.items():
        copies.answered(name, qos)
    return copies, ids


def taken(copies: Copies, topic: str, ids: dict[str, int]) -> int:
    """How many of the copies count that a broker sends on `topic`, one per filter."""
    return sum(not copies.is_copy(topic, (id_,)) for name, id_ in ids.items() if filter_matches(name, topic))


@pytest.mark.parametrize("topic", ["a/d1/t", "a/d2/t", "a/d1/x"])
def test_one_copy_counts_however_many_come(topic: str) -> None:
    copies, ids = granted(WANTED)
    assert taken(copies, topic, ids) == 1
    assert not copies.is_copy(topic, tuple(ids.values())), "one message that names both"
    assert not copies.is_copy(topic, ())


def test_a_filter_that_was_not_granted_never_makes_another_ones_message_a_copy() -> None:
    copies, ids = granted(WANTED)
    copies.answered("a/+/t", -1)
    assert not copies.is_copy("a/d1/t", (ids["a/d1/#"],))


def test_the_copy_at_the_higher_quality_counts() -> None:
    copies, ids = granted({"a/+/t": 0, "a/d1/#": 1})
    assert copies.is_copy("a/d1/t", (ids["a/+/t"],))
    assert not copies.is_copy("a/d1/t", (ids["a/d1/#"],))


def test_what_an_earlier_configuration_left_in_the_queue_is_judged_by_its_own_filters(
    tmp_path: Path,
) -> None:
    copies, old = granted({"a/d1/#": 1, "x": 1})
    Memory(generations=copies.saved).write(tmp_path / "memory")
    saved = Memory.read(tmp_path / "memory").generations
    later = Copies(saved)
    new = later.renew(WANTED)
    for name, qos in WANTED.items():
        later.answered(name, qos)
    assert not later.is_copy("a/d1/t", (old["a/d1/#"],)), "it came for that filter alone"
    assert taken(later, "a/d1/t", new) == 1
    assert not set(new.values()) & set(old.values())
    assert Copies(saved).renew({"a/d1/#": 1, "x": 1}) == old


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("code", [0, 1, 2, *range(0x80, 0xA3), 0xFF], ids=hex)
def test_a_suback_with_any_code_leaves_the_other_filters_standing(
    protocol: Literal["5", "3.1.1"], code: int, caplog: pytest.LogCaptureFixture
) -> None:
    def rule(packet: Packet) -> Answer | None:
        if packet.kind != SUBSCRIBE:
            return None
        return suback(packet, *(1 if name == "good" else code for name in packet.filters))

    said = Noted()
    subscriptions = Subscriptions({"good": 1, "odd": 1}, Memory(), said.report())
    broker = StubBroker(rule)
    with broker.running():
        link = Link("tested", Endpoint("127.0.0.1", broker.port, "t", protocol), Owner(subscriptions))
        link.start()
        try:
            wait_until(lambda: subscriptions.since_ms, "the answer")
            refused = {"odd"} if code >= 0x80 else set()
            assert set(subscriptions.refused) == refused
            assert (said.alerts, link.metrics.failures) == (["subscription_refused"] * len(refused), 0)
            assert bool(refused) == (f"{code:#04x}" in " ".join(subscriptions.problems))
            assert ("grants odd only QoS 0" in caplog.text) == (code == 0)
        finally:
            link.stop()
