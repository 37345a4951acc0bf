"""Old is not new: which readings are stored and sent on, but are in no window.

The verdict is in the stored event's flags, so that windows that are made anew out of the buffer leave out
the same.
"""

from __future__ import annotations

from gateway.core.events import Flag
from gateway.decode.routes import Decoded, RouteSpec
from gateway.timekeeping.devices import DeviceClocks

_RETAINED = int(Flag.RETAINED)
_OLD = int(Flag.OLD)
_CORRECTED = int(Flag.CORRECTED)


def judge_age(
    devices: DeviceClocks, topic: str, decoded: Decoded, spec: RouteSpec, arrival_ms: int
) -> Decoded:
    """Mark a message as old when its device time is far from its arrival.

    Where the device's clock is known to be right, the reading keeps the time that it has by it.
    """
    device_ms = decoded.device_time_ms
    if device_ms is None or device_ms > arrival_ms or spec.timestamp != "normalize":
        return decoded
    age = devices.age(topic, device_ms, arrival_ms)
    if age == "new":
        return decoded
    if age == "unknown":
        return decoded._replace(flags=decoded.flags | _OLD)
    return decoded._replace(flags=(decoded.flags | _OLD) & ~_CORRECTED, event_time_ms=device_ms)


def out_of_windows(flags: int, spec: RouteSpec) -> str:
    """Return in one word why an event's readings are in no window; empty when they are."""
    if flags & _OLD:
        return "old"
    if flags & _RETAINED and spec.retained != "window":
        return "retained"
    return ""
