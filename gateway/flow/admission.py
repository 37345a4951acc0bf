"""Admission of messages under pressure: sampling and rejection, as the signal says."""

from __future__ import annotations

from typing import Literal

from gateway.core.events import Priority
from gateway.flow.capacity import Signal
from gateway.flow.sampling import FairSampler

Shed = Literal["sampled", "overload"]


class Admission:
    """Judges each message while `shedding`; otherwise there is no need to call it. For one thread."""

    def __init__(self) -> None:
        self.shedding = False
        self._threshold: Priority | None = None
        self._sampler = FairSampler()

    def follow(self, signal: Signal) -> None:
        """Do what `signal` says from now on."""
        self._threshold = signal.priority_threshold
        self._sampler.turn(signal.sample_rate)
        self.shedding = signal.sample_rate < 1 or signal.priority_threshold is not None

    def judge(self, topic: str, priority: Priority, may_sample: bool) -> Shed | int:
        """Return the reason to leave out the message, or the number of left-out messages that a kept one
        stands for."""
        if self._threshold is not None and priority >= self._threshold:
            return "overload"
        if not may_sample or self._sampler.share >= 1:
            return 0
        skipped = self._sampler.admit(topic)
        return "sampled" if skipped is None else skipped
