"""Removal of events: every DELETE of events is in this module.

Invariants:
- The state table allows each removal, or it raises DeliveryError and changes nothing.
- In one transaction the event goes, its status and the reason are counted, and, unless the cloud had it,
  its number is noted as lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw
import orjson

from gateway.buffer.confirmed_runs import CONFIRMED
from gateway.buffer.proof.losses import Removal, note_losses
from gateway.buffer.tally import Tally
from gateway.core.errors import StoreError
from gateway.core.events import Kind, Status
from gateway.delivery.states import DeliveryEvent, target

_THESE = "id IN (SELECT value FROM json_each(?)) AND status = ?"


class Removals:
    """Removes events of one buffer. For the writer's thread, inside a transaction."""

    def __init__(self, connection: apsw.Connection, tally: Tally) -> None:
        self._connection = connection
        self._tally = tally

    def evict_synced(
        self, from_id: int, to_id: int, older_than_ms: int, *, confirmed_only: bool = False
    ) -> int:
        """Remove the SYNCED events of an id range that arrived before `older_than_ms`; return how many.
        `confirmed_only`: those that a receiver has on its disk."""
        return self._delete(
            "synced",
            Status.SYNCED,
            DeliveryEvent.EVICT,
            "id BETWEEN ? AND ? AND status = ? AND ingest_time < ?"
            + (f" AND {CONFIRMED}" if confirmed_only else ""),
            (from_id, to_id, int(Status.SYNCED), older_than_ms),
        )

    def drop_unconfirmed(self, ids: Sequence[int]) -> Removal:
        """Remove those of `ids` that are SYNCED, though no receiver has confirmed them, for want of room."""
        return self._lose_these("unconfirmed", Status.SYNCED, DeliveryEvent.EVICT, ids)

    def evict_kept(self, from_id: int, to_id: int, older_than_ms: int) -> int:
        """Remove the KEPT events of an id range that arrived before `older_than_ms`; return how many. Their
        numbers are noted, because the cloud never had them."""
        return self._lose(
            "kept",
            Status.KEPT,
            DeliveryEvent.EVICT,
            "id BETWEEN ? AND ? AND status = ? AND ingest_time < ?",
            (from_id, to_id, int(Status.KEPT), older_than_ms),
        ).events

    def thin(self, from_id: int, to_id: int, keep_one_in: int, priority: int) -> Removal:
        """Remove PENDING raw events of that priority or lower in an id range, but one in `keep_one_in` of
        each stream."""
        return self._lose(
            "thinned",
            Status.PENDING,
            DeliveryEvent.EVICT,
            "id BETWEEN ? AND ? AND status = ? AND kind = ? AND priority >= ? AND sequence_num % ? <> 0",
            (from_id, to_id, int(Status.PENDING), int(Kind.RAW), priority, keep_one_in),
        )

    def halve(
        self, reason: str, from_id: int, to_id: int, level: int, priority: int, before_ms: int
    ) -> Removal:
        """Thin out streams that keep one in 2 ** (level - 1) to one in 2 ** level: the PENDING raw events of
        that priority or lower in an id range that arrived before `before_ms`. Each level takes numbers with
        one step, so the loss stays one run."""
        return self._lose(
            reason,
            Status.PENDING,
            DeliveryEvent.EVICT,
            "id BETWEEN ? AND ? AND status = ? AND kind = ? AND priority >= ? AND ingest_time < ?"
            " AND sequence_num % ? = ?",
            (
                *(from_id, to_id, int(Status.PENDING), int(Kind.RAW), priority, before_ms),
                *(2**level, 2 ** (level - 1)),
            ),
        )

    def drop_pending(self, ids: Sequence[int]) -> Removal:
        """Remove those of `ids` that are PENDING, for want of room."""
        return self._lose_these("oldest", Status.PENDING, DeliveryEvent.EVICT, ids)

    def give_up(self, status: Status, ids: Sequence[int]) -> Removal:
        """Remove those of `ids` that are `status`, FAILED or CORRUPT, for want of room."""
        return self._lose_these(status.name.lower(), status, DeliveryEvent.EVICT, ids)

    def drop(self, ids: Sequence[int], statuses: Sequence[Status]) -> Removal:
        """Remove those of `ids` in one of those statuses, as an operator wants."""
        return Removal.together(
            self._lose_these("dropped", status, DeliveryEvent.DROP, ids) for status in statuses if ids
        )

    def _lose_these(
        self, reason: str, status: Status, happening: DeliveryEvent, ids: Sequence[int]
    ) -> Removal:
        return self._lose(reason, status, happening, _THESE, (orjson.dumps(list(ids)).decode(), int(status)))

    def _lose(
        self, reason: str, status: Status, happening: DeliveryEvent, where: str, values: tuple[object, ...]
    ) -> Removal:
        """Remove events that the cloud does not have, and note per stream and reason what is lost."""
        lost = note_losses(self._connection, reason, where, values)
        return lost._replace(events=self._delete(reason, status, happening, where, values))

    def _delete(
        self, reason: str, status: Status, happening: DeliveryEvent, where: str, values: tuple[object, ...]
    ) -> int:
        """Remove the events for which `where` says that they are `status`; return how many."""
        if target(status, happening) is not None:
            raise StoreError(f"{happening.value} leaves an event that is {status.name} in the buffer")
        self._forget_refusals(where, values)
        self._connection.execute(f"DELETE FROM buffer_events WHERE {where}", values)  # noqa: S608
        removed = int(self._connection.changes())
        self._tally.change_status(status, None, removed)
        self._tally.moved["evicted", reason] += removed
        return removed

    def _forget_refusals(self, where: str, values: tuple[object, ...]) -> None:
        """Forget the refusals of events that are about to be removed. Costs nothing when there are none."""
        if self._connection.execute("SELECT 1 FROM refusals LIMIT 1").fetchone():
            self._connection.execute(
                f"DELETE FROM refusals WHERE id IN (SELECT id FROM buffer_events WHERE {where})",  # noqa: S608
                values,
            )
