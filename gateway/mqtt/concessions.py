"""Features that a connection does without, where the broker has no retained messages or denies them.

A broker says so (Retain Available, reason code 0x9A), or it ends the connection without a word, as AWS IoT
Core does where the policy lacks iot:RetainPublish. What is given up is said once. What was only concluded
from closes, which may have been an outage, is tried again at the next connection.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from gateway.mqtt.endpoint import Will

log = logging.getLogger(__name__)

RETAIN_NOT_SUPPORTED, QOS_NOT_SUPPORTED = 0x9A, 0x9B
_OVER_AN_ALIAS = {0x82, 0x94}  # protocol error, topic alias invalid
_CLOSES = 3  # in a row, without a reason, over the same thing


class Concessions:
    """Features given up. For the thread of the link called `name`, over all of its connections."""

    def __init__(self, name: str, will: Will | None) -> None:
        self.aliases = True
        """Send topics as aliases, where the broker offers them."""
        self._name = name
        self._wanted = will
        self._wills: list[Will | None] = [will]  # what to try: the first; then without retain; then none
        if will is not None:
            self._wills += [replace(will, retain=False), None] if will.retain else [None]
        self._least = self._at = 0  # the least that the broker has named, and what is tried now
        self._worked_at = 0
        self._closes_before_connack = 0
        self._retain_available = self._retains = True  # what the broker has named, and what is tried now
        self._unanswered: set[int] = set()  # packet ids of retained publishes
        self._closes_over_retained = 0
        self._said: set[str] = set()

    @property
    def will(self) -> Will | None:
        """The will of the next connection."""
        return self._wills[self._at]

    def may_retain(self, topic: str) -> bool:
        """Return True if a message on `topic` may be retained."""
        if not self._retains:
            self._say("the broker refuses retained messages: %s and others are sent unretained", topic)
        return self._retains

    def retained(self, packet_id: int) -> None:
        """A retained message was published."""
        self._unanswered.add(packet_id)

    def answered(self, packet_id: int) -> None:
        """The broker acknowledged a message, or refused it."""
        if self._unanswered and packet_id in self._unanswered:
            self._unanswered.discard(packet_id)
            self._closes_over_retained = 0

    def accepted(self, *, retain_available: bool) -> None:
        """The broker took the connection, with this will."""
        self._closes_before_connack = 0
        self._unanswered.clear()
        self._worked_at = self._at
        if not retain_available:
            self._retain_available = self._retains = False
        if self.will != self._wanted:
            how = "is not retained" if self.will is not None else "is left out"
            self._say("the broker does not take our will as it is; it %s", how)

    def ended(self, refused_code: int | None, farewell_code: int | None, was_accepted: bool) -> None:
        """A connection ended, or was never made."""
        code = farewell_code if was_accepted else refused_code
        if was_accepted:
            self._after_connack(code)
        else:
            self._before_connack(code)
        self._unanswered.clear()

    def ended_with_aliases(self, farewell_code: int | None) -> None:
        """A connection ended on which topics went as aliases."""
        if farewell_code in _OVER_AN_ALIAS:
            self.aliases = False
            self._say("the broker does not take topic aliases%s; topics go in full", "")

    def _before_connack(self, code: int | None) -> None:
        if code in (RETAIN_NOT_SUPPORTED, QOS_NOT_SUPPORTED):
            if code == RETAIN_NOT_SUPPORTED:
                self._retain_available = self._retains = False
            self._least = self._at = min(self._at + 1, len(self._wills) - 1)
        elif code is None and self._worked_at > self._at:
            self._at = self._worked_at
        elif code is None:
            self._closes_before_connack += 1
            if self._closes_before_connack % _CLOSES == 0:  # in turn: an outage looks the same
                self._at = self._at + 1 if self._at + 1 < len(self._wills) else self._least

    def _after_connack(self, code: int | None) -> None:
        self._at = self._least
        if code == RETAIN_NOT_SUPPORTED:
            self._retain_available = self._retains = False
        elif self._unanswered:
            self._closes_over_retained += 1
            self._retains = self._retain_available and self._closes_over_retained < _CLOSES
        elif not self._retains:
            self._retains, self._closes_over_retained = self._retain_available, _CLOSES - 1

    def _say(self, message: str, what: str) -> None:
        if message not in self._said:
            self._said.add(message)
            log.warning(f"%s: {message}", self._name, what)
