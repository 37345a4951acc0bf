"""Support bundles that a centre asks for: signed, once, seldom, and of a size that brokers take."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from threading import Event

import orjson
import pytest

from gateway.cloud.support_bundles import NUMBER_FILE, SupportBundles
from gateway.core.errors import DecodeError
from gateway.core.events import Message
from gateway.core.own_topics import OwnTopics
from gateway.host.bundle import write_bundle
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.link import Link, Session
from gateway.wire.signatures import new_key
from gateway.wire.support_request import SupportRequest, read_support_request
from tests.conftest import MosquittoFactory
from tests.support.brokers import Broker
from tests.support.gateways import HOST, PATIENCE_S, gateway_config, wait_until
from tests.support.publishing import publish

TOPICS = OwnTopics("gateway", "g1")


class Answers(Session):
    """A centre that takes the answers of g1, while `with` lasts."""

    def __init__(self, broker: Broker) -> None:
        self._subscribed = Event()
        self._answers: Queue[bytes] = Queue()
        self._link = Link("centre", Endpoint(HOST, broker.port, "centre"), self)

    def __enter__(self) -> Answers:
        self._link.start()
        wait_until(self._subscribed.is_set, "the centre listens")
        return self

    def __exit__(self, *_: object) -> None:
        self._link.stop()

    def connected(self, link: Link, session_present: bool) -> None:
        link.subscribe([(TOPICS.support_answers, 1)])

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        self._subscribed.set()

    def received(self, link: Link, messages: list[Message]) -> None:
        for message in messages:
            self._answers.put(message.payload)
            link.ack(message)

    def next(self) -> bytes:
        return self._answers.get(timeout=PATIENCE_S)

    @property
    def has_heard_nothing(self) -> bool:
        return self._answers.empty()


class Site:
    """A gateway's session for bundles on a real broker, and the centre that asks."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.broker = broker
        self.private, public = new_key()
        (folder / "fleet.pub").write_bytes(public)
        self._folder = folder
        self.config = gateway_config(folder, f"mqtt://{HOST}:9", http="off")
        (folder / "data").mkdir()
        self.centre = Answers(broker)

    @contextmanager
    def running(self) -> Iterator[SupportBundles]:
        data_dir = self._folder / "data"
        session = SupportBundles(TOPICS, self._folder / "fleet.pub", self.config, data_dir)
        link = Link("config", Endpoint(HOST, self.broker.port, "g1-config"), session)
        link.start()
        try:
            wait_until(lambda: session.awaits, "it is subscribed")
            yield session
        finally:
            link.stop()
            session.finish()

    def ask(self, number: int, gateway: str = "g1", key: bytes | None = None) -> None:
        message = SupportRequest(gateway, number).sign(key or self.private)
        publish(self.broker.port, [(TOPICS.support, message)])


@pytest.fixture
def site(tmp_path: Path, mosquitto: MosquittoFactory) -> Iterator[Site]:
    made = Site(tmp_path, mosquitto())
    with made.centre:
        yield made


@pytest.mark.slow
def test_a_bundle_is_sent_once_and_then_not_for_a_while(site: Site, tmp_path: Path) -> None:
    with site.running() as session:
        site.ask(7)
        with tarfile.open(fileobj=io.BytesIO(site.centre.next())) as archive:
            assert "gateway-support/about.txt" in archive.getnames()
        site.ask(8)
        refused = orjson.loads(site.centre.next())
        assert refused["state"] == "refused"
        assert "ask again in" in refused["reason"]
        site.ask(7)
        wait_until(lambda: session.counts["older"], "the old one is ignored")
    assert dict(session.counts) == {"sent": 1, "too_soon": 1, "older": 1}
    assert not list((tmp_path / "data").glob("*.tar.gz"))
    with site.running() as session:
        site.ask(8)
        wait_until(lambda: session.counts["older"], "a number counts over a restart")


def test_who_may_not_ask_gets_no_answer(site: Site, tmp_path: Path) -> None:
    stranger, _ = new_key()
    with site.running() as session:
        site.ask(7, key=stranger)
        site.ask(7, gateway="g2")
        publish(site.broker.port, [(TOPICS.support, b"please")])
        wait_until(lambda: sum(session.counts.values()) == 3, "all are judged")
    assert dict(session.counts) == {"signature": 1, "other_gateway": 1, "malformed": 1}
    assert site.centre.has_heard_nothing
    assert not (tmp_path / "data" / NUMBER_FILE).exists()


def test_one_that_cannot_be_made_is_said(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with site.running() as session:
        site.ask(7)
        assert "ended with code 1" in orjson.loads(site.centre.next())["reason"]
    assert dict(session.counts) == {"failed": 1}


@pytest.mark.parametrize("field", ["gateway", "number", "signature"])
def test_a_request_that_was_changed_has_no_signature(field: str) -> None:
    private, public = new_key()
    message = orjson.loads(SupportRequest("g1", 1).sign(private))
    assert read_support_request(orjson.dumps(message), "g1", public) == SupportRequest("g1", 1)
    message[field] = {"gateway": "*", "number": 2, "signature": "AAAA"}[field]
    with pytest.raises(DecodeError) as caught:
        read_support_request(orjson.dumps(message), "g1", public)
    assert caught.value.reason == "signature"


def test_a_bundle_that_is_too_large_loses_the_beginnings_of_its_longest_parts() -> None:
    lines = "".join(f"{n * 7919 % 104729:x}\n" for n in range(20_000))
    packed = write_bundle({"about.txt": "version", "log.jsonl": lines}, ["secret"], 16_384)
    assert len(packed) <= 16_384
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        about, log = (archive.extractfile(f"gateway-support/{name}") for name in ("about.txt", "log.jsonl"))
        assert about is not None
        assert about.read() == b"version"
        assert log is not None
        assert lines.encode().endswith(log.read())
