"""Hears everything on a broker for a while, and publishes nothing."""

from __future__ import annotations

import threading
import time

from gateway.config.proposal.heard import BrokerTraffic
from gateway.core.events import Message
from gateway.mqtt.link import Link, Session
from gateway.mqtt.paho_client import is_refusal


class BrokerListener(Session):
    """The session of `gateway.init`: notes every message of a topic filter in `heard`."""

    def __init__(self, heard: BrokerTraffic, topic_filter: str) -> None:
        self.answered = threading.Event()
        """Set once the broker has answered the subscription."""
        self.refusal = ""
        self._heard = heard
        self._filter = topic_filter

    def connected(self, link: Link, session_present: bool) -> None:
        link.subscribe([(self._filter, 0)])

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        if any(map(is_refusal, codes.values())):
            self.refusal = f"{link.endpoint.place} refused the subscription to {self._filter}"
        self.answered.set()

    def received(self, link: Link, messages: list[Message]) -> None:
        now_ms = time.time_ns() // 1_000_000
        for message in messages:
            self._heard.add(message.topic, message.payload, now_ms, retained=message.retain)
            link.ack(message)
