"""Alerts about the gateway itself, stored as events: for `…/alerts`, and for the cloud before all else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import orjson

from gateway.buffer.store import NewEvent, Store
from gateway.core.events import Kind, Priority

DERIVED_FAMILY = "aggregates"
"""The family whose dictionary compresses events that the gateway makes itself."""


class Alert(Protocol):
    """Stores an alert with a name, a message and more fields, inside the transaction of what it announces."""

    def __call__(self, store: Store, name: str, message: str, details: Mapping[str, Any], /) -> None: ...


def append_alert(
    store: Store,
    topic: str,
    now_ms: int,
    name: str,
    message: str,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Store an alert, inside the transaction of what it announces. `details` are more fields of its JSON."""
    alert = {"alert": name, "message": message, "time_ms": now_ms} | dict(details or {})
    payload = orjson.dumps(alert)
    store.append(
        [NewEvent(topic, DERIVED_FAMILY, now_ms, now_ms, None, Priority.CRITICAL, Kind.ALERT, 0, payload)]
    )
    store.count("appended", Kind.ALERT.name.lower())
