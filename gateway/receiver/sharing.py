"""Several receivers that share the work (`gateway receive --share GROUP`), and what a dead one leaves behind.

Each member has a number, and a session at the broker that belongs to the number. The broker goes on queueing
for the session of a dead member. So a living one, as soon as it can take the number, connects to that
session, ends its subscriptions, takes what is queued, and lets the broker forget it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from gateway.core.events import Message
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.link import Link, Session
from gateway.receiver.session import Receiver

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
_QUIET_S = 2.0  # nothing came for so long after the subscriptions ended: the session is empty
_PATIENCE_S = 600.0
_END_S = 10.0


class Members(Protocol):
    """The table of a group's members; see `gateway.receiver.sinks.postgres_shared`."""

    def take_abandoned(self) -> int | None:
        """Return the number of a member that is gone, and take it; None where there is none."""

    def forget(self, number: int) -> None:
        """Strike out a member whose session has ended."""

    def release(self, number: int) -> None:
        """Leave a member to whoever can empty its session."""


class Inheritance(Session):
    """The session of a dead member, on a link of its own."""

    def __init__(self, receiver: Receiver) -> None:
        self.taken = 0
        self.give_up_s = time.monotonic() + _PATIENCE_S
        self._receiver = receiver
        self._quiet_since_s = 0.0
        self._unsubscribed = False

    def connected(self, link: Link, session_present: bool) -> None:
        self._quiet_since_s = time.monotonic()
        self._unsubscribed = False
        link.unsubscribe(self._receiver.filters)

    def unsubscribed(self, link: Link, filters: object) -> None:
        self._quiet_since_s = time.monotonic()
        self._unsubscribed = True

    def received(self, link: Link, messages: list[Message]) -> None:
        self._receiver.received(link, messages)
        self.taken += len(messages)
        self._quiet_since_s = time.monotonic()
        self.give_up_s = self._quiet_since_s + _PATIENCE_S  # a long queue is not one that is stuck

    def wants_to_read(self) -> bool:
        return self._receiver.failure is None

    def is_empty(self, link: Link) -> bool:
        """Return True if nothing is left in the session."""
        quiet_s = time.monotonic() - self._quiet_since_s
        return link.connected and self._unsubscribed and quiet_s > _QUIET_S


class _Ending(Session):
    """A connection that lets the broker forget a session; it takes nothing."""

    def __init__(self) -> None:
        self.give_up_s = time.monotonic() + _END_S


class Heir:
    """Takes over what dead members of the group have left. `step` is called from one thread."""

    def __init__(self, members: Members, receiver: Receiver, endpoint_of: Callable[[int], Endpoint]) -> None:
        self.inherited = 0
        """Members whose sessions were taken over."""
        self._members = members
        self._receiver = receiver
        self._endpoint_of = endpoint_of
        self._look_at_s = 0.0
        self._number = 0
        self._session: Inheritance | _Ending | None = None
        self._link: Link | None = None

    def step(self) -> None:
        """Look for a dead member, or go on with the one whose session is being emptied."""
        now_s = time.monotonic()
        if self._link is not None and self._session is not None:
            self._go_on(self._link, self._session, now_s)
        elif now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_EVERY_S
            with self._receiver.lock:
                number = self._members.take_abandoned()
            if number is not None:
                self._number = number
                self._open(number, Inheritance(self._receiver), persistent=True)

    def stop(self) -> None:
        """Leave what is not finished to the next who looks."""
        if self._link is not None:
            self._link.stop()
            self._link = None

    def _open(self, number: int, session: Inheritance | _Ending, *, persistent: bool) -> None:
        endpoint = replace(self._endpoint_of(number), persistent=persistent)
        self._session = session
        self._link = Link(f"receive-{number}", endpoint, session)
        self._link.start()

    def _go_on(self, link: Link, session: Inheritance | _Ending, now_s: float) -> None:
        late = now_s > session.give_up_s
        if isinstance(session, Inheritance):
            if session.is_empty(link):
                link.stop()
                log.info("took over %d messages of member %s, which is gone", session.taken, self._number)
                self._open(self._number, _Ending(), persistent=False)
            elif late:
                log.warning("member %s is gone, and its session cannot be emptied yet", self._number)
                self._leave(link, self._members.release)
        elif link.connected or late:
            self._leave(link, self._members.forget)
            self.inherited += 1

    def _leave(self, link: Link, hand_on: Callable[[int], None]) -> None:
        link.stop()
        with self._receiver.lock:
            hand_on(self._number)
        self._link = self._session = None
