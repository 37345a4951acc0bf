"""Addresses on which a broker inside of the gateway may listen without a password: this machine only."""

from __future__ import annotations

import ipaddress

from gateway.core.errors import ConfigError


def check_loopback(host: str) -> None:
    """Raise ConfigError when others reach `host`: without a password a broker is for this machine only."""
    if not _is_loopback(host):
        raise ConfigError(
            f"the embedded broker would be open to everyone who reaches {host}",
            hint="listen on 127.0.0.1, or give it a username and a password",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
