"""The interface of encoders: how events become the messages of a format that others prescribe.

Each connection has an encoder of its own, and calls it from one thread. What it raises is found to be about
one event, which is kept as failed; the others go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from gateway.core.events import WireEvent
from gateway.wire.uplink_topics import UplinkTopics

ENCODER_NAMES = ("thingsboard", "sparkplug_b")
"""Encoders that need no plugin."""


class Encoded(NamedTuple):
    """One message, and the positions of the events that it carries. A plain tuple will do."""

    topic: str
    payload: bytes
    events: Sequence[int]


class Encoder(Protocol):
    """An encoder that `cloud.format` names, as an alternative to `batch` and `event`."""

    def encode(self, events: Sequence[WireEvent], topics: UplinkTopics) -> Iterable[Encoded]:
        """Return the messages of `events`, each event in exactly one; a stream stays in its order.

        `topics.event(stream)` is the topic of `cloud.topics.event`, `topics.device(stream)` the device that
        the route names. The events must not be changed."""


def checked(messages: Iterable[Encoded], count: int) -> list[Encoded]:
    """Return what an encoder made of `count` events. Raises ValueError where one is in no message, or two."""
    found = [Encoded(*each) for each in messages]
    positions = sorted(at for each in found for at in each.events)
    if positions != [*range(count)] or not all(each.events for each in found):
        raise ValueError("an event has to be in exactly one message")
    if not all(isinstance(each.payload, bytes) for each in found):
        raise ValueError("a payload has to be bytes")
    return found
