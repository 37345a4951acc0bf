"""Addresses and options of connections to a broker."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tls:
    """Options of a TLS connection; files are read at each. `insecure` skips the check of the broker's name
    and certificate. `server_name` is the name to ask for and expect, where it is not the host."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    insecure: bool = False
    alpn: tuple[str, ...] = ()
    server_name: str | None = None
    key_password_file: str | None = None


@dataclass(frozen=True)
class Proxy:
    """A proxy on the way to the broker."""

    scheme: Literal["http", "socks5"]
    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Will:
    """The message that the broker publishes for us when the connection dies."""

    topic: str
    payload: bytes | Callable[[], bytes]  # what is called at each attempt to connect
    qos: int = 1
    retain: bool = True


@dataclass(frozen=True)
class Endpoint:
    """Address and options of a connection. Durations are seconds."""

    host: str
    port: int
    client_id: str
    protocol: Literal["3.1.1", "5"] = "3.1.1"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None  # read anew at each connect; `password` is what it held at the start
    keepalive_s: int = 30
    tls: Tls | None = None
    persistent: bool = False  # ask the broker to keep the session (and what it queues) between connections
    session_expiry_s: int = 7 * 24 * 3600  # MQTT 5 only; 3.1.1 leaves it to the broker
    receive_maximum: int = 1000  # MQTT 5 only
    max_packet_bytes: int | None = None  # MQTT 5 only: what the broker may send us
    takes_bytes: int | None = None  # the largest packet that it takes; MQTT 5 brokers say so themselves
    will: Will | None = None
    reconnect_max_s: float = 30.0  # the longest pause between two attempts to connect
    reconnect_min_s: float = 0.0  # the shortest
    websocket_path: str | None = None  # None: no WebSocket
    websocket_headers: tuple[tuple[str, str], ...] = ()
    proxy: Proxy | None = None
    read_password: Callable[[], str] | None = field(default=None, repr=False)  # at each connect
    password_ttl_s: float | None = None  # the connection is made anew before it runs out
    alternatives: tuple[Endpoint, ...] = ()  # tried in turn when this one does not work

    def current_password(self) -> str | None:
        """The password as its file has it now, so that a corrected or a new one needs no restart."""
        if self.read_password is not None:
            return self.read_password()
        if self.password_file is None:
            return self.password
        try:
            return self.password_file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as exc:
            log.warning("%s cannot be read, the last known password is used: %s", self.password_file, exc)
            return self.password

    @property
    def place(self) -> str:
        """The address for messages to people."""
        return f"{self.host}:{self.port}"
