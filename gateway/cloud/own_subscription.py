"""The subscription of a cloud session to one topic of the gateway's own."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from gateway.mqtt.link import Link
from gateway.mqtt.paho_client import is_refusal

log = logging.getLogger(__name__)

RETRY_S = 60.0


class OwnSubscription:
    """Asks for `topic` at QoS 1, and once more every RETRY_S while it is refused or not answered."""

    def __init__(self, topic: str) -> None:
        self.granted = False
        """True once the broker has granted it on the present connection."""
        self._topic = topic
        self._unanswered = False
        self._refusal: int | None = None
        self._ask_at_s = 0.0

    def connected(self, link: Link) -> None:
        """Subscribe, on a new connection."""
        self._ask(link)

    def work(self, link: Link) -> None:
        """Subscribe once more when it is time."""
        if self.granted or time.monotonic() < self._ask_at_s:
            return
        if self._unanswered:
            place = link.endpoint.place
            log.warning("%s has not answered the subscription to %s; asked again", place, self._topic)
        self._ask(link)

    def _ask(self, link: Link) -> None:
        self.granted, self._unanswered = False, True
        self._ask_at_s = time.monotonic() + RETRY_S
        link.subscribe([(self._topic, 1)])

    def answered(self, codes: Mapping[str, int]) -> int | None:
        """Take the broker's answer. Return the code of a refusal, unless the last answer was the same."""
        before, self._refusal = self._refusal, next(filter(is_refusal, codes.values()), None)
        self.granted, self._unanswered = self._refusal is None, False
        return None if self._refusal == before else self._refusal

    def disconnected(self) -> None:
        """The connection has ended, and with it the subscription as far as it is known."""
        self.granted = False
