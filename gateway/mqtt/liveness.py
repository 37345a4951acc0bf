"""Tells when a silent broker has to be asked for a sign of life, and when it has not answered.

It is asked after a third of the keepalive, and has another third to answer: a broker that hangs behind a
connection that looks fine is noticed after two thirds of it. MQTT asks for one packet per keepalive only, and
clients that do just that need two.
"""

from __future__ import annotations

from typing import NamedTuple

_LEAST_S = 1.0  # it is looked at once a second


class Traffic(NamedTuple):
    """Bytes on a connection. Those that were sent are `acknowledged` by the peer's TCP, or still `queued`."""

    received: int
    acknowledged: int = 0
    queued: int = 0


class Liveness:
    """Judges one connection. Time and traffic come in as arguments."""

    def __init__(self, keepalive_s: float, now_s: float) -> None:
        self._patience_s = max(keepalive_s / 3, _LEAST_S)
        self._heard_at_s = self._progress_at_s = now_s
        self._received = 0
        self._acknowledged = 0
        self._asked_behind: int | None = None
        """Once so many bytes are acknowledged the question has arrived; None: nothing is asked."""

    def note(self, now_s: float, traffic: Traffic) -> None:
        """Take in what was moved since the last call."""
        if traffic.received != self._received:
            self._received = traffic.received
            self.excuse(now_s)
        question = self._asked_behind
        if question is not None and self._acknowledged < min(question, traffic.acknowledged):
            self._progress_at_s = now_s  # a slow network still carries what was sent before the question
        self._acknowledged = traffic.acknowledged

    def excuse(self, now_s: float) -> None:
        """Count as heard: also where nobody has listened, because the gateway cannot take more for now."""
        self._heard_at_s = now_s
        self._asked_behind = None

    def is_due(self, now_s: float) -> bool:
        """Return whether to ask now; then call `asked`."""
        return self._asked_behind is None and now_s - self._heard_at_s >= self._patience_s

    def asked(self, now_s: float, traffic: Traffic) -> None:
        """Note that the question is sent, as the last of what is queued."""
        self._progress_at_s = now_s
        self._acknowledged = traffic.acknowledged
        self._asked_behind = traffic.acknowledged + traffic.queued

    def silent_s(self, now_s: float) -> float:
        """Return for how long nothing was heard, once the answer is overdue; else 0."""
        if self._asked_behind is None or now_s - self._progress_at_s < self._patience_s:
            return 0.0
        return now_s - self._heard_at_s
