"""Publishes a simulated fleet's messages at their time, and counts what the broker acknowledged."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from gateway.lab.fleet_simulator import Publication
from gateway.mqtt.link import Link, Session

MAX_IN_FLIGHT = 100  # paho's publish gets slower with the window
_PER_TURN = 500  # so that acknowledgements are read in between
_IDLE_WAIT_S = 1.0
_REFUSED = 128  # reason codes from here on are failures (MQTT 5, section 2.4)


class Fleet(Session):
    """The session of the fleet's connection. Its counts are messages, and any thread may read them.

    What was in flight when a connection broke is published again, as devices do, so a broker may get it
    twice. `finished` is set when the last message was acknowledged (at QoS 0: sent), or after `stop`, when
    nothing is in flight any more.
    """

    def __init__(
        self, publications: Iterator[Publication], *, qos: int = 1, now_ms: Callable[[], int] | None = None
    ) -> None:
        self.sent = 0
        self.acknowledged = 0
        self.refused = 0
        self.repeated = 0
        self.behind_ms = 0
        """Delay of the latest message: grows when the broker is slower than the fleet."""
        self.finished = threading.Event()
        self._publications = publications
        self._next: Publication | None = None
        self._qos = qos
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self._in_flight: dict[int, Publication] = {}
        self._again: deque[Publication] = deque()
        self._stopping = False

    def stop(self) -> None:
        """Publish nothing new. From any thread."""
        self._stopping = True

    @property
    def unanswered(self) -> int:
        """Messages that were sent and neither acknowledged nor refused."""
        return len(self._in_flight) + len(self._again)

    def disconnected(self, link: Link) -> None:
        self._again.extend(self._in_flight.values())
        self._in_flight.clear()

    def published(self, link: Link, packet_id: int, reason_code: int) -> None:
        if self._in_flight.pop(packet_id, None) is None:
            return
        if reason_code >= _REFUSED:
            self.refused += 1
        else:
            self.acknowledged += 1

    def work(self, link: Link) -> float:
        for _ in range(_PER_TURN):
            wait_s = self._wait_s(link)
            if wait_s > 0:
                return wait_s
            self._publish_one(link)
        return 0.0

    def _wait_s(self, link: Link) -> float:
        """Return how long there is nothing to publish; 0 when there is something now."""
        if len(self._in_flight) >= MAX_IN_FLIGHT or link.congested:
            return _IDLE_WAIT_S  # an acknowledgement wakes the loop
        if self._again:
            return 0.0
        if self._next is None and not self._stopping:
            self._next = next(self._publications, None)
        if self._next is None or self._stopping:
            if not self._in_flight:
                self.finished.set()
            return _IDLE_WAIT_S
        return max(0.0, (self._next.send_at_ms - self._now_ms()) / 1000)

    def _publish_one(self, link: Link) -> None:
        publication = self._again[0] if self._again else self._next
        if publication is None:
            return
        packet_id = link.publish(publication.topic, publication.payload, qos=self._qos)
        if self._qos:
            self._in_flight[packet_id] = publication
        if self._again:
            self._again.popleft()
            self.repeated += 1
        else:
            self._next = None
            self.sent += 1
            self.behind_ms = self._now_ms() - publication.send_at_ms
