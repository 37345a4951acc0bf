"""Commands of the bridge to the buffer's writer: claim events, and settle them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from gateway.buffer.store import Store
from gateway.buffer.writer import Command
from gateway.core.events import Status
from gateway.delivery.states import Backoff, DeliveryEvent

log = logging.getLogger(__name__)


class Claimant(Protocol):
    """A connection of the bridge. Both methods run on the writer's thread."""

    def claim(self, store: Store) -> list[int]:
        """Return the events for this connection. Inside the transaction."""

    def claimed(self, ids: list[int], epoch: int) -> None:
        """Take over claimed events: they are SYNCING now, for the connection of that epoch."""


class ClaimEvents(Command):
    """Claims a batch for one connection."""

    urgent = True  # the connection has nothing to send; it lingers by itself

    def __init__(self, bridge: Claimant, epoch: int) -> None:
        self._bridge = bridge
        self._epoch = epoch
        self._ids: list[int] = []

    def apply(self, store: Store) -> None:
        self._ids = self._bridge.claim(store)

    def committed(self) -> None:
        self._bridge.claimed(self._ids, self._epoch)

    def failed(self, error: Exception) -> None:
        super().failed(error)
        self._bridge.claimed([], self._epoch)


class SettleEvents(Command):
    """Moves SYNCING events on. If it fails they stay SYNCING until a restart puts them back: sent twice
    perhaps, lost never."""

    def __init__(self, ids: Sequence[int], happening: DeliveryEvent) -> None:
        self._ids = ids
        self._happening = happening

    def apply(self, store: Store) -> None:
        store.move(self._ids, Status.SYNCING, self._happening)


class FailEvents(Command):
    """Mark events as FAILED, with the reason, because the cloud broker will never take them."""

    def __init__(self, ids: Sequence[int], reason: str) -> None:
        self._ids = ids
        self._reason = reason

    def apply(self, store: Store) -> None:
        store.reject(self._ids, self._reason)

    def committed(self) -> None:
        log.error("%d events will not reach the cloud: %s; kept as failed", len(self._ids), self._reason)


class RefuseEvents(Command):
    """Put back events that the cloud broker refused, and pause their streams; those without attempts left
    become FAILED.

    Lost connections count as attempts too, but it takes as many refusals in a row: an outage, however long,
    fails nothing.
    """

    def __init__(self, ids: Sequence[int], reason: str, backoff: Backoff, now_ms: int, chance: float) -> None:
        self._arguments = ids, reason, backoff, now_ms, chance
        self._failed = 0

    def apply(self, store: Store) -> None:
        self._failed = store.refuse(*self._arguments)

    def committed(self) -> None:
        if self._failed:
            log.error("%d events were refused too often and are kept as failed", self._failed)
