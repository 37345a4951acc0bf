"""Takes configurations that come over the cloud broker. One is acknowledged once it is judged and on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gateway.core.events import Message
from gateway.mqtt.link import Link, Session
from gateway.mqtt.paho_client import is_refusal

log = logging.getLogger(__name__)

_RETRY_S = 60.0


class ConfigInbox(Session):
    """The session of `gateway.config`. `offer` judges a payload; it raises OSError when it cannot keep it."""

    def __init__(self, topic: str, offer: Callable[[bytes], None]) -> None:
        self._topic = topic
        self._offer = offer
        self.awaits = False  # the broker has granted the subscription on this connection
        self._refused = False
        self._retry_at_s = 0.0

    def connected(self, link: Link, session_present: bool) -> None:
        self._subscribe(link)

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        refused = any(is_refusal(code) for code in codes.values())
        if refused and not self._refused:
            log.error(
                "no remote configurations: %s refuses the subscription to %s; asked again every %g s",
                *(link.endpoint.place, self._topic, _RETRY_S),
            )
        self._refused = refused
        self.awaits = not refused

    def disconnected(self, link: Link) -> None:
        self.awaits = False

    def received(self, link: Link, messages: list[Message]) -> None:
        for message in messages:
            try:
                self._offer(message.payload)
            except OSError as exc:
                link.reset(f"a configuration cannot be kept, and is asked for again: {exc}")
                return
            link.ack(message)

    def work(self, link: Link) -> float:
        if self._refused and time.monotonic() >= self._retry_at_s:
            self._subscribe(link)
        return 1.0

    def _subscribe(self, link: Link) -> None:
        self._retry_at_s = time.monotonic() + _RETRY_S
        link.subscribe([(self._topic, 1)])
