"""The rules of who may read over HTTP: names that the gateway goes by, its token, and trusted origins."""

from __future__ import annotations

import hmac
import re
from hashlib import blake2b
from ipaddress import ip_address
from typing import NamedTuple

_HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.%]+)\]|(?P<name>[^\[\]:/@?#\s]+))(?::\d{1,5})?")


class Access(NamedTuple):
    """Access rules. `hosts` are names besides `localhost` and bare addresses; no `token`: anyone may read."""

    token: str | None = None
    hosts: frozenset[str] = frozenset()

    def knows_host(self, host: str) -> bool:
        """Return True if a Host header is one of ours: an address, which no one else can name, or a known
        name."""
        name = _without_port(host).lower()
        return name == "localhost" or name in self.hosts or _is_address(name)

    def admits(self, token: str) -> bool:
        """Return True if this is the token, in a time that does not reveal how much of it is right."""
        return self.token is None or hmac.compare_digest(token.encode(), self.token.encode())

    def admits_cookie(self, cookie: str) -> bool:
        return self.token is None or hmac.compare_digest(cookie.encode(), self.cookie.encode())

    def trusts_origin(self, origin: str | None, host: str) -> bool:
        """Return True unless a browser says that a foreign page sends the request. Programs send no Origin;
        `null` hides a foreign one. Behind a proxy the page has one of `hosts`."""
        if origin is None:
            return True
        named = origin.partition("://")[2].lower()
        return named == host.lower() or _without_port(named) in self.hosts

    @property
    def cookie(self) -> str:
        """The value that a browser keeps instead of the token itself."""
        return blake2b((self.token or "").encode(), digest_size=32, person=b"gateway-cookie").hexdigest()


def _without_port(host: str) -> str:
    """Return the name in a Host header; empty where it has neither the form NAME:PORT nor [ADDRESS]:PORT."""
    found = _HOST.fullmatch(host)
    return (found["address"] or found["name"]) if found else ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
