"""Messages of the gateway about itself on the bridge's first connection: status, metrics, log lines.

One at a time waits for its answer, so that it is known which one a broker ends the connection over; that
topic is then given up, and said once.
"""

from __future__ import annotations

import logging
from collections import Counter, deque

from gateway.mqtt.link import Link

log = logging.getLogger(__name__)

_MOST_WAITING = 50
_CLOSES = 6  # in a row over the same topic, before it was answered: three of them without retain


class Notices:
    """For the link's thread, but for `put`."""

    def __init__(self, status_topic: str, retain: bool) -> None:
        self.dropped = 0
        """Messages that a newer one of another topic pushed out, or that the broker did not want."""
        self._status_topic = status_topic
        self._retain = retain
        self._status, self._status_due = b"", False
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._in_flight: tuple[int, str] | None = None  # packet id, topic
        self._closes: Counter[str] = Counter()

    # --- on any thread ---

    def put_status(self, payload: bytes) -> None:
        """Renew the status, which is also what the next connection begins with."""
        self._status, self._status_due = payload, True

    def put(self, topic: str, payload: bytes) -> None:
        """Queue a message for the present connection; the oldest gives way."""
        self._waiting.append((topic, payload))
        if len(self._waiting) > _MOST_WAITING:
            self._waiting.popleft()
            self.dropped += 1

    # --- on the link's thread ---

    def connected(self, link: Link, online: bytes) -> None:
        """Say at once that the gateway is there, before anything else."""
        self._waiting.clear()
        self._status_due = False
        if self._status_topic:
            self._publish(link, self._status_topic, self._status or online)

    def leaving(self, link: Link, offline: bytes) -> None:
        """Say that the gateway goes; after a clean DISCONNECT the will does not speak."""
        if self._status_topic:
            self._publish(link, self._status_topic, offline)

    def work(self, link: Link) -> None:
        """Publish the next message."""
        if self._status_due and self._status_topic and self._in_flight is None:
            self._status_due = False
            self._publish(link, self._status_topic, self._status)
        while self._waiting and self._in_flight is None and not link.congested:
            self._publish(link, *self._waiting.popleft())

    def answered(self, packet_id: int) -> bool:
        """Return True if this was the answer to a message of ours."""
        if self._in_flight is None or self._in_flight[0] != packet_id:
            return False
        self._closes[self._in_flight[1]] = 0
        self._in_flight = None
        return True

    def disconnected(self) -> None:
        """A message without an answer may be what ended the connection."""
        if self._in_flight is not None:
            self._closes[self._in_flight[1]] += 1
            self._in_flight = None

    def _publish(self, link: Link, topic: str, payload: bytes) -> None:
        closes = self._closes[topic]
        if closes == _CLOSES:
            self._closes[topic] += 1  # so that it is said once
            log.warning("%s: the broker ends the connection over %s; none is sent", link.name, topic)
        if closes >= _CLOSES:
            self.dropped += 1
            return
        retain = self._retain and topic == self._status_topic
        self._in_flight = link.publish(topic, payload, retain=retain), topic
