"""What the HTTP server reads of a running gateway. It changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from gateway.buffer.store import Store
from gateway.buffer.writer import Writer
from gateway.mqtt.bridge import Bridge
from gateway.mqtt.connection import Link
from gateway.pipeline import Pipeline


class GatewayView(Protocol):
    """`gateway.app.Gateway`, as far as it is looked at from here."""

    store: Store
    writer: Writer
    pipeline: Pipeline
    bridges: list[Bridge]

    @property
    def buffer_path(self) -> Path: ...

    @property
    def links(self) -> Sequence[Link]: ...

    def health(self) -> list[str]: ...

    def readiness(self) -> list[str]: ...
