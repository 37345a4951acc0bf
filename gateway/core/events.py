"""The nouns that every room shares: messages, samples, readings, emissions, and their small enums.

All times are integer milliseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, IntFlag
from typing import NamedTuple

FieldValue = str | int | float | bool | None


class Priority(IntEnum):
    """Lower is more urgent: it is also the order of the bridge and, reversed, of eviction."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


class Kind(IntEnum):
    """The type of a buffered event."""

    RAW = 0
    AGGREGATE = 1
    ALERT = 2
    AUDIT = 3


class Status(IntEnum):
    """Status of a buffered event on its way to the cloud; see `gateway.delivery.states`."""

    PENDING = 0
    SYNCING = 1
    SYNCED = 2
    FAILED = 3
    CORRUPT = 4
    KEPT = 5  # at the edge: sent only on request


class Flag(IntFlag):
    """Facts about an event that consumers may want to know."""

    RETAINED = 1  # the broker replayed a retained message: the reading may be old
    UNDECODED = 2  # the payload could not be read by its route: bridged as bytes, not windowed
    CLOCK_SKEW = 4  # the device's clock was off by more than max_clock_skew
    CORRECTED = 8  # event_time is not what the device said; device_time is
    TIME_UNCERTAIN = 16  # the gateway itself had no trusted time yet
    HISTORICAL = 32  # the device says that it saved this up: its time is believed, however old
    OLD = 64  # a reading of long ago that was sent again, or could be: it is in no window


SKIPPED_SHIFT = 8
"""From here on, eight bits of the flags: how many messages of the stream sampling left out since the last one
kept. Add one for each of them to scale a count back."""


def skipped(flags: int) -> int:
    """Return how many messages were left out before this one."""
    return flags >> SKIPPED_SHIFT & 0xFF


class Message(NamedTuple):
    """A PUBLISH as received from a broker."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int
    epoch: int  # which connection delivered it: an ack is only good on that one
    arrival_ms: int
    properties: tuple[tuple[str, str], ...] = ()  # MQTT 5 user properties
    subscriptions: tuple[int, ...] = ()  # MQTT 5: the identifiers of those that it was sent for
    correlation: bytes = b""  # MQTT 5: its Correlation Data


class Sample(NamedTuple):
    """Readings taken at one moment, as a route decoded them from a message."""

    time_ms: int
    fields: Mapping[str, FieldValue]


class Reading(NamedTuple):
    """Input of a window plugin: a number, its time, and the fields that came with it."""

    value: float
    time_ms: int
    fields: Mapping[str, FieldValue]
    topic: str


class Emission(NamedTuple):
    """An output of a window.

    `kind` is `on_time`, `early`, `correction` or `dropped`. Bounds are None where a window has none.
    `identity` is equal for the same window, key, bounds and revision, before and after a restart;
    the aggregate's event id is derived from it.
    """

    window: str
    key: str
    kind: str
    start_ms: int | None
    end_ms: int | None
    revision: int
    count: int  # type: ignore[assignment] # hides tuple.count, which nobody needs
    result: object
    replaces: tuple[tuple[int, int], ...]
    identity: str
    event_time_ms: int
    reason: str = ""
    partial: bytes | None = None  # the accumulator as JSON, where the window publishes it
    quality: Mapping[str, object] | None = None  # what is known of its readings, where the window keeps it
    unit: object = None  # of what was measured: a text, or one for each of several fields
    encoded: bytes = b""  # the result as JSON, where somebody has made it already


class WireEvent(NamedTuple):
    """An event as it travels in a batch frame and comes out of the receiver."""

    event_id: bytes
    stream: str
    sequence_num: int
    event_time_ms: int
    ingest_time_ms: int
    device_time_ms: int | None
    priority: int
    kind: int
    flags: int
    payload: bytes
