"""Tells systemd how this process is: sd_notify(3) as datagrams to $NOTIFY_SOCKET, without a library.

Elsewhere, where that variable is not set, nothing is sent.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)

_STATUS_EVERY_S = 10.0


class Service:
    """Messages to the service manager. For one thread; never blocks."""

    def __init__(self, environ: Mapping[str, str] = os.environ, own_pid: int | None = None) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        pid = own_pid or os.getpid()
        watched = self._address and environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        self._watchdog_s = int(environ.get("WATCHDOG_USEC", "0")) / 1e6 if watched else 0.0
        self._progress = -1

    @property
    def report_every_s(self) -> float | None:
        """Seconds between calls of `report`; None when nobody listens."""
        if not self._address:
            return None
        return min(self._watchdog_s / 3, _STATUS_EVERY_S) if self._watchdog_s else _STATUS_EVERY_S

    def ready(self) -> None:
        """Report that the gateway works: at the start, and again after a reload."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """Report that a new configuration is being loaded; `ready` ends that."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading")

    def stopping(self) -> None:
        """Report that the gateway is stopping."""
        self._tell("STOPPING=1", "STATUS=stopping")

    def report(self, progress: int, problems: list[str]) -> None:
        """Say how it is, and feed the watchdog if `progress` has changed since the last call."""
        lines = ["STATUS=" + ("; ".join(problems).replace("\n", " ") or "working")]
        if self._watchdog_s and progress != self._progress:
            lines.append("WATCHDOG=1")
        self._progress = progress
        self._tell(*lines)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        # "@" stands for the zero byte that begins a name outside of the file system.
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), name)
        except OSError as exc:
            log.warning("systemd does not hear %s: %s", lines[0], exc)
