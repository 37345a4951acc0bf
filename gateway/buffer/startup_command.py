"""The first commit after a start: what was on its way waits again, and what the start found out is announced.

It is a command, the first one in the queue, so that on a full disk the writer makes room for it like for any
other. Nothing is taken in, claimed or given a number before it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from gateway.buffer.repair.recovery import Recovery
from gateway.buffer.store import Store
from gateway.buffer.writer import Command

log = logging.getLogger(__name__)


class StartupCommand(Command):
    """Puts claims of the last run back, and stores an alert, by `alert(store, name, message)`, for a loss.

    `gateway_id` is whose buffer it is from now on. `marked_id` is the last id that was committed, as far as
    is known: where the file ends earlier, its log was lost, and no number may be given twice.
    """

    def __init__(
        self,
        recovery: Recovery,
        alert: Callable[[Store, str, str], None],
        marked_id: int = 0,
        gateway_id: str = "",
    ) -> None:
        self._recovery = recovery
        self._alert = alert
        self._marked_id = marked_id
        self._gateway_id = gateway_id
        self._released = 0
        self.lost = ""

    def apply(self, store: Store) -> None:
        self._released = store.release_all()
        last_id = store.last_id()
        if last_id < self._marked_id:
            store.skip_lost(self._marked_id)
            self.lost = (
                f"the buffer ends with id {last_id}, but {self._marked_id} had been committed: the events"
                f" from {last_id + 1} to {self._marked_id} are lost, with the write-ahead log or the file"
            )
        self._take_over(store)
        if self._recovery.kind == "backup" and not self._marked_id:
            store.identity.renew()  # numbers that came after the backup are given out again
        if self._recovery.alert:
            self._alert(store, f"buffer_{self._recovery.kind}", self._recovery.alert)
        if self.lost:
            self._alert(store, "buffer_lost", self.lost)

    def _take_over(self, store: Store) -> None:
        """Note whose buffer it is. Of another gateway's, this one has brought nothing up: its numbers begin
        behind."""
        owner = store.identity.gateway_id
        if owner == self._gateway_id or not self._gateway_id:
            return
        store.identity.belong_to(self._gateway_id)
        if owner:
            store.identity.renew()
            self._alert(store, "buffer_adopted", f"the buffer of the gateway {owner!r} was taken over")

    def committed(self) -> None:
        log.info("%d events whose delivery was not confirmed will be sent again", self._released)
        if self.lost:
            log.error("%s", self.lost)
