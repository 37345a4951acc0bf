"""What the HTTP server reads of a running gateway. It changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from gateway.buffer.repair.upkeep import Upkeep
from gateway.buffer.retention.disk_space import DiskSpace
from gateway.buffer.store import Store
from gateway.buffer.writer import Writer
from gateway.cloud.bridge import Bridge
from gateway.cloud.downlink import CloudSide
from gateway.core.clock import Clock
from gateway.decode.presence import Presence
from gateway.delivery.forecast import Forecast, Progress, Totals
from gateway.flow.capacity import Load, Signal
from gateway.mqtt.link import Link
from gateway.timekeeping.devices import DeviceClocks
from gateway.timekeeping.sources.keeper import Timekeeper
from gateway.windows.counters import Counters
from gateway.windows.spec import WindowSpec

StatusProvider = Callable[[], Mapping[str, object] | None]
"""A part of the state as plain JSON values, or None while there is nothing to say. Called from the HTTP
thread, once a second: it reads plain numbers and returns at once."""


class GatewayView(Protocol):
    """`gateway.app.gateway.Gateway`, as far as it is looked at from here."""

    store: Store
    writer: Writer
    upkeep: Upkeep
    space: DiskSpace
    bridges: list[Bridge]
    bridge_links: list[Link]
    drain: Progress
    downlink: CloudSide | None

    @property
    def clock(self) -> Clock: ...

    @property
    def gateway_id(self) -> str: ...

    @property
    def started_ms(self) -> int: ...

    @property
    def max_buffer_bytes(self) -> int: ...

    timekeeper: Timekeeper

    @property
    def buffer_path(self) -> Path: ...

    @property
    def topic_filters(self) -> Sequence[str]:
        """What it subscribes to."""

    @property
    def undecoded(self) -> Mapping[tuple[str, str], int]:
        """By (route, reason)."""

    @property
    def sparkplug(self) -> Mapping[str, int]:
        """What became of Sparkplug's edge nodes, by kind."""

    @property
    def field_misses(self) -> Mapping[tuple[str, str], int]:
        """By (route, field)."""

    @property
    def oddities(self) -> Mapping[tuple[str, str], int]:
        """Filtered readings and odd payloads, by (route, what)."""

    @property
    def window_specs(self) -> Sequence[WindowSpec]: ...

    @property
    def window_counters(self) -> Mapping[str, Counters]:
        """By window."""

    @property
    def presence(self) -> Presence: ...

    @property
    def signal(self) -> Signal:
        """What flow control asks of everyone."""

    @property
    def load(self) -> Load:
        """What it looks at."""

    @property
    def clock_skew(self) -> Mapping[tuple[str, str], int]:
        """By (route, kind)."""

    @property
    def device_clocks(self) -> DeviceClocks: ...

    @property
    def links(self) -> Sequence[Link]: ...

    @property
    def sections(self) -> Mapping[str, StatusProvider]:
        """What further parts of the gateway tell about themselves, such as `clock` and `backpressure`."""

    def totals(self) -> Totals:
        """What has been counted by now."""

    def forecast(self) -> Forecast:
        """What becomes of the backlog."""

    def health(self) -> list[str]: ...

    def readiness(self) -> list[str]: ...


def buffer_bytes(gateway: GatewayView) -> int:
    """What the buffer's files take on the disk."""
    path = gateway.buffer_path
    files = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]
    return sum(file.stat().st_size for file in files if file.exists())
