"""What MQTT travels on: WebSocket, TLS, proxies, several brokers; and errors that name the key to change."""

from __future__ import annotations

import random
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gateway.core.errors import BrokerError
from gateway.mqtt import link as link_module
from gateway.mqtt.credentials import CommandPassword, azure_sas
from gateway.mqtt.endpoint import Endpoint, Proxy, Tls
from gateway.mqtt.link import Link, Session
from gateway.mqtt.transport import tls_context
from gateway.mqtt.websocket import WebSocket
from tests.conftest import MosquittoFactory
from tests.support.gateways import wait_until
from tests.support.listeners import Listeners, RunningProxy, make_certificates
from tests.support.ports import free_port
from tests.support.stub_broker import CONNECT, StubBroker


class Echo(Session):
    """Publishes `payloads` to a topic that it has subscribed to."""

    def __init__(self, *payloads: bytes) -> None:
        self.payloads = payloads
        self.came: list[bytes] = []
        self.stands = False

    def connected(self, link: Link, session_present: bool) -> None:
        link.subscribe([("echo", 1)])

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        self.stands = True
        for payload in self.payloads:
            link.publish("echo", payload)

    def received(self, link: Link, messages: list[object]) -> None:  # type: ignore[override]
        for message in messages:
            self.came.append(message.payload)  # type: ignore[attr-defined]
            link.ack(message)  # type: ignore[arg-type]


class Sender(Session):
    """Publishes `payloads` and subscribes to nothing."""

    def __init__(self, *payloads: bytes) -> None:
        self.payloads = payloads

    def connected(self, link: Link, session_present: bool) -> None:
        for payload in self.payloads:
            link.publish("echo", payload)


@contextmanager
def running(session: Session, endpoint: Endpoint) -> Iterator[Link]:
    link = Link("tested", endpoint, session)
    link.start()
    try:
        yield link
    finally:
        link.stop()


def error_of(**settings: object) -> str:
    """What a link says that cannot connect."""
    settings = {"host": "localhost", "client_id": "tested", "reconnect_max_s": 0.1} | settings
    with running(Session(), Endpoint(**settings)) as link:  # type: ignore[arg-type]
        wait_until(lambda: link.metrics.last_error, "the error")
        return link.metrics.last_error


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certs"))


@pytest.fixture
def listeners(mosquitto: MosquittoFactory, certificates: Path, tmp_path: Path) -> Listeners:
    return Listeners(mosquitto, certificates, tmp_path)


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_messages_of_all_sizes_travel_over_websocket(
    listeners: Listeners, protocol: str, scheme: str
) -> None:
    """Large ones are read back over plain TCP: Mosquitto 2.0 gives a WebSocket 4 KiB of them every 100 ms."""
    payloads = [bytes([n % 251]) * n for n in (0, 1, 100, 125, 126, 20_000)]
    large = [bytes([n % 251]) * n for n in (65_535, 65_536, 70_000, 1_500_000)]
    session, plain = Echo(*payloads), Echo()
    endpoint = Endpoint(
        "localhost",
        listeners.wss if scheme == "wss" else listeners.ws,
        "tested",
        protocol=protocol,  # type: ignore[arg-type]
        tls=Tls(ca_file=str(listeners.certificates / "ca.pem")) if scheme == "wss" else None,
        websocket_path="/mqtt",
        websocket_headers=(("X-Site", "plant 7"),),
    )
    with running(session, endpoint) as link:
        wait_until(lambda: len(session.came) == len(payloads), "all that come back")
        assert link.metrics.failures == 0
    with running(plain, Endpoint("localhost", listeners.plain, "plain")):
        wait_until(lambda: plain.stands, "the subscription")
        with running(Sender(*large), endpoint) as link:
            wait_until(lambda: len(plain.came) == len(large), "the large ones")
            assert link.metrics.failures == 0
    assert session.came == payloads
    assert plain.came == large


def test_frames_are_read_however_they_are_cut() -> None:
    """Frames of any size with pings and empty ones between, as a server sends them: without a mask."""
    chance = random.Random(7)
    payloads = [chance.randbytes(n) for n in (0, 1, 125, 126, 127, 65_535, 65_536, 200_000, 3)]
    sent = b"".join(_frame_of_server(0x9, b"ping") + _frame_of_server(0x2, payload) for payload in payloads)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link, found = WebSocket(ours), bytearray()
        link.setblocking(False)
        while sent:
            size = chance.choice((1, 2, 3, 5, 1_000, 50_000))
            theirs.sendall(sent[:size])
            sent = sent[size:]
            with suppress(BlockingIOError):
                while True:
                    found += link.recv(chance.choice((1, 7, 4_096, 65_536)))
        assert bytes(found) == b"".join(payloads)


