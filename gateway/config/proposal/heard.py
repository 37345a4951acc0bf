"""Messages that were heard on a broker, a few of each topic, within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from gateway.core.topics import filter_matches

MOST_TOPICS = 20_000
KEPT_PAYLOADS = 4
MOST_PAYLOAD_BYTES = 64 * 1024

# Commands, announcements and states of connections: no readings in them, whoever sends them.
_WITHOUT_READINGS = (
    *("$SYS/#", "cmnd/#", "stat/#", "tele/+/LWT", "tele/+/INFO1", "tele/+/INFO2", "tele/+/INFO3"),
    *("tasmota/discovery/#", "+/bridge/#", "+/+/bridge/#", "+/+/availability", "+/+/set", "+/+/get"),
    *("homeassistant/+/+/config", "homeassistant/+/+/+/config", "homeassistant/status", "+/status"),
    *("shellies/announce", "shellies/command", "shellies/+/online", "shellies/+/announce", "+/online"),
    *(
        "+/rpc",
        "+/command/#",
        "+/debug",
        "spBv1.0/+/NCMD/#",
        "spBv1.0/+/DCMD/#",
        "STATE/#",
        "spBv1.0/STATE/#",
    ),
    *("v3/+/devices/+/join", "v3/+/devices/+/down/#", "application/+/device/+/command/#"),
    *("application/+/device/+/event/join", "application/+/device/+/event/ack"),
    *("application/+/device/+/event/txack", "application/+/device/+/event/log"),
    *("application/+/device/+/event/status", "gateway/#"),
)


class HeardPayload(NamedTuple):
    """A message's payload, and when it came."""

    payload: bytes
    arrival_ms: int
    retained: bool


@dataclass
class HeardTopic:
    """The messages of one topic: the last few of them, and when they came."""

    name: str
    messages: int = 0
    live: int = 0
    """Messages that were not retained ones of before."""
    first_ms: int = 0
    last_ms: int = 0
    payloads: deque[HeardPayload] = field(default_factory=lambda: deque(maxlen=KEPT_PAYLOADS))

    @property
    def interval_ms(self) -> float | None:
        """Return the usual time between two messages; None where fewer than two came live."""
        return (self.last_ms - self.first_ms) / (self.live - 1) if self.live > 1 else None


class BrokerTraffic:
    """All topics that were heard. What is beyond the bounds counts in `left_out`."""

    def __init__(self) -> None:
        self.topics: dict[str, HeardTopic] = {}
        self.messages = self.left_out = 0
        self.announces_to_home_assistant = False
        self.bridges: set[str] = set()
        """Base topics of Zigbee2MQTT, which names them in `…/bridge/state`."""

    def add(self, name: str, payload: bytes, arrival_ms: int, *, retained: bool = False) -> None:
        """Note a message."""
        self.messages += 1
        self._note_system(name)
        topic = self.topics.get(name)
        if not payload or (topic is None and is_without_readings(name)):
            return
        if topic is None:
            if len(self.topics) >= MOST_TOPICS:
                self.left_out += 1
                return
            topic = self.topics[name] = HeardTopic(name)
        topic.messages += 1
        if not retained:
            topic.live += 1
            topic.first_ms = topic.first_ms or arrival_ms
            topic.last_ms = arrival_ms
        topic.payloads.append(HeardPayload(payload[:MOST_PAYLOAD_BYTES], arrival_ms, retained))

    def _note_system(self, name: str) -> None:
        if name.startswith("homeassistant/") and name.endswith("/config"):
            self.announces_to_home_assistant = True
        for end in ("/bridge/state", "/bridge/info", "/bridge/devices"):
            if name.endswith(end):
                self.bridges.add(name.removesuffix(end))


def is_without_readings(name: str) -> bool:
    """Return True for a topic on which no measurements come."""
    return any(filter_matches(one, name) for one in _WITHOUT_READINGS)


def usual_interval_ms(topics: Iterator[HeardTopic]) -> float | None:
    """Return the usual time between two messages of a topic; None where none came twice."""
    found = [interval for topic in topics if (interval := topic.interval_ms)]
    return median(found) if found else None
