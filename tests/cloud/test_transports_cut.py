"""Each way to the cloud, cut in the middle of a drain: everything arrives, and in order."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.lab.fault_proxy import FaultProxy
from tests.conftest import MosquittoFactory
from tests.support.cloud_rules import RuledBroker, ServiceRules, is_signature
from tests.support.gateways import wait_until
from tests.support.listeners import Listeners, RunningProxy, make_certificates
from tests.support.sending import Consumer, check_complete
from tests.support.stub_broker import CONNECT
from tests.support.uplinks import cloud_config, statuses, stored, uplink

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

COUNT = 3000
SLOWLY = {"batch_events": 20, "messages": "60/s", "audit": "off", "reconnect_max": "300ms"}
MESSAGES = [(f"sensors/d{n % 7}", json.dumps({"v": n})) for n in range(COUNT)]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certs"))


def drain(path: Path, consumer: Consumer, cut: Callable[[], None], cuts: int = 3, **cloud: Any) -> None:
    """Send all of it, and `cut` after each so many events."""
    with uplink(cloud_config(**{**SLOWLY, **cloud}), path / "events.db", MESSAGES) as writer:
        for number in range(1, cuts + 1):
            wait_until(lambda n=number: statuses(writer)["SYNCED"] >= n * COUNT // (cuts + 1), "a part of it")
            cut()
        wait_until(lambda: statuses(writer)["SYNCED"] == COUNT, "the drain", 60)
        assert statuses(writer)["FAILED"] == 0
    consumer.wait_for(COUNT)
    check_complete(consumer.events, stored(MESSAGES))


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_a_proxy_is_killed(
    mosquitto: MosquittoFactory, certificates: Path, tmp_path: Path, kind: str
) -> None:
    listeners = Listeners(mosquitto, certificates, tmp_path)
    with RunningProxy(kind, tmp_path) as proxy, Consumer(listeners.plain) as consumer:

        def cut() -> None:
            proxy.kill()
            proxy.start()

        tls = {"ca_file": str(listeners.certificates / "ca.pem")}
        url = f"mqtts://localhost:{listeners.tls}"
        drain(tmp_path, consumer, cut, url=url, tls=tls, proxy=proxy.url)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_websocket_is_cut(
    mosquitto: MosquittoFactory, certificates: Path, tmp_path: Path, scheme: str
) -> None:
    listeners = Listeners(mosquitto, certificates, tmp_path)
    line = FaultProxy("127.0.0.1", listeners.wss if scheme == "wss" else listeners.ws)
    line.mend()
    with ExitStack() as stack:
        stack.callback(line.cut)
        consumer = stack.enter_context(Consumer(listeners.plain))

        def cut() -> None:
            line.cut()
            line.mend()

        tls = {"ca_file": str(listeners.certificates / "ca.pem")}
        drain(tmp_path, consumer, cut, url=f"{scheme}://localhost:{line.port}/mqtt", tls=tls)


def test_certificates_of_both_sides_are_replaced(
    mosquitto: MosquittoFactory, certificates: Path, tmp_path: Path
) -> None:
    """Another authority, another certificate of the broker, another of the gateway: in the same files."""
    listeners = Listeners(mosquitto, certificates, tmp_path, of_clients=True)
    (tmp_path / "new").mkdir()
    new = make_certificates(tmp_path / "new")
    own = tmp_path / "own"
    shutil.copytree(certificates, own)
    with Consumer(listeners.plain) as consumer:

        def cut() -> None:
            listeners.broker.stop()
            for folder in (listeners.certificates, own):
                for path in new.iterdir():
                    shutil.copy(path, folder)
            listeners.broker.start()

        tls = {"ca_file": "ca.pem", "cert_file": "client.pem", "key_file": "client.key"}
        files = {key: str(own / name) for key, name in tls.items()}
        drain(tmp_path, consumer, cut, cuts=1, url=f"mqtts://localhost:{listeners.tls}", tls=files)


def test_a_signature_is_renewed_before_it_runs_out(tmp_path: Path) -> None:
    key = base64.b64encode(b"k" * 32).decode()
    (tmp_path / "key").write_text(key)
    judge = is_signature(key, "127.0.0.1/devices/plant-7")
    rules = ServiceRules(username="127.0.0.1/plant-7/x", password=judge, retain=True)
    broker = RuledBroker(rules)
    with broker.running():
        config = cloud_config(
            **{**SLOWLY, "url": broker.url, "client_id": "plant-7", "username": "127.0.0.1/plant-7/x"},
            password={"azure_sas": {"key_file": str(tmp_path / "key"), "ttl": "2s"}},
        )
        with uplink(config, tmp_path / "events.db", MESSAGES) as writer:
            wait_until(lambda: statuses(writer)["SYNCED"] == COUNT, "the drain", 60)
    expiries = {each.password for each in broker.of(CONNECT)}
    assert len(expiries) >= 2
    assert not broker.violations
    assert sorted({value for _, value in broker.values}) == [*range(COUNT)]


def test_the_first_of_two_brokers_dies_and_comes_back(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    """What one had acknowledged is there; the other gets the rest."""
    first, second = mosquitto(), mosquitto()
    with Consumer(second.port) as consumer, Consumer(first.port) as early:
        config = cloud_config(**SLOWLY, url=[first.url, second.url])
        with uplink(config, tmp_path / "events.db", MESSAGES) as writer:
            wait_until(lambda: statuses(writer)["SYNCED"] >= COUNT // 3, "a third")
            first.stop()
            wait_until(lambda: statuses(writer)["SYNCED"] >= COUNT * 2 // 3, "two thirds")
            first.start()
            second.stop()
            wait_until(lambda: statuses(writer)["SYNCED"] == COUNT, "the drain", 60)
        wait_until(lambda: len({e.event_id for e in [*early.events, *consumer.events]}) == COUNT, "all")
    assert len(consumer.events) > 0
