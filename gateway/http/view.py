"""What the HTTP server reads of a running gateway. It changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from gateway.buffer.store import Store
from gateway.buffer.upkeep import Upkeep
from gateway.buffer.writer import Writer
from gateway.mqtt.bridge import Bridge
from gateway.mqtt.connection import Link
from gateway.windows.counters import Counters


class GatewayView(Protocol):
    """`gateway.app.Gateway`, as far as it is looked at from here."""

    store: Store
    writer: Writer
    upkeep: Upkeep
    bridges: list[Bridge]

    @property
    def buffer_path(self) -> Path: ...

    @property
    def undecoded(self) -> Mapping[tuple[str, str], int]:
        """By (route, reason)."""

    @property
    def field_misses(self) -> Mapping[tuple[str, str], int]:
        """By (route, field)."""

    @property
    def window_counters(self) -> Mapping[str, Counters]:
        """By window."""

    @property
    def links(self) -> Sequence[Link]: ...

    def health(self) -> list[str]: ...

    def readiness(self) -> list[str]: ...
