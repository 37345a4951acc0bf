"""Takes configurations that come over the cloud broker. One is acknowledged once it is judged and on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable

from gateway.cloud.own_subscription import RETRY_S, OwnSubscription
from gateway.core.events import Message
from gateway.mqtt.link import Link, Session

log = logging.getLogger(__name__)


class ConfigInbox(Session):
    """The session of `gateway.config`. `offer` judges a payload; it raises OSError when it cannot keep it."""

    def __init__(self, topic: str, offer: Callable[[bytes], None]) -> None:
        self._topic = topic
        self._offer = offer
        self._subscription = OwnSubscription(topic)

    @property
    def awaits(self) -> bool:
        """True while the broker has granted the subscription on the present connection."""
        return self._subscription.granted

    def connected(self, link: Link, session_present: bool) -> None:
        self._subscription.connected(link)

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        if self._subscription.answered(codes) is not None:
            log.error(
                "no remote configurations: %s refuses the subscription to %s; asked again every %g s",
                *(link.endpoint.place, self._topic, RETRY_S),
            )

    def disconnected(self, link: Link) -> None:
        self._subscription.disconnected()

    def received(self, link: Link, messages: list[Message]) -> None:
        for message in messages:
            try:
                self._offer(message.payload)
            except OSError as exc:
                link.reset(f"a configuration cannot be kept, and is asked for again: {exc}")
                return
            link.ack(message)

    def work(self, link: Link) -> float:
        self._subscription.work(link)
        return 1.0
