"""The retained status as a record: what a centre needs to know of a gateway without reaching it."""

from __future__ import annotations

from typing import Any

from gateway import __version__
from gateway.buffer.reader import Reader
from gateway.core.events import Priority, Status
from gateway.status.gateway_status import GatewayStatus

_OLDEST = (
    "SELECT ingest_time FROM buffer_events"
    " WHERE status = ? AND status < 2 AND priority = ? ORDER BY id LIMIT 1"
)


def status_record(status: GatewayStatus, reader: Reader, alarms: int) -> dict[str, Any]:
    """Return the status as plain values; docs/wire-format.md explains each."""
    now_ms = status.clock.now_ms()
    forecast = status.forecast()
    clock = status.timekeeper.status()
    devices = status.presence.devices(now_ms)
    return {
        "state": "online",
        "version": __version__,
        "time_ms": now_ms,
        "started_ms": status.started_ms,
        "problems": status.readiness(),
        "config": status.configuration(),
        "pending": forecast.waiting,
        "oldest_pending_ms": oldest_pending_ms(reader),
        "failed": status.store.counts["status", Status.FAILED.name],
        "drain": {
            "state": forecast.state,
            "empty_in_s": forecast.empty_in_s,
            "full_in_s": forecast.full_in_s,
        },
        "disk_free_bytes": status.space.free_bytes,
        "clock": {"state": clock.state, "source": clock.source, "uncertainty_s": clock.uncertainty_s},
        "certificate_days": _certificate_days(status),
        "alarms": alarms,
        "devices": {"known": len(devices), "silent": sum(device.silent for device in devices)},
        "subscribed_since_ms": status.subscriptions.since_ms,
    }


def _certificate_days(status: GatewayStatus) -> float | None:
    """Return the days until the first certificate of the configuration expires; None without any."""
    left_s = min((left_s for _, left_s in status.certificates.left_s()), default=None)
    return None if left_s is None else round(left_s / 86_400, 2)


def oldest_pending_ms(reader: Reader) -> int | None:
    """Return when the oldest event that is not in the cloud came in; None when there is none."""
    found = [
        row[0]
        for state in (Status.PENDING, Status.SYNCING)
        for priority in Priority
        for row in reader.rows(_OLDEST, int(state), int(priority))
    ]
    return min(found, default=None)
