"""Guard that keeps the buffer within its space on a disk shared with others. All on the writer's thread.

Four times a second: retention within what the size and the disk allow, free pages given back, the disk
watched, the ballast put back. Before each group: where file and log together leave no room for it, retention
in small steps comes first. And when the disk was full all the same, the emergency eviction, in this order:

1. the ballast goes, and the write-ahead log is moved into the file;
2. retention in small steps, each a transaction of its own, because each needs room itself; after each the
   pages that became free and the log go back to the file system;
3. until the reserve is free, and twice as much each time that it was not enough, or until nothing more may be
   given up.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from contextlib import suppress

import apsw

from gateway.buffer.alerts import Alert
from gateway.buffer.connection import PAGE_BYTES
from gateway.buffer.proof.losses import Removal
from gateway.buffer.retention.disk_space import DiskSpace
from gateway.buffer.retention.log_guard import QUIET_TURNS, PinnedWal
from gateway.buffer.retention.policy import IDS_PER_RUN, STEPS_PER_RUN, EvictedRange, Retention, row_bytes
from gateway.buffer.store import CHECKPOINT_ID, Store
from gateway.core.units import format_bytes

log = logging.getLogger(__name__)

VACUUM_PAGES = 256  # 1 MiB per tick goes back to the file system
RELIEF_ROWS = 100  # a DELETE of 1000 rows fails where the ballast is all there is
RELIEF_PAGES = 16  # moving one writes up to three: itself, where it points from, the list of free ones
_SHARE_TO_WRITE = 4  # one transaction writes about a quarter of what is free at most
_HEADROOM_GROUPS = 4  # a group is written to the log with more than it carries, and then to the file as well


class DiskGuard:
    """Runs retention on one buffer and answers for its disk: the writer's `Relief`. `checkpoint` stores the
    windows' state, so that what came since the last checkpoint may be given up."""

    def __init__(
        self,
        retention: Retention,
        alert: Alert,
        space: DiskSpace | None = None,
        *,
        now_ms: Callable[[], int],
        checkpoint: Callable[[Store], object],
    ) -> None:
        self._now_ms = now_ms
        self._checkpoint = checkpoint
        self._retention = retention
        self._alert = alert
        self._space = space
        self._held_log = PinnedWal(space, retention.max_bytes) if space else None
        self._was_low = False
        self._was_full = False
        self._without_ballast = space is not None and not space.ballast_held
        self._changes = self._quiet_turns = 0
        self._wanted_bytes = 0  # to be free before the next attempt on a full disk
        self._owed: list[EvictedRange] = []  # what the emergency eviction took, to be announced
        self._announced: list[EvictedRange] = []  # owed again if the last announcement was rolled back

    @property
    def starved(self) -> bool:
        """True when space is short and nothing before the checkpoint is left to remove."""
        return self._retention.starved

    @property
    def is_busy(self) -> bool:
        """True if the last turn left work to do."""
        return self.starved or not self._retention.finished

    def run(self, store: Store, now_ms: int, checkpoint_id: int) -> None:
        """Run one turn inside a transaction and announce losses, with one alert per reason."""
        if self._space is None:
            losses = self._retention.run(store, now_ms, checkpoint_id)
            store.file.give_back(VACUUM_PAGES)
        else:
            self._watch(store, self._space)
            losses = self._retain(store, self._space, now_ms, checkpoint_id, self._space.free_bytes)
        self._announced, self._owed = self._owed, []
        self._announce(store, [*self._announced, *losses])
        if self._held_log:
            self._held_log.announce(store, self._alert)

    def committed(self, store: Store) -> None:
        """Move the log into the file after the turn, once nothing happens, or where space is short."""
        if self._space is None or self._held_log is None or not self._space.wal_bytes():
            return
        self._held_log.look(store)
        changes = store.file.changed_rows()
        self._quiet_turns = self._quiet_turns + 1 if changes == self._changes else 0
        self._changes = changes
        if self._quiet_turns >= QUIET_TURNS or self._without_ballast:
            with suppress(apsw.Error):  # a later commit meets the same disk, and acts on it
                store.file.empty_wal()

    def rolled_back(self) -> None:
        """The last turn is not on the disk."""
        self._owed, self._announced = [*self._announced, *self._owed], []
        if self._held_log:
            self._held_log.rolled_back()

    def check(self, store: Store, size_bytes: int) -> None:
        """See to it that there is room for a group of that size; outside of a transaction. Raises OSError
        when the disk is as good as full, LogHeldError when a reader keeps the log from being reset and it
        must not grow.

        Without the ballast as much must stay free as it had: else the next emergency could not even move the
        write-ahead log into the file.
        """
        if self._without_ballast and self._space is not None:
            self._space.look()
            if self._space.free_bytes < self._space.ballast_bytes:
                raise OSError(errno.ENOSPC, "the disk is full")
        self._make_room(store, size_bytes)
        if self.starved and store.meta_int(CHECKPOINT_ID) < store.last_id():
            with store.transaction():
                self._checkpoint(store)
            self._make_room(store, size_bytes)

    def _make_room(self, store: Store, size_bytes: int) -> None:
        space = self._space
        if space is None or self._held_log is None or self._fits(space, size_bytes):
            return
        if not store.file.empty_wal():
            self._held_log.check()
        while not self._fits(space, size_bytes) and self._step(store, space, space.free_bytes):
            pass

    def _fits(self, space: DiskSpace, size_bytes: int) -> bool:
        """Return True if file and log stay within the buffer's size after another group."""
        headroom_bytes = _HEADROOM_GROUPS * max(space.group_bytes, size_bytes)
        return space.file_bytes() + headroom_bytes <= self._retention.max_bytes

    def release(self) -> None:
        """Give the ballast's room away."""
        self._without_ballast = True
        if self._space is not None and self._space.release_ballast():
            log.warning("the disk is full: the ballast is released")

    def relieve(self, store: Store) -> None:
        """Make room on a full disk; outside of a transaction. Raises what the disk raises."""
        if self._space is not None:
            self._empty(store, self._space)
        with store.transaction():
            self._checkpoint(store)  # what came since the last one may be given up with the next attempt

    def _empty(self, store: Store, space: DiskSpace) -> None:
        self._was_full = True
        self._wanted_bytes = max(space.reserve_bytes, 2 * self._wanted_bytes)
        self.release()
        store.file.empty_wal()
        space.look()
        while space.free_bytes < self._wanted_bytes:
            if not self._step(store, space, 0):
                log.error("the disk is full, and nothing is left to remove: free some space: %s", space)
                return

    def _step(self, store: Store, space: DiskSpace, free_bytes: int) -> bool:
        """A turn of retention in a transaction of its own; whether there may be more to give up."""
        used_bytes = store.file.used_bytes()
        with store.transaction():
            lost = self._retain(store, space, self._now_ms(), store.meta_int(CHECKPOINT_ID), free_bytes)
        self._owed += lost
        store.file.empty_wal()
        space.look()
        return (
            not self._retention.finished
            or store.file.used_bytes() != used_bytes
            or store.file.free_pages() > 0
        )

    def _retain(
        self, store: Store, space: DiskSpace, now_ms: int, checkpoint_id: int, free_bytes: int
    ) -> list[EvictedRange]:
        """A turn of retention that itself fits on the disk; as if there were `free_bytes` left."""
        most_bytes = self._retention.max_bytes - space.file_bytes()
        room_bytes = min(space.free_bytes, max(most_bytes, _HEADROOM_GROUPS * space.group_bytes))
        rows = room_bytes // _SHARE_TO_WRITE // row_bytes(store)
        step_ids = min(max(RELIEF_ROWS, rows), IDS_PER_RUN)
        losses = self._retention.run(
            store,
            now_ms,
            checkpoint_id,
            room_bytes=space.budget_bytes(free_bytes),
            steps=min(max(1, rows // step_ids), STEPS_PER_RUN),
            step_ids=step_ids,
        )
        pages = room_bytes // _SHARE_TO_WRITE // PAGE_BYTES // 3
        store.file.give_back(min(max(RELIEF_PAGES, pages), VACUUM_PAGES))
        return losses

    def _watch(self, store: Store, space: DiskSpace) -> None:
        space.look()
        figures = {"free_bytes": space.free_bytes, "total_bytes": space.total_bytes}
        if self._was_full:
            self._was_full, self._wanted_bytes = False, 0
            said = f"the disk was full, nothing was acknowledged meanwhile; {space}"
            self._alert(store, "disk_full", said, figures)
        if space.low and not self._was_low:
            self._was_low = True
            limit = format_bytes(space.reserve_bytes)
            said = f"the disk is low: {space}; below {limit} the buffer gives up room"
            self._alert(store, "disk_low", said, figures)
        elif space.roomy and space.fill_ballast():
            self._was_low = self._without_ballast = False

    def _announce(self, store: Store, losses: list[EvictedRange]) -> None:
        for reason in sorted({loss.reason for loss in losses if loss.events}):
            found = [loss for loss in losses if loss.reason == reason]
            lost = Removal.together(loss.removal for loss in found)
            ids = {
                "first_id": min(loss.first_id for loss in found),
                "last_id": max(loss.last_id for loss in found),
            }
            events = f"{lost.events} events of {lost.whose} were evicted ({reason})"
            stretch = f"between buffer ids {ids['first_id']} and {ids['last_id']}"
            self._alert(
                store, "evicted", f"the buffer needs room: {events}, {stretch}", lost.details(reason) | ids
            )
