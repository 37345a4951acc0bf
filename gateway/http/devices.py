"""The devices as a table that is searched, filtered and sorted here, so that a page of 5,000 stays small."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from gateway.alarms.register import as_json
from gateway.alarms.requests import listed
from gateway.decode.presence import Device, clipped
from gateway.http.alarms import AlarmsApi
from gateway.http.answers import json_answer
from gateway.http.queries import one_of, rows_wanted
from gateway.http.results import Results
from gateway.http.units import Units
from gateway.status.gateway_status import GatewayStatus
from gateway.timekeeping.devices import DeviceClock

LISTED, MOST_LISTED = 50, 500
SHOWN_VALUES = 4
MOST_VALUES = 300
_BY_DEVICE = "{device}"

_ORDERS: Mapping[str, Callable[[Device], Any]] = {
    "name": lambda device: device.name.casefold(),
    "heard": lambda device: -device.last_ms,
    "rate": lambda device: device.interval_ms or float("inf"),
    "messages": lambda device: -device.messages,
    "unreadable": lambda device: -device.undecoded,
    "misses": lambda device: -device.missed,
}
_CHOICES = ("all", "silent", "clock", "misses", "unreadable", "alerts", "alarms")


class DevicesApi:
    """`/api/devices/table` and `/api/devices/one`, on the HTTP server's loop."""

    def __init__(
        self,
        status: GatewayStatus,
        results: Results,
        alarms: AlarmsApi,
        refresh: Callable[[], None],
        units: Units,
    ) -> None:
        self._status = status
        self._results = results
        self._alarms = alarms
        self._refresh = refresh
        self._units = units

    async def table(self, request: Request) -> Response:
        """`?search=&only=all|silent|clock|misses|…&sort=name&descending=&offset=&limit=`."""
        query = request.query_params
        sort, only = one_of(query, "sort", tuple(_ORDERS)), one_of(query, "only", _CHOICES)
        wanted = rows_wanted(query, LISTED, MOST_LISTED)
        self._refresh()
        now_ms = self._status.clock.now_ms()
        devices = self._status.presence.devices(now_ms)
        wrong = {clock.device: clock for clock in self._status.device_clocks.wrong()}
        alerts = Counter(alert["key"] for alert in self._results.alerts() if "key" in alert)
        alarms = self._alarms.per_key()
        chosen = self._chosen(devices, only, query.get("search", ""), wrong, alerts, alarms)
        chosen.sort(key=_ORDERS[sort], reverse=query.get("descending") == "true")
        return json_answer(
            {
                "time_ms": now_ms,
                "known": len(devices),
                "found": len(chosen),
                "devices": [
                    self._row(device, wrong, alerts[device.name]) | {"alarms": alarms[device.name]}
                    for device in chosen[wanted]
                ],
            }
        )

    async def one(self, request: Request) -> Response:
        """`?name=`: a device with all its fields, topics, clocks, alerts and the windows it feeds."""
        name, now_ms = request.query_params.get("name", ""), self._status.clock.now_ms()
        found = self._status.presence.device(name, now_ms)
        if found is None:
            return PlainTextResponse("No device of this name is known.", 404)
        topics, values = {name, *self._status.presence.sources(name)}, self._values(name)
        clocks = [clock for clock in self._status.device_clocks.all() if clock.device in topics]
        self._refresh()
        seen = self._results.series_of(name)
        fed = [spec for spec in self._status.window_specs if spec.key == _BY_DEVICE or spec.name in seen]
        return json_answer(
            {
                **found._asdict(),
                "time_ms": now_ms,
                "topics": sorted(self._status.presence.sources(name)),
                "has_more_topics": self._status.presence.has_more_sources(name),
                "values": values[:MOST_VALUES],
                "left_out_values": max(len(values) - MOST_VALUES, 0),
                "clocks": [clock._asdict() for clock in clocks],
                "alerts": [alert for alert in self._results.alerts() if alert.get("key") == name],
                "alarms": [as_json(row) for row in listed(self._status.alarms, "all") if row.key == name],
                "windows": [{"name": spec.name, "size_ms": spec.size_ms} for spec in fed],
            }
        )

    def _chosen(
        self,
        devices: Iterable[Device],
        only: str,
        search: str,
        wrong: Mapping[str, DeviceClock],
        alerts: Mapping[str, int],
        alarms: Mapping[str, int],
    ) -> list[Device]:
        tests: dict[str, Callable[[Device], object]] = {
            "all": lambda _device: True,
            "silent": lambda device: device.silent,
            "clock": lambda device: self._clock(device, wrong),
            "misses": lambda device: device.missed,
            "unreadable": lambda device: device.undecoded,
            "alerts": lambda device: device.name in alerts,
            "alarms": lambda device: device.name in alarms,
        }
        test, part = tests[only], search.casefold()
        return [device for device in devices if part in device.name.casefold() and test(device)]

    def _row(self, device: Device, wrong: Mapping[str, DeviceClock], alerts: int) -> dict[str, Any]:
        clock, values = self._clock(device, wrong), self._values(device.name)
        return {
            **device._asdict(),
            "values": values[:SHOWN_VALUES],
            "more_values": max(len(values) - SHOWN_VALUES, 0),
            "clock_off_ms": None if clock is None else clock.offset_ms,
            "alerts": alerts,
        }

    def _clock(self, device: Device, wrong: Mapping[str, DeviceClock]) -> DeviceClock | None:
        """The wrong clock of a device: clocks are known by topic."""
        if not wrong:
            return None
        names = (device.name, *self._status.presence.sources(device.name))
        return next((wrong[name] for name in names if name in wrong), None)

    def _values(self, name: str) -> list[dict[str, Any]]:
        """Return the latest value of each field of a device, with its unit and time."""
        return [
            {
                "field": field,
                "value": clipped(value),
                "unit": self._units.of_field(source.route, field),
                "time_ms": source.sample.time_ms,
            }
            for _, source in sorted(self._status.presence.sources(name).items())
            for field, value in source.sample.fields.items()
        ]
