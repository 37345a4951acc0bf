"""Trust in a device's clock: device time and arrival time in, event time out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from gateway.core.events import Flag

Verdict = Literal["device", "blended", "future"]


@dataclass(frozen=True, slots=True)
class SkewPolicy:
    """The bounds within which a device's clock is believed. Durations are milliseconds.

    `correction_factor` says how far a time beyond `acceptable_skew_ms` is moved towards the arrival
    time: 0 leaves it, 1 takes the arrival time.
    """

    future_tolerance_ms: int = 5_000
    acceptable_skew_ms: int = 1_000
    max_clock_skew_ms: int = 3_600_000
    correction_factor: float = 1.0


class Normalized(NamedTuple):
    """The event time that was settled on, the flags that it earns, and which rule decided."""

    event_time_ms: int
    flags: int
    verdict: Verdict


SkewKind = Literal["future", "large", "blended"]


# Plain numbers, because arithmetic on an IntFlag takes longer than all else here.
_SKEWED = int(Flag.CLOCK_SKEW)
_CORRECTED = int(Flag.CORRECTED)


def normalize_timestamp(device_time_ms: int, ingest_time_ms: int, policy: SkewPolicy) -> Normalized:
    """Settle on an event time for a device time that arrived at `ingest_time_ms`.

    Further ahead than `future_tolerance_ms`: the arrival time. Off by no more than `acceptable_skew_ms`:
    the device time. Everything else: a blend of both. A difference beyond `max_clock_skew_ms`, in either
    direction, is flagged as well.
    """
    behind_ms = ingest_time_ms - device_time_ms
    flags = _SKEWED if abs(behind_ms) > policy.max_clock_skew_ms else 0
    if -behind_ms > policy.future_tolerance_ms:
        return Normalized(ingest_time_ms, flags | _CORRECTED, "future")
    if abs(behind_ms) <= policy.acceptable_skew_ms:
        return Normalized(device_time_ms, flags, "device")
    event_time_ms = device_time_ms + round(behind_ms * policy.correction_factor)
    if event_time_ms != device_time_ms:
        flags |= _CORRECTED
    return Normalized(event_time_ms, flags, "blended")


def skew_kinds(device_time_ms: int, ingest_time_ms: int, flags: int, policy: SkewPolicy) -> list[SkewKind]:
    """Return the kinds of clock error to count for an event that `normalize_timestamp` has flagged."""
    kinds: list[SkewKind] = ["large"] if flags & _SKEWED else []
    if device_time_ms - ingest_time_ms > policy.future_tolerance_ms:
        kinds.append("future")
    elif flags & _CORRECTED:
        kinds.append("blended")
    return kinds
