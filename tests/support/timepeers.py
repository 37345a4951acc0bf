"""Real peers that know the time, on the loopback: chrony, gpsd fed by gpsfake, ptp4l over a veth pair.

Each is a context manager; `missing` says why one cannot run here. What they show can be shifted, so that a
test sees whether the gateway follows them and not the machine's own clock.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import xor
from pathlib import Path

import pytest

from tests.support.ports import free_port

HOST = "127.0.0.1"
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin"


def need(*programs: str, packages: str) -> None:
    """Skip the test where a program is missing; in CI they must be there."""
    missing = [name for name in programs if shutil.which(name, path=PATH) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"CI needs {', '.join(missing)}: apt-get install {packages}")
    if missing:
        pytest.skip(f"there is no {', '.join(missing)}; on Debian: apt-get install {packages}")


@contextmanager
def running(command: Sequence[str | Path], folder: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program in `folder`, with its output in a file there; gone at the end."""
    program = shutil.which(command[0], path=PATH) or command[0]
    with (folder / f"{Path(command[0]).name}.log").open("ab") as log:
        process = subprocess.Popen(
            [program, *command[1:]],
            cwd=folder,
            stdout=log,
            stderr=log,
            env=os.environ | {"PATH": PATH} | env,
            start_new_session=True,  # faketime and gpsfake have children
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)


CHRONY = """
port {port}
bindaddress {host}
allow 127.0.0.0/8
local stratum 3
cmdport 0
pidfile {folder}/chronyd.pid
"""


@contextmanager
def chrony(folder: Path, shift_s: float = 0, port: int | None = None) -> Iterator[int]:
    """An NTP server whose time is `shift_s` ahead of this machine's; gives its port."""
    need("chronyd", *(["faketime"] if shift_s else []), packages="chrony faketime")
    folder.mkdir()
    port = free_udp_port() if port is None else port
    (folder / "chrony.conf").write_text(CHRONY.format(port=port, host=HOST, folder=folder))
    command: list[str | Path] = ["chronyd", "-d", "-x", "-f", folder / "chrony.conf", "-u", "root", "-U"]
    if shift_s:
        command = [
            "faketime",
            "-f",
            f"{shift_s:+f}s",
            shutil.which("chronyd", path=PATH) or "chronyd",
            *command[1:],
        ]
    with running(command, folder):
        yield port


def free_udp_port() -> int:
    """A UDP port of the loopback that nobody has now."""
    while True:
        port = free_port()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


def nmea(start: datetime, seconds: int, *, fix: bool = True) -> str:
    """What a receiver says each second: RMC and GGA, and GSA for the kind of fix."""
    lines = []
    for number in range(seconds):
        now = start + timedelta(seconds=number)
        clock, day = now.strftime("%H%M%S.00"), now.strftime("%d%m%y")
        valid, quality, mode, used = ("A", 1, 3, "08") if fix else ("V", 0, 1, "00")
        lines += [
            f"GPRMC,{clock},{valid},5230.0000,N,01324.0000,E,0.0,0.0,{day},,,A",
            f"GPGGA,{clock},5230.0000,N,01324.0000,E,{quality},{used},1.0,34.0,M,46.9,M,,",
            f"GPGSA,A,{mode},01,02,03,04,05,06,07,08,,,,,1.8,1.0,1.5",
        ]
    return "".join(f"${line}*{reduce(xor, line.encode()):02X}\r\n" for line in lines)


@contextmanager
def gps(folder: Path, log: str) -> Iterator[int]:
    """gpsd behind gpsfake, which plays an NMEA log one sentence after the other; gives gpsd's port."""
    need("gpsd", "gpsfake", packages="gpsd gpsd-clients")
    folder.mkdir()
    (folder / "gps.nmea").write_text(log, newline="")
    port = free_port()
    # Three sentences a second, over TCP: where there are no pseudo terminals it works too.
    command = ["gpsfake", "-c", "0.33", "-P", str(port), "-q", str(folder / "gps.nmea")]
    with running(command, folder):
        yield port


PTP = """
[global]
time_stamping software
free_running 1
tx_timestamp_timeout 50
logging_level 6
logAnnounceInterval -2
logSyncInterval -2
logMinDelayReqInterval -2
uds_address {folder}/{name}.sock
{role}
"""


@contextmanager
def ptp(folder: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """Two ptp4l in network namespaces on a veth pair; gives the slave's management socket and the master."""
    need("ptp4l", "ip", packages="linuxptp iproute2")
    folder.mkdir()
    tag = f"t{os.getpid() % 10_000}"
    with ExitStack() as stack:
        ends = {"master": "priority1 10", "slave": "slaveOnly 1"}
        for name in ends:
            _ip(f"netns add {tag}{name}", "network namespaces cannot be made here")
            stack.callback(_ip, f"netns del {tag}{name}")
        _ip(
            f"link add {tag}a netns {tag}master type veth peer name {tag}b netns {tag}slave",
            "there is no veth",
        )
        started = {}
        for name, (role, device) in zip(
            ends, [(ends["master"], f"{tag}a"), (ends["slave"], f"{tag}b")], strict=True
        ):
            _ip(f"-n {tag}{name} addr add 10.77.0.{1 + (name == 'slave')}/24 dev {device}")
            _ip(f"-n {tag}{name} link set {device} up")
            (folder / f"{name}.conf").write_text(PTP.format(folder=folder, name=name, role=role))
            command = [
                "ip",
                "netns",
                "exec",
                tag + name,
                "ptp4l",
                "-m",
                "-i",
                device,
                "-f",
                str(folder / f"{name}.conf"),
            ]
            started[name] = stack.enter_context(running([*command], folder))
        yield folder / "slave.sock", started["master"]


def _ip(arguments: str, why_not: str = "") -> None:
    done = subprocess.run(
        ["ip", *arguments.split()], capture_output=True, text=True, check=False, env={"PATH": PATH}
    )
    if done.returncode and why_not:
        pytest.skip(f"{why_not}: {done.stderr.strip()}")


def soon(seconds: int = 1) -> datetime:
    """The whole second that begins next."""
    return datetime.fromtimestamp(int(time.time()) + seconds, UTC)
