"""Order in which events leave the buffer, so that it never grows past its size.

1. SYNCED events, and those KEPT at the edge, older than `keep_synced`; above the soft mark those of any age,
   oldest first. Below it what the history has not copied yet stays.
2. Above the soft mark, what could not be delivered: CORRUPT events, then FAILED ones, oldest first. They stay
   for inspection and for a retry by hand while there is room; what can still be delivered comes before that.
   With `confirm: receiver` SYNCED events wait for the receiver in 1; above the hard mark the oldest of those
   that it has not confirmed go first, because it most likely has them.
3. Above the hard mark, thinning: of the older half of the pending raw events of normal and low priority every
   other one of each stream goes, then every other one of what is left, and so on. A trend survives that;
   dropping the oldest would cut it off.
4. When thinning has nothing more to give: the lowest priority, oldest first.

Nothing behind the window checkpoint is touched: a restart still has to replay it. 2 to 4 lose data, so each
removal is counted per stream and reason, and the caller gets a `EvictedRange` to announce.
A run takes a bounded number of steps; it is called again with the next tick. On a full disk the steps are
small ones, because each needs room itself: see `room`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from gateway.buffer.proof.losses import Removal
from gateway.buffer.retention.log_guard import log_allowance_bytes
from gateway.buffer.store import Store
from gateway.core.events import Priority, Status

SOFT_MARK = 0.75  # below where new messages are rejected, see `flow.capacity`: what has no future goes first
HARD_MARK = 0.92
RELIEF_MARK = 0.87  # what is given up then makes room for a while, not for the next few events only
IDS_PER_RUN = 10_000
OLDEST_PER_STEP = 1_000
_STEPS_OF_A_ROOM = 512  # in a large room a step takes more, up to IDS_PER_RUN: that is faster
KEPT_PER_SEARCH = 100_000  # a search looks at all that failed, so it must not be one for each step
STEPS_PER_RUN = 8
_LEAST_ROW_BYTES = 64
_ANY_AGE = _ANY_ID = 1 << 62
_THINNEST = 6  # one in 64 is left; then whole stretches go


def without_history() -> int:
    """Return the id up to which events need not wait for a copy: any."""
    return _ANY_ID


class EvictedRange(NamedTuple):
    """Events that were removed before the cloud had them, all between two ids."""

    reason: str  # corrupt, failed, unconfirmed, thinned, oldest
    removal: Removal
    first_id: int
    last_id: int

    @property
    def events(self) -> int:
        return self.removal.events


def usable_bytes(max_bytes: int) -> int:
    """Return the share of the size that is for the database itself, without its write-ahead log."""
    return max_bytes - log_allowance_bytes(max_bytes)


def row_bytes(store: Store) -> int:
    """Return the average size of an event in the file, at least the minimum."""
    rows = sum(store.counts["status", status.name] for status in Status)
    return max(_LEAST_ROW_BYTES, store.file.used_bytes() // max(1, rows))


class Marks(NamedTuple):
    """Levels of use, in bytes, above which events are removed."""

    soft: int
    hard: int
    relief: int

    @classmethod
    def of(cls, room_bytes: int) -> Marks:
        """The marks of a room that the write-ahead log shares."""
        budget = usable_bytes(room_bytes)
        return cls(int(budget * SOFT_MARK), int(budget * HARD_MARK), int(budget * RELIEF_MARK))


class Retention:
    """Keeps one buffer within `max_bytes`, its write-ahead log included. For the writer's thread."""

    def __init__(
        self,
        max_bytes: int,
        keep_synced_ms: int,
        *,
        until_confirmed: bool = False,
        copied_to: Callable[[], int] = without_history,
    ) -> None:
        self.finished = True
        """True if the last run found nothing more to remove."""
        self.starved = False
        """True if the last run ended because nothing more may be removed."""
        self.max_bytes = max_bytes
        self._keep_synced_ms = keep_synced_ms
        self._until_confirmed = until_confirmed
        self._copied_to = copied_to
        self._unconfirmed_from = 0  # where the search for unconfirmed events goes on, in this time of need
        self._pressed = False  # above the hard mark, and not yet below that of relief
        self._step_ids = IDS_PER_RUN
        self._synced_from = 0  # where the search for SYNCED events goes on
        self._thinned_to = 0  # where the current pass goes on
        self._pass_end: int | None = None
        self._level = 1  # of 2 ** level events one is kept
        # Found by one search and removed step by step; what was retried or is gone by then is left alone.
        self._undelivered: dict[Status, deque[int]] = {Status.CORRUPT: deque(), Status.FAILED: deque()}

    def run(
        self,
        store: Store,
        now_ms: int,
        checkpoint_id: int,
        *,
        room_bytes: int | None = None,
        steps: int = STEPS_PER_RUN,
        step_ids: int = IDS_PER_RUN,
    ) -> list[EvictedRange]:
        """Make the room that is needed, as far as `steps` go; inside a transaction. Returns what had to be
        given up. `room_bytes` is what there is for the buffer, when the disk has less than its size."""
        marks = Marks.of(self.max_bytes if room_bytes is None else min(room_bytes, self.max_bytes))
        self._step_ids, self.finished, self.starved = step_ids, False, False
        losses: list[EvictedRange] = []
        for _ in range(steps):
            used_bytes = store.file.used_bytes()
            older_than_ms = _ANY_AGE if used_bytes > marks.soft else now_ms - self._keep_synced_ms
            until_id = checkpoint_id if older_than_ms == _ANY_AGE else min(checkpoint_id, self._copied_to())
            removed = self._evict_done(store, now_ms, older_than_ms, until_id)
            self._pressed = used_bytes > (marks.relief if self._pressed else marks.hard)
            if not self._pressed:
                self._pass_end, self._level = None, 1  # the next time of need starts afresh
                self._unconfirmed_from = 0
            if removed or self._synced_from:
                if not self._pressed:
                    break
                continue
            loss = self._next_loss(store, checkpoint_id) if used_bytes > marks.soft else None
            if loss is None:
                self.finished, self.starved = True, self._pressed
                break
            losses.append(loss)
        return losses

    def _next_loss(self, store: Store, checkpoint_id: int) -> EvictedRange | None:
        loss = self._give_up(store, checkpoint_id)
        if loss is None and self._pressed:
            loss = (
                self._drop_unconfirmed(store, checkpoint_id)
                or self._thin(store, checkpoint_id)
                or self._drop_oldest(store, checkpoint_id)
            )
        return loss

    def _evict_done(self, store: Store, now_ms: int, older_than_ms: int, checkpoint_id: int) -> int:
        if not store.events_that_are(Status.SYNCED, Status.KEPT):
            self._synced_from = 0  # to look through a large backlog for nothing takes longer than it fills up
            return 0
        oldest = store.search.first_from(self._synced_from)
        # An event from the future came while the clock was wrong: it says nothing about those behind it.
        if oldest is None or older_than_ms <= oldest[1] <= now_ms or oldest[0] > checkpoint_id:
            self._synced_from = 0  # from the start again: what was pending then may be synced by now
            return 0
        end = min(checkpoint_id, oldest[0] + self._step_ids - 1)
        self._synced_from = end + 1
        removed = store.removals.evict_synced(
            oldest[0], end, older_than_ms, confirmed_only=self._until_confirmed
        )
        if store.events_that_are(Status.KEPT):
            removed += store.removals.evict_kept(oldest[0], end, older_than_ms)
        return removed

    def _give_up(self, store: Store, checkpoint_id: int) -> EvictedRange | None:
        """The oldest of what could not be delivered."""
        for status in (Status.CORRUPT, Status.FAILED):
            if not store.events_that_are(status):
                continue
            if not self._undelivered[status]:
                found = store.search.oldest_undelivered(status, checkpoint_id, KEPT_PER_SEARCH)
                self._undelivered[status] = deque(found)
            waiting = self._undelivered[status]
            step = min(self._oldest_per_step(store), len(waiting))
            ids = [waiting.popleft() for _ in range(step)]
            if ids:
                return EvictedRange(status.name.lower(), store.removals.give_up(status, ids), ids[0], ids[-1])
        return None

    def _drop_unconfirmed(self, store: Store, checkpoint_id: int) -> EvictedRange | None:
        """The oldest of what the cloud broker has, but no receiver is known to have."""
        if not self._until_confirmed or not store.events_that_are(Status.SYNCED):
            return None
        ids = store.search.oldest_synced(self._unconfirmed_from, checkpoint_id, self._oldest_per_step(store))
        self._unconfirmed_from = ids[-1] + 1 if ids else checkpoint_id + 1
        return (
            EvictedRange("unconfirmed", store.removals.drop_unconfirmed(ids), ids[0], ids[-1])
            if ids
            else None
        )

    def _thin(self, store: Store, checkpoint_id: int) -> EvictedRange | None:
        """Thin one stretch of the current pass over the older half; the next pass thins more."""
        while self._level <= _THINNEST:
            if self._pass_end is None:
                oldest = store.search.first_from(0)
                if oldest is None:
                    return None
                self._thinned_to, self._pass_end = oldest[0], (oldest[0] + checkpoint_id) // 2
            start, end = self._thinned_to, min(self._pass_end, self._thinned_to + self._step_ids - 1)
            if start > end:
                self._pass_end, self._level = None, self._level + 1
                continue
            self._thinned_to = end + 1
            removed = store.removals.thin(start, end, 2**self._level, Priority.NORMAL)
            if removed.events:
                return EvictedRange("thinned", removed, start, end)
        return None

    def _drop_oldest(self, store: Store, checkpoint_id: int) -> EvictedRange | None:
        """The lowest priority there is. While all of it is newer than the checkpoint, nothing: it is given up
        after the next one, before anything that matters more."""
        for priority in sorted(Priority, reverse=True):
            ids = store.search.oldest_pending(priority, checkpoint_id, self._oldest_per_step(store))
            if ids:
                return EvictedRange("oldest", store.removals.drop_pending(ids), ids[0], ids[-1])
            if store.search.oldest_pending(priority, store.last_id(), 1):
                return None
        return None

    def _oldest_per_step(self, store: Store) -> int:
        """Return how many of the oldest events to remove in a step: little more than necessary."""
        rows = self.max_bytes // _STEPS_OF_A_ROOM // row_bytes(store)
        return min(self._step_ids, max(OLDEST_PER_STEP, rows))
