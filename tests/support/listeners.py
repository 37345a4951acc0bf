"""What lies between a gateway and its cloud: certificates, listeners of each kind, proxies."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from gateway.mqtt.endpoint import Proxy
from tests.conftest import MosquittoFactory
from tests.support.brokers import Broker
from tests.support.gateways import wait_until
from tests.support.ports import free_port

_TINYPROXY = "Port {port}\nListen 127.0.0.1\nBasicAuth user s3cret\nMaxClients 20\n"


def make_certificates(folder: Path) -> Path:
    """Make `ca.pem`, a certificate for localhost, one for a client, another authority, and a key with a
    password."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other-ca"):
        openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem"),
        )
    (folder / "names").write_text("subjectAltName=DNS:localhost,DNS:broker.example")
    for name, subject in (("broker", "localhost"), ("client", "plant-7")):
        openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={subject}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
        )
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", "2", "-extfile", "names", "-out", f"{name}.pem"),
        )
    openssl("rsa", "-aes256", "-in", "broker.key", "-out", "locked.key", "-passout", "pass:s3cret")
    for path in folder.iterdir():
        path.chmod(0o644)
    folder.chmod(0o755)
    return folder


class Listeners:
    """One Mosquitto with a listener of each kind."""

    def __init__(
        self, mosquitto: MosquittoFactory, certificates: Path, folder: Path, *, of_clients: bool = False
    ) -> None:
        shutil.copytree(certificates, folder / "certs")
        self.certificates = folder / "certs"
        self.tls, self.ws, self.wss = free_port(), free_port(), free_port()
        own = [
            f"cafile {self.certificates}/ca.pem",
            f"certfile {self.certificates}/broker.pem",
            f"keyfile {self.certificates}/broker.key",
        ]
        lines = [f"listener {self.tls} {{bind}}", *own]
        lines += ["require_certificate true"] if of_clients else []
        lines += [f"listener {self.ws} {{bind}}", "protocol websockets"]
        lines += [f"listener {self.wss} {{bind}}", "protocol websockets", *own]
        self.broker: Broker = mosquitto(lines, persistence=folder, extra_ports=[self.tls, self.ws, self.wss])
        self.plain = self.broker.port


class RunningProxy:
    """A proxy of Debian, `http` or `socks5`, which wants a password; skips the test where it is missing."""

    def __init__(self, kind: str, folder: Path) -> None:
        port = free_port()
        self.place = Proxy(kind, "127.0.0.1", port, "user", "s3cret")  # type: ignore[arg-type]
        self._process: subprocess.Popen[bytes] | None = None
        config = folder / "tinyproxy.conf"
        config.write_text(_TINYPROXY.format(port=port))
        if kind == "http":
            self._command = ["tinyproxy", "-d", "-c", str(config)]
        else:
            self._command = ["microsocks", "-i", "127.0.0.1", "-p", str(port), "-u", "user", "-P", "s3cret"]

    @property
    def url(self) -> str:
        """For `cloud.proxy`."""
        return f"{self.place.scheme}://user:s3cret@127.0.0.1:{self.place.port}"

    def start(self) -> None:
        if shutil.which(self._command[0]) is None:
            pytest.skip(f"{self._command[0]} is not installed")
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: _listens(self.place.port), "the proxy")

    def kill(self) -> None:
        """End it, and with it every connection."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> RunningProxy:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
