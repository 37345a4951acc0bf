"""TCP ports for tests: no two tests get the same one, whatever else runs on this machine.

They lie outside of the kernel's ephemeral range, so that a connection of some other process never takes the
port of a broker that is down for a moment. A port that was handed out stays locked until this process ends:
byte N of one lock file stands for port N, so that test runs beside each other keep out of each other's way.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from functools import cache
from pathlib import Path

_PORTS = range(20_000, 32_000)  # below Linux' default ip_local_port_range, which starts at 32,768
_TRIES = 500
_ours: set[int] = set()  # a process never conflicts with its own locks


def free_port() -> int:
    """Return a port of the loopback on which nobody listens, and which no other test gets."""
    for port in random.sample(_PORTS, _TRIES):
        if port not in _ours and _reserve(port) and not _somebody_listens(port):
            return port
    raise RuntimeError(f"none of {_TRIES} ports in {_PORTS} is free")


def _reserve(port: int) -> bool:
    try:
        fcntl.lockf(_lock_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    _ours.add(port)
    return True


def _somebody_listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@cache
def _lock_file() -> int:
    """Open the lock file, once: closing any descriptor of it would drop every lock of this process."""
    path = Path(tempfile.gettempdir()) / f"mqtt-edge-gateway-tests-{os.getuid()}.ports"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
