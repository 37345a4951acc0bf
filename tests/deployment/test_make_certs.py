"""mosquitto/make-certs.sh: two authorities, renewal, revocation, and names that stay."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import MosquittoFactory
from tests.deployment.test_mosquitto import needs, run_script, shipped, tls_client_is_answered
from tests.support.brokers import Broker
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish


def names(certificate: Path) -> set[str]:
    command = ["openssl", "x509", "-in", str(certificate), "-noout", "-ext", "subjectAltName"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {each.strip() for each in said.splitlines()[1].split(",")}


def context(certs: Path, authority: str, name: str) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(certs / f"{authority}.pem"))
    made.load_cert_chain(certs / f"{name}.pem", certs / f"{name}.key")
    return made


@pytest.fixture(autouse=True)
def _has_openssl() -> None:
    needs("openssl")


def test_names_of_earlier_runs_stay_and_addresses_may_be_of_ipv6(tmp_path: Path) -> None:
    run_script(tmp_path, "make-certs.sh", "--server", "fd00::7", "--server", "gw.lan", "plant-7")
    run_script(tmp_path, "make-certs.sh", "--server", "10.1.1.1")
    usual = {"DNS:localhost", "DNS:cloud-broker", "DNS:local-broker", "IP Address:127.0.0.1"}
    for server in ("server", "devices-server"):
        found = names(tmp_path / "certs" / f"{server}.pem")
        assert usual <= found
        assert {"DNS:gw.lan", "IP Address:10.1.1.1", "IP Address:FD00:0:0:0:0:0:0:7"} <= found
    before = (tmp_path / "certs" / "server.pem").read_bytes()
    run_script(tmp_path, "make-certs.sh")
    assert (tmp_path / "certs" / "server.pem").read_bytes() == before


def test_a_device_cannot_act_as_a_gateway_at_the_cloud(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    needs("mosquitto_passwd")
    cloud = shipped(mosquitto, tmp_path, "cloud.conf", clients=("--device", "plant-8", "plant-7"))
    certs = tmp_path / "certs"
    assert tls_client_is_answered(cloud.ports[8883], context(certs, "ca", "plant-7"))
    assert not tls_client_is_answered(cloud.ports[8883], context(certs, "ca", "plant-8"))


def test_what_expires_soon_is_renewed_with_its_key_and_its_names_and_nothing_else(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    run_script(tmp_path, "make-certs.sh", "--server", "gw.lan", "plant-7")
    soon = ("--seconds", "864000")
    run_script(tmp_path, "make-certs.sh", *soon, "--device", "hall-1", "--server", "gw2.lan", "plant-8")
    before = {path.name: path.read_bytes() for path in certs.iterdir()}
    run_script(tmp_path, "make-certs.sh", "--renew")
    changed = {path.name for path in certs.glob("*.pem") if path.read_bytes() != before[path.name]}
    assert changed == {"hall-1.pem", "plant-8.pem", "server.pem", "devices-server.pem"}
    assert all(path.read_bytes() == before[path.name] for path in certs.glob("*.key"))
    assert {"DNS:gw.lan", "DNS:gw2.lan"} <= names(certs / "server.pem")
    for name, authority in {"hall-1": "devices-ca", "plant-8": "ca"}.items():
        command = [
            "openssl",
            "verify",
            "-CAfile",
            str(certs / f"{authority}.pem"),
            str(certs / f"{name}.pem"),
        ]
        subprocess.run(command, check=True, capture_output=True)


def cloud_with(mosquitto: MosquittoFactory, folder: Path, *more: str) -> Broker:
    """A broker with TLS whose certificates are those that the script made in `folder`."""
    certs = folder / "certs"
    for path in certs.iterdir():
        path.chmod(0o644)
    served = folder / "served"
    served.mkdir()
    for name in ("ca.pem", "server.pem", "server.key", "crl.pem"):
        shutil.copy(certs / name, served)
    files = [f"cafile {served}/ca.pem", f"certfile {served}/server.pem", f"keyfile {served}/server.key"]
    return mosquitto(
        [*files, "require_certificate true", *(each.format(served) for each in more)], persistence=served
    )


def test_a_revoked_certificate_is_refused_and_others_are_not(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    run_script(tmp_path, "make-certs.sh", "plant-7", "plant-8")
    known = {name: context(tmp_path / "certs", "ca", name) for name in ("plant-7", "plant-8")}
    run_script(tmp_path, "make-certs.sh", "--revoke", "plant-8")
    cloud = cloud_with(mosquitto, tmp_path, "crlfile {}/crl.pem")
    assert tls_client_is_answered(cloud.port, known["plant-7"])
    assert not tls_client_is_answered(cloud.port, known["plant-8"])


@pytest.mark.slow
def test_a_certificate_that_expires_in_seconds_is_warned_of_and_renewed_and_nothing_is_lost(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local = mosquitto()
    run_script(tmp_path, "make-certs.sh")  # the server's last long
    run_script(tmp_path, "make-certs.sh", "--seconds", "20", "plant-7")
    ends_s = time.time() + 21
    cloud = cloud_with(mosquitto, tmp_path)
    certs = tmp_path / "certs"
    tls = {
        "ca_file": str(certs / "ca.pem"),
        "cert_file": str(certs / "plant-7.pem"),
        "key_file": str(certs / "plant-7.key"),
    }
    config = gateway_config(tmp_path, local.url, metrics={"status": "1s"})
    cloud_section = {"url": f"mqtts://localhost:{cloud.port}", "tls": tls, "reconnect_max": "1s"}
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"cloud": cloud_section}))
    sent = 0

    def sends() -> None:
        nonlocal sent
        publish(
            local.port, [(f"sensors/d{n % 3}", f'{{"t": {n}, "v": {n}}}') for n in range(sent, sent + 20)]
        )
        sent += 20

    def synced() -> float:
        return gateway.metric('gateway_buffer_events{status="synced"}')

    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        sends()
        wait_until(lambda: synced() >= sent, "all is in the cloud")
        assert "cert_file" in gateway.log()
        assert "expires in" in gateway.log()
        run_script(tmp_path, "make-certs.sh", "--renew")
        wait_until(lambda: time.time() > ends_s, "the first certificate is over")
        cloud.stop()
        sends()
        cloud.start()
        wait_until(lambda: synced() >= sent, "it comes back with the new certificate, and all is there")
        assert len(gateway.raw_payloads()) == sent
