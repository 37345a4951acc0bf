"""Ends a persistent session at a broker, with what is queued in it."""

from __future__ import annotations

import threading
from dataclasses import replace

from gateway.core.errors import BrokerError
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.link import Link, Session

TIMEOUT_S = 15.0


class _Ending(Session):
    """A clean connection: the broker ends the session of its client id when it accepts it."""

    def __init__(self) -> None:
        self.done = threading.Event()

    def connected(self, link: Link, session_present: bool) -> None:
        self.done.set()


def end_session(endpoint: Endpoint, client_id: str, timeout_s: float = TIMEOUT_S) -> None:
    """End the session of `client_id` at the broker of `endpoint`. Raises BrokerError where that fails."""
    session = _Ending()
    clean = replace(endpoint, client_id=client_id, persistent=False, will=None, alternatives=())
    link = Link("adopt", clean, session)
    link.start()
    ended = session.done.wait(timeout_s)
    link.stop()
    if not ended:
        reason = link.metrics.last_error or "no answer"
        raise BrokerError(f"the session of {client_id!r} at {clean.place} cannot be ended: {reason}")
