"""Common faults of a site: which message the centre sees, and after how many seconds, without a shell there.

The centre has its own broker and what `gateway fleet status` shows, with the intervals as they are by
default. `--log-cli-level=INFO` prints the table that stands in docs/many-sites.md.
"""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import MosquittoFactory
from tests.support.brokers import Broker
from tests.support.centre import Centre
from tests.support.certificates import make_authority, make_certificate
from tests.support.disks import fill, mounted
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.places import TESTS
from tests.support.ports import free_port
from tests.support.publishing import publish
from tests.support.timepeers import need

log = logging.getLogger(__name__)
pytestmark = pytest.mark.slow
SITE = "g1"


class Diagnosis:
    """One site and the centre's broker, both well at first."""

    def __init__(self, folder: Path, make_broker: MosquittoFactory) -> None:
        self.folder = folder
        self.make_broker = make_broker
        self.local: Broker = make_broker()
        self.cloud: Broker = make_broker()
        self.sections: dict[str, Any] = {}

    @contextmanager
    def running(self) -> Iterator[GatewayProcess]:
        """The site, until the end; at the beginning the centre sees that all is well."""
        self.config = gateway_config(self.folder, self.local.url, self.cloud.url, **self.sections)
        self.centre = Centre(self.cloud.port)
        with self.centre.listening(), GatewayProcess(self.config) as gateway:
            gateway.wait_ready()
            wait_until(lambda: self.centre.is_online(SITE), "the site is online")
            wait_until(lambda: not self.centre.alarms(SITE), "nothing is wrong")
            yield gateway

    def change(self, gateway: GatewayProcess, **sections: Any) -> None:
        """Somebody changes the file at the site."""
        self.config.write_text(yaml.safe_dump(yaml.safe_load(self.config.read_text()) | sections))
        gateway.reload()

    def told(
        self, fault: str, harm: Callable[[], object], message: str, within_s: float, *, again: bool = False
    ) -> None:
        """Do harm, once or all the time, and measure until the centre sees the message."""
        started_s = time.monotonic()
        harm()

        def seen() -> list[str]:
            if again:
                harm()
            return [one for one in self.centre.alarms(SITE) if message in one]

        try:
            wait_until(seen, message, within_s)
        except AssertionError as exc:
            raise AssertionError(f"{exc}; the centre sees {self.centre.alarms(SITE)}") from exc
        log.info("| %s | `%s` | %.0f s |", fault, seen()[0], time.monotonic() - started_s)


@pytest.fixture
def site(tmp_path: Path, mosquitto: MosquittoFactory) -> Diagnosis:
    return Diagnosis(tmp_path, mosquitto)


def readings(port: int, count: int = 5) -> None:
    publish(
        port, [("sensors/d1", json.dumps({"v": n, "t": time.time_ns() // 1_000_000})) for n in range(count)]
    )


def broker_for(user: str, site: Diagnosis, folder: Path) -> Broker:
    """A broker with one account, whose password is `right`."""
    need("mosquitto_passwd", packages="mosquitto")
    folder.mkdir()
    subprocess.run(["mosquitto_passwd", "-b", "-c", folder / "passwords", user, "right"], check=True)
    (folder / "passwords").chmod(0o644)
    return site.make_broker([f"password_file {folder}/passwords"], persistence=folder)


def test_a_wrong_password_at_the_local_broker(site: Diagnosis, tmp_path: Path) -> None:
    site.local = broker_for("gw", site, tmp_path / "broker")
    account = {"url": site.local.url, "username": "gw"}
    site.sections = {"local": account | {"password": "right"}}
    with site.running() as gateway:
        site.told(
            "wrong password at the local broker",
            lambda: site.change(gateway, local=account | {"password": "wrong"}),
            "not connected to the local broker",
            60,
        )


def test_a_wrong_certificate(site: Diagnosis, tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    folder.mkdir()
    make_authority(folder)
    make_authority(folder, "stranger")
    make_certificate(folder, "server")
    for file in folder.iterdir():
        file.chmod(0o644)
    port = free_port()
    own = [f"certfile {folder}/server.pem", f"keyfile {folder}/server.key"]
    site.local = site.make_broker([f"listener {port} {{bind}}", *own], persistence=folder, extra_ports=[port])
    local = {"url": f"mqtts://localhost:{port}"}
    site.sections = {"local": local | {"tls": {"ca_file": str(folder / "ca.pem")}}}
    with site.running() as gateway:
        site.told(
            "certificate of another authority",
            lambda: site.change(gateway, local=local | {"tls": {"ca_file": str(folder / "stranger.pem")}}),
            "its certificate is not signed by",
            60,
        )


def test_a_wrong_password_at_the_cloud(site: Diagnosis, tmp_path: Path) -> None:
    site.cloud = broker_for(SITE, site, tmp_path / "broker")
    account = {"url": site.cloud.url, "username": SITE}
    site.sections = {"cloud": account | {"password": "right"}}
    with site.running() as gateway:
        site.told(
            "wrong password or certificate at the cloud",
            lambda: site.change(gateway, cloud=account | {"password": "wrong"}),
            "offline",
            60,
        )
        # The centre's own broker says the rest.
        wait_until(lambda: "not authorised" in site.cloud.log(), "the broker's log says why")


def test_a_full_disk(site: Diagnosis, tmp_path: Path) -> None:
    with mounted(tmp_path / "data", "24m") as disk, site.running():

        def fills() -> None:
            fill(disk)
            readings(site.local.port, 200)

        site.told("full disk", fills, "cannot be written", 120, again=True)


def test_a_clock_that_is_an_hour_off(
    site: Diagnosis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("cc", packages="gcc libc6-dev")
    library, wall = tmp_path / "wall.so", tmp_path / "wall"
    source = TESTS / "support" / "wall.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    wall.write_text("shift 0")
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("WALL_FILE", str(wall))
    with site.running():
        monkeypatch.undo()
        site.told("clock an hour off", lambda: wall.write_text("shift 3600"), "clock", 150)


def test_a_silent_device(site: Diagnosis) -> None:
    site.sections = {"devices": {"silent_after": "10s"}}
    with site.running():
        site.told(
            "device silent (`silent_after: 10s`)", lambda: readings(site.local.port), "of its windows", 120
        )


def test_a_bridge_that_is_refused(site: Diagnosis, tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    folder.mkdir()
    rules = "topic read #\ntopic write gateway/+/status\ntopic write gateway/+/audit\n"
    acl = folder / "acl"
    acl.write_text(rules)
    acl.chmod(0o644)
    site.cloud = site.make_broker([f"acl_file {acl}"], persistence=folder)
    with site.running():
        site.told(
            "bridge refused by the cloud's ACL",
            lambda: readings(site.local.port),
            "acknowledged nothing",
            150,
        )
