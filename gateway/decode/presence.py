"""Known devices: when each was last heard, and whether its messages can be read.

A device is what the level `{device}` of its topic says, or else the topic. It counts as silent after a fixed
time; without one (auto) once it has missed five of its usual intervals, and at least a minute. Time in which
the gateway itself heard nothing does not count. No clock in here: times come as arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import NamedTuple

from gateway.core.events import FieldValue, Sample

MAX_DEVICES = 20_000
"""Names come from outside; further ones are not watched."""
MISSED_INTERVALS = 5
LEAST_SILENCE_MS = 60_000
LOOK_EVERY_MS = 1_000
HELD_UP_MS = 30_000
"""Between two looks; after more the gateway was held up itself, by a full disk or a suspended machine."""
MAX_SOURCES = 40_000
"""Topics whose last readings are kept, of all devices together."""
MAX_SOURCES_OF_DEVICE = 200
"""The same of one device: one that spreads over many topics takes no room from the others."""
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
    has_more_sources: bool = False  # than are kept
    saved_ms: int = -1  # `last_ms` as it is in the buffer
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


class Silence(NamedTuple):
    """A device that is silent: since when, and how long it had time."""

    device: str
    since_ms: int
    patience_ms: int


class Presence:
    """Written by the writer's thread, read by any. `silent_after_ms` None: by each device's own rhythm."""

    def __init__(self, silent_after_ms: int | None = None) -> None:
        self.hears = False
        """False while the gateway has no connection to the devices' broker. Any thread may set it."""
        self.news: set[str] = set()
        """Devices that the buffer has to know at once."""
        self._silent_after_ms = silent_after_ms
        self._deaf_until_ms = 0
        self._judged_ms = 0
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
            self.news.add(name)
        heard.note(arrival_ms)
        if not readable:
            heard.undecoded += 1
        elif missed:
            heard.missed += 1
        return heard

    def note_left_out(self, name: str, arrival_ms: int) -> None:
        """A message of a device was not taken in, because of the load; the device is not silent."""
        heard = self._devices.get(name)
        if heard is not None:
            heard.last_ms = arrival_ms

    def note_reading(self, name: str, topic: str, route: str, sample: Sample) -> LastReading | None:
        """A message of a noted device held a reading. Of the topics beyond MAX_SOURCES, or the
        device's own bound, none is kept; returns where that of this topic is."""
        heard = self._devices.get(name)
        if heard is None:
            return None
        last = heard.sources.get(topic)
        if last is None:
            if self._sources >= MAX_SOURCES or len(heard.sources) >= MAX_SOURCES_OF_DEVICE:
                heard.has_more_sources = True
                return None
            self._sources += 1
            last = heard.sources[topic] = LastReading(route, sample)
        last.route, last.sample = route, sample
        return last

    def has_more_sources(self, name: str) -> bool:
        """Return True if a device has topics whose last readings are not kept."""
        heard = self._devices.get(name)
        return heard is not None and heard.has_more_sources

    def sources(self, name: str) -> Mapping[str, LastReading]:
        """Return a device's last readings by topic."""
        heard = self._devices.get(name)
        return {} if heard is None else dict(heard.sources)

    def newest_sources(self, most: int) -> Iterator[tuple[str, LastReading]]:
        """Yield topics with their last readings, those of the newest devices first; for the writer's
        thread."""
        found = chain.from_iterable(heard.sources.items() for heard in reversed(self._devices.values()))
        return islice(found, most)

    def devices(self, now_ms: int) -> list[Device]:
        """Return all devices, the one heard longest ago first."""
        found = [self._device(name, heard, now_ms) for name, heard in list(self._devices.items())]
        return sorted(found, key=lambda device: device.last_ms)

    def device(self, name: str, now_ms: int) -> Device | None:
        """Return one device; None if it was not heard."""
        heard = self._devices.get(name)
        return None if heard is None else self._device(name, heard, now_ms)

    # --- silence; on the writer's thread ---

    def is_judged(self, now_ms: int) -> bool:
        """Return True when it is time to look who is silent, every second or, of many, every few."""
        if not self.hears or not 0 <= now_ms - self._judged_ms < HELD_UP_MS:
            self._judged_ms = self._deaf_until_ms = now_ms
            return False
        if now_ms - self._judged_ms < LOOK_EVERY_MS + len(self._devices) // 4:
            return False
        self._judged_ms = now_ms
        return True

    def silent(self, now_ms: int) -> Iterator[Silence]:
        """Yield the devices that are silent."""
        for name, heard in self._devices.items():
            patience_ms = self._patience_ms(heard)
            if patience_ms is not None and self._is_silent(heard, patience_ms, now_ms):
                yield Silence(name, heard.last_ms, patience_ms)

    def time_stepped(self, now_ms: int) -> None:
        """The gateway's clock was set: what it leaps over is nobody's silence."""
        self._deaf_until_ms = now_ms

    # --- the devices of earlier runs; on the writer's thread ---

    def last_ms(self, name: str) -> int | None:
        """Return when a device was last heard; None for an unknown one."""
        heard = self._devices.get(name)
        return None if heard is None else heard.last_ms

    def restore(self, rows: Iterable[tuple[str, int, int, int]]) -> None:
        """Take up devices: name, first heard, last heard, messages."""
        for name, first_ms, last_ms, messages in rows:
            if len(self._devices) < MAX_DEVICES and name not in self._devices:
                self._devices[name] = Heard(first_ms, last_ms, messages, saved_ms=last_ms)

    def take_unsaved(self, *, everything: bool) -> list[tuple[str, int, int, int]]:
        """Return the devices to save: those that are news, or all that were heard since they were saved."""
        names, self.news = self._devices if everything else self.news, set()
        found = []
        for name in names:
            heard = self._devices[name]
            if heard.saved_ms != heard.last_ms:
                heard.saved_ms = heard.last_ms
                found.append((name, heard.first_ms, heard.last_ms, heard.messages))
        return found

    def note_unsaved(self, name: str) -> None:
        """Have a device saved with the next tick."""
        self.news.add(name)

    # --- inside ---

    def _patience_ms(self, heard: Heard) -> int | None:
        if self._silent_after_ms is not None:
            return self._silent_after_ms
        interval_ms = _interval_ms(heard)
        return None if interval_ms is None else max(MISSED_INTERVALS * interval_ms, LEAST_SILENCE_MS)

    def _is_silent(self, heard: Heard, patience_ms: int, now_ms: int) -> bool:
        return now_ms - max(heard.last_ms, self._deaf_until_ms) > patience_ms

    def _device(self, name: str, heard: Heard, now_ms: int) -> Device:
        patience_ms = self._patience_ms(heard)
        silent = patience_ms is not None and self._is_silent(heard, patience_ms, now_ms)
        return _row(name, heard, silent)


def _interval_ms(heard: Heard) -> int | None:
    known = heard.messages >= _FEW
    return (heard.last_ms - heard.first_ms) // (heard.messages - 1) if known else None


def _row(name: str, heard: Heard, silent: bool) -> Device:
    return Device(
        name,
        heard.last_ms,
        heard.messages,
        _interval_ms(heard),
        silent,
        heard.undecoded,
        heard.missed,
    )


def clipped(value: FieldValue) -> FieldValue:
    """A value as a table shows it."""
    return value[:MAX_TEXT_CHARS] if isinstance(value, str) else value
