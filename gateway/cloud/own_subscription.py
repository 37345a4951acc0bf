"""The subscription of a cloud session to one topic of the gateway's own."""

from __future__ import annotations

import time
from collections.abc import Mapping

from gateway.mqtt.link import Link
from gateway.mqtt.paho_client import is_refusal

RETRY_S = 60.0


class OwnSubscription:
    """Asks for `topic` at QoS 1, and once more every RETRY_S while the broker refuses it."""

    def __init__(self, topic: str) -> None:
        self.granted = False
        """True once the broker has granted it; a session that reads this resets it with the connection."""
        self._topic = topic
        self._refusal: int | None = None
        self._retry_at_s = 0.0

    def ask(self, link: Link) -> None:
        """Subscribe."""
        self._retry_at_s = time.monotonic() + RETRY_S
        link.subscribe([(self._topic, 1)])

    def ask_if_refused(self, link: Link) -> None:
        """Subscribe once more when it is time."""
        if self._refusal is not None and time.monotonic() >= self._retry_at_s:
            self.ask(link)

    def answered(self, codes: Mapping[str, int]) -> int | None:
        """Take the broker's answer. Return the code of a refusal, unless the last answer was the same."""
        before, self._refusal = self._refusal, next(filter(is_refusal, codes.values()), None)
        self.granted = self._refusal is None
        return None if self._refusal == before else self._refusal
