"""The first commit after a start: what was on its way waits again, and what the start found out is announced.

It is a command, the first one in the queue, so that on a full disk the writer makes room for it like for any
other. Nothing is taken in, claimed or given a number before it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from gateway.buffer.recovery import Recovery
from gateway.buffer.store import Store
from gateway.buffer.writer import Command

log = logging.getLogger(__name__)


class Opening(Command):
    """Puts claims of the last run back, and stores an alert, by `alert(store, name, message)`, for a loss."""

    def __init__(self, recovery: Recovery, alert: Callable[[Store, str, str], None]) -> None:
        self._recovery = recovery
        self._alert = alert
        self._released = 0

    def apply(self, store: Store) -> None:
        self._released = store.release_all()
        if self._recovery.alert:
            self._alert(store, f"buffer_{self._recovery.kind}", self._recovery.alert)

    def committed(self) -> None:
        log.info("%d events that were on their way wait again", self._released)
