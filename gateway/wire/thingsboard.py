"""ThingsBoard's gateway telemetry: many events in one JSON object, by device, with the time of each.

`{"hall/7": [{"ts": 1700000000000, "values": {"temperature": 21.5}}]}` on `v1/gateway/telemetry`, as
https://thingsboard.io/docs/reference/gateway-mqtt-api/ has it. It has no place for an event's identity: what
comes twice has the same device and time, and replaces itself.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Iterable

import orjson

from gateway.core.events import Kind, WireEvent

TOPIC = "v1/gateway/telemetry"


def thingsboard_telemetry(events: Iterable[WireEvent], device_of: Callable[[str], str]) -> bytes:
    """The message that carries `events`. `device_of` names the device of a stream."""
    devices: dict[str, list[dict[str, object]]] = {}
    for event in events:
        device, values = _read(event, device_of)
        devices.setdefault(device, []).append({"ts": event.event_time_ms, "values": values})
    return orjson.dumps(devices)


def _read(event: WireEvent, device_of: Callable[[str], str]) -> tuple[str, dict[str, object]]:
    values = _values(event.payload)
    if event.kind != Kind.AGGREGATE:
        return device_of(event.stream), values
    window, key, result = values.get("window"), values.get("key"), values.get("result")
    named = result if isinstance(result, dict) else {"result": result}
    return str(key or event.stream), {f"{window}.{name}": value for name, value in named.items()}


def _values(payload: bytes) -> dict[str, object]:
    """The payload as names and values: an object as it is, anything else as `value`."""
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return {"value": _text(payload)}
    if not isinstance(found, dict):
        found = {"value": found}
    return {name: value for name, value in found.items() if not _is_nothing(value)}


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return b64encode(payload).decode()


def _is_nothing(value: object) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))
