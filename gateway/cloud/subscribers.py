"""Subscribers of the uplink's topics, known from the PUBACKs of MQTT 5, and what to do without one.

A broker that takes a message for which it knows no subscriber has lost it: reason code 0x10, "no matching
subscribers". Where there was a subscriber before, the broker has lost its session, and what comes up until
it is back would be gone. That is remembered in the buffer, over restarts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from gateway.buffer.reader import Reader
from gateway.buffer.store import Store
from gateway.buffer.writer import Do, Writer

log = logging.getLogger(__name__)

NO_SUBSCRIBER = 0x10
_REMEMBERED = "subscriber:"  # before the topic, in `meta`
_MOST_TOPICS = 100_000

SubscriberRule = Literal["auto", "wait", "send"]


class Subscribers:
    """The subscribers of one bridge connection's topics, as far as it knows."""

    def __init__(self, rule: SubscriberRule, writer: Writer, alert: Callable[[str, str], object]) -> None:
        self.missing: set[str] = set()
        """Topics whose last message had no subscriber."""
        self._rule = rule
        self._writer = writer
        self._alert = alert
        self._known: set[str] | None = None  # until the buffer was asked
        self._new: list[str] = []

    def recall(self, reader: Reader) -> None:
        """Take up what the buffer remembers, once."""
        if self._known is None:
            self._known = set(reader.marks(_REMEMBERED))

    def found(self, topic: str) -> None:
        """A message on `topic` had a subscriber."""
        if self._known is not None and topic not in self._known and len(self._known) < _MOST_TOPICS:
            self._known.add(topic)
            self._new.append(topic)
        if topic in self.missing:
            self.missing.discard(topic)
            if not self.missing:
                log.info("the cloud broker has subscribers again, for %s too", topic)

    def found_all(self, topics: set[str]) -> None:
        """Messages on `topics` had subscribers."""
        if self.missing or self._known is None or not topics <= self._known:
            for topic in topics:
                self.found(topic)

    def nobody(self, topic: str) -> bool:
        """A message on `topic` had no subscriber; whether it has to wait for one."""
        before = self._known is not None and topic in self._known
        waits = before if self._rule == "auto" else self._rule == "wait"
        if not self.missing:
            self._say(topic, before, waits)
        if len(self.missing) < _MOST_TOPICS:
            self.missing.add(topic)
        return waits

    def remember(self) -> None:
        """Write down the topics that are new."""
        if self._new:
            marks, self._new = [_REMEMBERED + topic for topic in self._new], []
            self._writer.submit(Do(lambda store: _mark(store, marks)))

    def _say(self, topic: str, before: bool, waits: bool) -> None:
        if waits:
            what = "its events wait for a subscriber (to send anyway: cloud.no_subscriber: send)"
        else:
            what = "the broker acknowledges its events and drops them (to wait: cloud.no_subscriber: wait)"
        if before:
            said = f"{topic} has lost its subscriber: has the broker lost the receiver's session?"
        else:
            said = f"{topic} has no subscriber at the cloud broker"
        message = f"{said}; {what}"
        log.warning("%s", message)
        if before or waits:
            self._alert("no_subscriber", message)


def _mark(store: Store, marks: list[str]) -> None:
    for mark in marks:
        store.set_meta(mark, 1)
