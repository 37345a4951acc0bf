"""Known devices: when each was last heard, and whether its messages can be read.

A device is what the level `{device}` of its topic says, or else the topic. It counts as silent once it has
missed five of its usual intervals, and at least a minute. No clock in here: times come as arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.core.events import FieldValue, Sample

MAX_DEVICES = 20_000
"""Names come from outside; further ones are not watched."""
MISSED_INTERVALS = 5
LEAST_SILENCE_MS = 60_000
MAX_SOURCES = 40_000
"""Topics whose last readings are kept, of all devices together."""
MAX_TEXT_CHARS = 100
_FEW = 3  # messages, before an interval can be called usual


@dataclass(slots=True)
class Heard:
    """State of a device. A caller that has many messages of one may note them here directly."""

    first_ms: int
    last_ms: int
    messages: int = 0
    undecoded: int = 0
    missed: int = 0
    sources: dict[str, LastReading] = field(default_factory=dict)  # by topic

    def note(self, arrival_ms: int, *, missed: bool = False) -> None:
        """A message has come that can be read."""
        self.last_ms = arrival_ms
        self.messages += 1
        if missed:
            self.missed += 1


@dataclass(slots=True)
class LastReading:
    """The last reading of a device on one topic, and the route that read it."""

    route: str
    sample: Sample


class Device(NamedTuple):
    """The current state of a device. `interval_ms` is its mean interval, or None while it is new; `undecoded`
    is the number of messages that could not be read, `missed` of those in which a field was missing."""

    name: str
    last_ms: int
    messages: int
    interval_ms: int | None
    silent: bool
    undecoded: int
    missed: int


class Presence:
    """Written by the writer's thread, read by any."""

    def __init__(self) -> None:
        self._devices: dict[str, Heard] = {}
        self._sources = 0
        self.unwatched = 0
        """Messages of devices beyond MAX_DEVICES."""

    def note(self, name: str, arrival_ms: int, readable: bool, missed: bool = False) -> Heard | None:
        """A message has come; `missed` if a field that the route names was not in it. Returns what is known
        of the device, None where it is not watched."""
        heard = self._devices.get(name)
        if heard is None:
            if len(self._devices) >= MAX_DEVICES:
                self.unwatched += 1
                return None
            heard = self._devices[name] = Heard(arrival_ms, arrival_ms)
        heard.note(arrival_ms)
        if not readable:
            heard.undecoded += 1
        elif missed:
            heard.missed += 1
        return heard

    def note_reading(self, name: str, topic: str, route: str, sample: Sample) -> LastReading | None:
        """A message of a noted device held a reading. Of the topics beyond MAX_SOURCES none is kept; returns
        where that of this topic is."""
        heard = self._devices.get(name)
        if heard is None:
            return None
        last = heard.sources.get(topic)
        if last is None:
            if self._sources >= MAX_SOURCES:
                return None
            self._sources += 1
            last = heard.sources[topic] = LastReading(route, sample)
        last.route, last.sample = route, sample
        return last

    def sources(self, name: str) -> Mapping[str, LastReading]:
        """Return a device's last readings by topic."""
        heard = self._devices.get(name)
        return {} if heard is None else dict(heard.sources)

    def devices(self, now_ms: int) -> list[Device]:
        """Return all devices, the one heard longest ago first."""
        found = [_device(name, heard, now_ms) for name, heard in list(self._devices.items())]
        return sorted(found, key=lambda device: device.last_ms)


def _device(name: str, heard: Heard, now_ms: int) -> Device:
    known = heard.messages >= _FEW
    interval_ms = (heard.last_ms - heard.first_ms) // (heard.messages - 1) if known else None
    patience_ms = max(MISSED_INTERVALS * (interval_ms or 0), LEAST_SILENCE_MS)
    return Device(
        name,
        heard.last_ms,
        heard.messages,
        interval_ms,
        interval_ms is not None and now_ms - heard.last_ms > patience_ms,
        heard.undecoded,
        heard.missed,
    )


def clipped(value: FieldValue) -> FieldValue:
    """A value as a table shows it."""
    return value[:MAX_TEXT_CHARS] if isinstance(value, str) else value
