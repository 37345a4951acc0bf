"""The state of a gateway as JSON values: what the API answers, the page shows and `gateway top` draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gateway import __version__
from gateway.alarms.register import as_json
from gateway.alarms.requests import counts, listed
from gateway.core.events import Status
from gateway.decode.presence import Device
from gateway.http.clock import clock_status
from gateway.http.results import Results
from gateway.mqtt.link import Link
from gateway.status.gateway_status import GatewayStatus
from gateway.timekeeping.devices import DeviceClock
from gateway.windows.spec import WindowSpec

LISTED_DEVICES = 50
GLANCED = 5
"""Devices of a kind, and alerts, that are in what every page gets; its rooms ask for more."""

LISTED_ALARMS = 20
"""Alarms in the live data; the list has them all."""


class State:
    """Gathers the gateway's state. Everything on request."""

    def __init__(self, status: GatewayStatus, results: Results) -> None:
        self._status = status
        self._results = results

    def whole(self) -> dict[str, Any]:
        """Return everything but history and results, small enough to be sent every second."""
        return {
            "time_ms": self._status.clock.now_ms(),
            "gateway": self.about(),
            "rates": self.rates(),
            "buffer": self.buffer(),
            "windows": self.windows(),
            "unmatched": list(self._status.unmatched),
            "links": self.links(),
            "devices": self.devices(),
            "alerts": self._results.alerts(),
            "alarms": self.alarms(),
            "sections": self.sections(),
        }

    def page(self) -> dict[str, Any]:
        """Return what every room of the page shows, in parts that are sent again when they change. It does
        not grow with the number of devices, windows and routes."""
        about = self.about()
        del about["uptime_s"]
        buffer = self.buffer()
        for by_route in ("undecoded", "field_misses", "oddities"):
            buffer[by_route] = sum(each["count"] for each in buffer[by_route])
        windows = self.windows()
        alerts = self._results.alerts()
        return {
            "time_ms": self._status.clock.now_ms(),
            "gateway": about,
            "rates": self.rates(),
            "buffer": buffer,
            "windows": {
                "configured": len(windows),
                "events": sum(window["events"] for window in windows),
                "emitted": sum(window["emitted"] for window in windows),
                "late_dropped": sum(window["late_dropped"] for window in windows),
                "plugin_errors": sum(window["plugin_errors"] for window in windows),
            },
            "unmatched": list(self._status.unmatched[:GLANCED]),
            "links": self.links(),
            "devices": self.devices(GLANCED),
            "alarms": self.alarms(GLANCED),
            "alerts": {"kept": len(alerts), "newest": alerts[:GLANCED]},
            "sections": self.sections(),
        }

    def alarms(self, shown: int = LISTED_ALARMS) -> dict[str, Any]:
        """Return how many alarms there are in each state, and the first ones that are on."""
        rows = self._status.alarms
        on = listed(rows)
        return {"counts": counts(rows), "on": [as_json(row) for row in on[:shown]]}

    def about(self) -> dict[str, Any]:
        """Return the gateway's identity and health."""
        gateway = self._status
        now_ms = gateway.clock.now_ms()
        problems = gateway.readiness()
        return {
            "id": gateway.gateway_id,
            "version": __version__,
            "started_ms": gateway.started_ms,
            "uptime_s": max(now_ms - gateway.started_ms, 0) // 1000,
            "status": "failing" if gateway.health() else "degraded" if problems else "ok",
            "problems": problems,
            "listens": list(gateway.topic_filters),
            "config": gateway.configuration(),
        }

    def progress(self) -> dict[str, float | None]:
        """Return the seconds since the last commit and the last acknowledgement, and the lag of the watermark
        that is furthest behind."""
        lags = [lag for window in self.windows() if (lag := window["lag_ms"]) is not None]
        return {
            "since_commit_s": round(self._status.since_commit_s, 1),
            "since_ack_s": round(self._status.drain.stalled_s(), 1) if self._status.bridges else None,
            "watermark_lag_s": max(lags) / 1000 if lags else None,
        }

    def rates(self) -> dict[str, float]:
        """Per second: `…_per_s` over the last few seconds, `…_now` in the last one."""
        names = {"in": "taken_in", "out": "acked", "results": "derived"}
        latest = self._status.history.latest
        return {
            **{f"{name}_per_s": round(self._status.history.rate(of), 1) for name, of in names.items()},
            "in_now": round(latest.in_per_s, 1) if latest else 0.0,
            "out_now": round(latest.out_per_s, 1) if latest else 0.0,
        }

    def buffer(self) -> dict[str, Any]:
        """Events by status, messages by outcome, the room on disk and where the backlog goes."""
        gateway = self._status
        counts = dict(gateway.store.counts)
        groups = {name: _labels(counts, name) for name in ("outcome", "rejected", "appended", "evicted")}
        return {
            "statuses": {s.name.lower(): counts.get(("status", s.name), 0) for s in Status},
            "unconfirmed": gateway.unconfirmed,
            "messages": groups["outcome"],
            "rejected": groups["rejected"],
            "appended": groups["appended"],
            "evicted": groups["evicted"],
            "undecoded": _by_route(gateway.undecoded),
            "field_misses": _by_route(gateway.field_misses),
            "oddities": _by_route(gateway.oddities),
            "used_bytes": gateway.buffer_bytes,
            "max_bytes": gateway.max_buffer_bytes,
            "uncommitted": gateway.writer.backlog,
            "commit_s": gateway.writer.metrics.last_commit_s,
            "storage_error": gateway.writer.metrics.storage_error,
            "forecast": gateway.forecast()._asdict(),
            "drain_per_s": round(gateway.drain.drain_rate(), 1),
        }

    def windows(self) -> list[dict[str, Any]]:
        """Each window with its shape, its counters and how far its watermark is behind."""
        counters, now_ms = self._status.window_counters, self._status.clock.now_ms()
        found = []
        for spec in self._status.window_specs:
            numbers = counters.get(spec.name)
            if numbers is None:
                continue
            watermark_ms = numbers.watermark_ms
            lag_ms = None if watermark_ms is None else max(now_ms - watermark_ms, 0)
            found.append({**_shape(spec), **asdict(numbers), "lag_ms": lag_ms})
        return found

    def links(self) -> list[dict[str, Any]]:
        """The MQTT connections."""
        return [_link(link) for link in self._status.links]

    def devices(self, listed: int = LISTED_DEVICES) -> dict[str, Any]:
        """Return the number of devices, and those that fell silent, have a wrong clock, or cannot be read."""
        devices = self._status.presence.devices(self._status.clock.now_ms())
        silent = [device for device in devices if device.silent]
        unreadable = sorted(device for device in devices if device.undecoded)
        wrong = self._status.device_clocks.wrong()
        return {
            "known": len(devices),
            "unwatched_messages": self._status.presence.unwatched,
            "silent_count": len(silent),
            "silent": [device._asdict() for device in silent[:listed]],
            "wrong_clock_count": len(wrong),
            "wrong_clock": [_wrong_clock(clock) for clock in wrong[:listed]],
            "unreadable_count": len(unreadable),
            "unreadable": [device._asdict() for device in unreadable[:listed]],
        }

    def all_devices(self) -> list[Device]:
        """Return every device, the one heard longest ago first."""
        return self._status.presence.devices(self._status.clock.now_ms())

    def history(self) -> list[tuple[int, float, float, int]]:
        """`[time_ms, in_per_s, out_per_s, waiting]` for each second that is kept."""
        return [
            (r.time_ms, round(r.in_per_s, 1), round(r.out_per_s, 1), r.waiting)
            for r in self._status.history.rows()
        ]

    def sections(self) -> dict[str, Mapping[str, object]]:
        """Return what further parts of the gateway tell."""
        return {
            "clock": clock_status(self._status),
            "backpressure": self._status.backpressure.describe(),
            "subscriptions": self._status.subscriptions.describe(),
        }


def _shape(spec: WindowSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "type": spec.type,
        "plugin": spec.plugin,
        "fields": list(spec.fields),
        "key": spec.key,
        "size_ms": spec.size_ms,
        "slide_ms": spec.slide_ms,
        "gap_ms": spec.gap_ms,
    }


def _link(link: Link) -> dict[str, Any]:
    return {
        "name": link.name,
        "peer": f"{link.endpoint.host}:{link.endpoint.port}",
        "connected": link.connected,
        "alive": link.alive,
        "connects": link.metrics.connects,
        "failures": link.metrics.failures,
        "last_error": "" if link.connected else link.metrics.last_error,
    }


def _wrong_clock(clock: DeviceClock) -> dict[str, Any]:
    return {
        "name": clock.device,
        "offset_ms": clock.offset_ms,
        "drift_ppm": clock.drift_ppm,
        "wrong_since_ms": clock.wrong_since_ms,
    }


def _labels(counts: Mapping[tuple[str, str], int], name: str) -> dict[str, int]:
    return {label: count for (counter, label), count in counts.items() if counter == name}


def _by_route(counts: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    return [{"route": route, "what": what, "count": count} for (route, what), count in list(counts.items())]
