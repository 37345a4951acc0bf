"""When certificates expire is read from their files, and said before."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.host.certificates import CertificateFile, CertificateWatch
from gateway.mqtt.endpoint import Endpoint, Tls
from gateway.mqtt.link import Link, Session
from tests.conftest import MosquittoFactory
from tests.support.certificates import make_authority, make_certificate, openssl
from tests.support.commands import gateway as command
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port

DAY_S = 86_400.0


def end_of(path: Path) -> float:
    """When it expires, as OpenSSL reads it."""
    said = openssl(path.parent, "x509", "-in", str(path), "-noout", "-enddate")
    said = said.strip().removeprefix("notAfter=")
    return datetime.strptime(said, "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize("days", [-1, 10, 15_000])
@pytest.mark.parametrize("curve", [True, False])
def test_the_end_is_that_which_openssl_reads(tmp_path: Path, days: int, curve: bool) -> None:
    path = make_authority(tmp_path, days=days, curve=curve)
    assert CertificateFile("x", path).expires_at_s() == end_of(path)
    assert abs(end_of(path) - time.time() - days * DAY_S) < 100


def test_a_chain_ends_with_its_first_and_authorities_with_their_last_certificate(tmp_path: Path) -> None:
    old, new = (make_authority(tmp_path, name, days) for name, days in (("old", 10), ("new", 200)))
    both = tmp_path / "both.pem"
    both.write_text("text before\n" + old.read_text() + new.read_text())
    assert CertificateFile("x", both).expires_at_s() == end_of(old)
    assert CertificateFile("x", both, holds_authorities=True).expires_at_s() == end_of(new)


@pytest.mark.parametrize(
    "content", [b"", b"nothing", b"-----BEGIN CERTIFICATE-----\nMAMCAQA=\n-----END", b"\xff"]
)
def test_what_holds_no_certificate_has_no_end(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pem"
    path.write_bytes(content)
    assert CertificateFile("x", path).expires_at_s() is None
    assert CertificateFile("x", tmp_path / "none").warning(time.time()) == ""


def test_an_end_is_said_a_month_and_a_week_before_and_when_it_is_there_each_once(tmp_path: Path) -> None:
    path = make_authority(tmp_path, days=40)
    now_s, said = time.time(), list[str]()
    clock = [now_s]
    file = CertificateFile("cloud.tls.ca_file", path, holds_authorities=True)
    watch = CertificateWatch([file], lambda name, message: said.append(message), lambda: int(clock[0] * 1000))
    for day in range(50):
        clock[0] = now_s + day * DAY_S
        watch.look(day * DAY_S)
    first, second, third = said
    assert first.startswith(f"cloud.tls.ca_file ({path}) expires in 29 days, on ")
    assert "expires in 6 days" in second
    assert "expired on" in third
    make_authority(tmp_path, days=60)
    watch.look(51 * DAY_S)
    watch.look(52 * DAY_S)
    assert len(said) == 4
    ((_, left_s),) = watch.left_s()
    assert left_s == pytest.approx(11 * DAY_S, abs=100)


def tls_config(folder: Path, url: str, certs: Path) -> Path:
    files = {"ca_file": "ca.pem", "cert_file": "edge.pem", "key_file": "edge.key"}
    tls = {key: str(certs / name) for key, name in files.items()}
    return gateway_config(folder, url, local={"url": url, "tls": tls})


def test_check_warns_and_a_running_gateway_alerts_and_measures(tmp_path: Path) -> None:
    make_authority(tmp_path)
    edge = make_certificate(tmp_path, "edge", days=12)
    config = tls_config(tmp_path, f"mqtts://localhost:{free_port()}", tmp_path)
    warned = f"warning: local.tls.cert_file ({edge}) expires in 11 days, on "
    assert warned in command("check", "-c", config).stdout
    with GatewayProcess(config) as gateway:
        labels = f'{{file="{edge}",name="local.tls.cert_file"}}'
        metric = f"gateway_certificate_expires_seconds{labels}"
        wait_until(lambda: gateway.metric(metric), gateway.log())
        assert gateway.metric(metric) == pytest.approx(12 * DAY_S, abs=200)
        wait_until(lambda: "certificate_expires" in gateway.said("/api/alerts"), gateway.log())
        make_certificate(tmp_path, "edge", days=90)
        assert gateway.metric(metric) == pytest.approx(90 * DAY_S, abs=200)
    assert json.loads(command("check", "-c", config, "--json").stdout)["warnings"] == []


def authenticated(mosquitto: MosquittoFactory, folder: Path, **days: int) -> Endpoint:
    """How to reach a broker that asks for certificates, with the one of `edge`. `days` until they expire."""
    folder.mkdir()
    make_authority(folder, days=days.get("ca", 100))
    for name in ("edge", "broker"):
        make_certificate(folder, name, days=days.get(name, 100))
    for path in folder.iterdir():
        path.chmod(0o644)
    files = {"cafile": "ca.pem", "certfile": "broker.pem", "keyfile": "broker.key"}
    lines = [f"{key} {folder / name}" for key, name in files.items()]
    broker = mosquitto([*lines, "require_certificate true"], persistence=folder)
    tls = Tls(str(folder / "ca.pem"), str(folder / "edge.pem"), str(folder / "edge.key"))
    return Endpoint("localhost", broker.port, "tested", tls=tls, reconnect_max_s=0.2)


@contextmanager
def linked(endpoint: Endpoint) -> Iterator[Link]:
    link = Link("tested", endpoint, Session())
    link.start()
    try:
        yield link
    finally:
        link.stop()


@pytest.mark.parametrize("expired", ["ca", "edge", "broker"])
def test_a_certificate_that_has_expired_is_named_when_the_connection_fails(
    mosquitto: MosquittoFactory, tmp_path: Path, expired: str
) -> None:
    folder = tmp_path / "broker"
    with linked(authenticated(mosquitto, folder, **{expired: -1})) as link:
        wait_until(lambda: link.metrics.last_error, "the error")
        said = link.metrics.last_error
    if expired == "broker":
        assert "its certificate has expired; the broker needs a new one" in said
    else:
        key = "ca_file" if expired == "ca" else "cert_file"
        assert f"tls.{key} ({folder / expired}.pem) expired on " in said


def test_a_renewed_certificate_is_used_at_the_next_connection(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    with linked(authenticated(mosquitto, tmp_path / "broker", edge=-1)) as link:
        wait_until(lambda: "expired on" in link.metrics.last_error, "the refusal")
        make_certificate(tmp_path / "broker", "edge")
        wait_until(lambda: link.connected, "the connection")