def _frame_of_server(kind: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes([0x80 | kind, size]) + payload
    if size < 65_536:
        return bytes([0x80 | kind, 126]) + size.to_bytes(2, "big") + payload
    return bytes([0x80 | kind, 127]) + size.to_bytes(8, "big") + payload


def test_each_wrong_kind_of_port_is_named_with_the_key_to_change(listeners: Listeners) -> None:
    ca = Tls(ca_file=str(listeners.certificates / "ca.pem"))
    assert "does not speak TLS on this port; url must begin with mqtt://" in error_of(
        port=listeners.plain, tls=ca
    )
    for port in (listeners.tls, listeners.ws, listeners.wss):
        assert "url must begin with" in (said := error_of(port=port)) or "right kind of port" in said
    assert "does not speak WebSocket; url must name that port" in error_of(
        port=listeners.plain, websocket_path="/mqtt"
    )


def test_certificates_that_do_not_fit_are_named_with_the_key_to_change(
    listeners: Listeners, tmp_path: Path
) -> None:
    certs = listeners.certificates
    wrong = error_of(port=listeners.tls, tls=Tls(ca_file=str(certs / "other-ca.pem")))
    assert "is not signed by" in wrong
    assert wrong.endswith("set tls.ca_file")
    name = error_of(host="127.0.0.1", port=listeners.tls, tls=Tls(ca_file=str(certs / "ca.pem")))
    assert "its certificate is not for 127.0.0.1; set tls.server_name" in name
    (tmp_path / "empty.pem").write_text("nothing\n")
    for path, problem in ((tmp_path / "empty.pem", "holds no certificate"), (tmp_path / "x", "No such file")):
        with pytest.raises(BrokerError, match=rf"tls\.ca_file .*{problem}"):
            tls_context(Tls(ca_file=str(path)))
    with pytest.raises(BrokerError, match="the key does not belong to the certificate"):
        tls_context(Tls(cert_file=str(certs / "broker.pem"), key_file=str(certs / "ca.key")))
    own = {"cert_file": str(certs / "broker.pem"), "key_file": str(certs / "locked.key")}
    with pytest.raises(BrokerError, match=r"set tls\.key_password_file"):
        tls_context(Tls(**own))  # type: ignore[arg-type]
    (tmp_path / "password").write_text("s3cret\n")
    tls_context(Tls(**own, key_password_file=str(tmp_path / "password")))  # type: ignore[arg-type]


def test_the_server_name_is_asked_for_and_expected(listeners: Listeners) -> None:
    tls = Tls(
        ca_file=str(listeners.certificates / "ca.pem"), server_name="broker.example", alpn=("x-amzn-mqtt-ca",)
    )
    session = Echo(b"1")
    with running(session, Endpoint("127.0.0.1", listeners.tls, "tested", tls=tls)):
        wait_until(lambda: session.came, "an echo")


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_a_proxy_with_a_password_leads_to_the_broker(listeners: Listeners, tmp_path: Path, kind: str) -> None:
    session = Echo(b"1")
    tls = Tls(ca_file=str(listeners.certificates / "ca.pem"))
    with RunningProxy(kind, tmp_path) as running_proxy:
        way = running_proxy.place
        with running(session, Endpoint("localhost", listeners.tls, "tested", tls=tls, proxy=way)):
            wait_until(lambda: session.came, "an echo")
        wrong = Proxy(way.scheme, way.host, way.port, "user", "wrong")
        assert "check proxy" in error_of(port=listeners.plain, proxy=wrong)


def test_the_next_broker_of_the_list_is_tried_and_the_first_looked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "FAIL_BACK_S", 0.05)
    first, second = StubBroker(), StubBroker()
    dead = Endpoint("127.0.0.1", free_port(), "tested", reconnect_max_s=0.05)
    again = Endpoint("127.0.0.1", second.port, "tested", reconnect_max_s=0.05)
    port = dead.port
    with second.running():
        settings = {"host": "127.0.0.1", "port": port, "client_id": "tested", "reconnect_max_s": 0.05}
        endpoint = Endpoint(**settings, alternatives=(again,))  # type: ignore[arg-type]
        with running(Session(), endpoint) as link:
            wait_until(lambda: second.of(CONNECT) and link.connected, "the second")
            failures = link.metrics.failures
            listener = socket.create_server(("127.0.0.1", port))
            first._listener.close()
            first._listener = listener
            with first.running():
                wait_until(lambda: first.of(CONNECT), "the first, once it is back")
                assert link.metrics.failures == failures


def test_a_password_is_read_and_made_anew_at_each_connect_and_before_it_runs_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("one\n")
    broker = StubBroker()
    endpoint = Endpoint(
        *("127.0.0.1", broker.port, "tested"),
        username="u",
        password_file=secret,
        password_ttl_s=1.0,
        reconnect_max_s=0.05,
    )
    with broker.running(), running(Session(), endpoint) as link:
        wait_until(lambda: broker.of(CONNECT), "the first connection")
        secret.write_text("two\n")
        wait_until(lambda: len(broker.of(CONNECT)) > 1, "the second")
        assert [p.password for p in broker.of(CONNECT)][:2] == ["one", "two"]
        assert link.metrics.failures == 0


def test_a_command_gives_a_password_or_says_why_not() -> None:
    assert CommandPassword("printf 'a b\\n'")() == "a b"
    with pytest.raises(BrokerError, match=r"password\.command ended with 3: no token"):
        CommandPassword("sh -c 'echo no token >&2; exit 3'")()
    with pytest.raises(BrokerError, match=r"password\.command does not run: No such file"):
        CommandPassword("/nowhere/at-all")()


def test_a_shared_access_signature_is_what_azure_documents() -> None:
    """Made by OpenSSL: HMAC-SHA256 with the decoded key over the quoted resource, a line feed, the time."""
    token = azure_sas("hub.azure-devices.net/devices/d1", "c2VjcmV0", 1_700_000_000)
    assert token == (
        "SharedAccessSignature sr=hub.azure-devices.net%2Fdevices%2Fd1&sig=SIGNATURE&se=1700000000"
    ).replace("SIGNATURE", _signature(b"hub.azure-devices.net%2Fdevices%2Fd1\n1700000000"))
    with pytest.raises(BrokerError, match="no key in Base64"):
        azure_sas("r", "not base64!", 0)


def _signature(message: bytes) -> str:
    done = subprocess.run(
        ["openssl", "dgst", "-sha256", "-hmac", "secret", "-binary"],
        input=message,
        capture_output=True,
        check=True,
    )
    text = subprocess.run(["openssl", "base64"], input=done.stdout, capture_output=True, check=True).stdout
    return text.decode().strip().replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
