"""Free ports of this machine."""

from __future__ import annotations

import socket


def free_port(host: str) -> int:
    """Return a TCP port of `host` on which nothing listens at this moment."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
