"""Supply of events for one connection of the bridge: claimed in rounds as the backlog allows, then read.

Claims are commands to the writer: `claim` and `claimed` run on its thread, everything else on the link's.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from gateway.buffer.backlog import Backlog
from gateway.buffer.reader import Reader
from gateway.buffer.store import Store
from gateway.buffer.stored_events import StoredEvents
from gateway.buffer.writer import Writer
from gateway.cloud.bridge_spec import BridgeSpec
from gateway.cloud.commands import ClaimEvents, SettleEvents
from gateway.delivery.pacing import Pace
from gateway.delivery.states import DeliveryEvent

log = logging.getLogger(__name__)

# A claim waits for the commit of a whole group: under load one frame per claim would fall behind the intake.
FRAMES_PER_CLAIM = 4
LOOK_AGAIN_S = 5.0  # at the streams of a backlog
LINGER_S = 0.01  # how long a small batch may wait for company
IDLE_S = 1.0  # a commit that stores something ends it
WAITING_S = 0.25  # for streams that are held back


class ClaimPrefetcher:
    """The claims of connection number `shard`, one at a time. `wake` is called when one is there."""

    def __init__(
        self,
        spec: BridgeSpec,
        shard: int,
        path: Path,
        writer: Writer,
        now_ms: Callable[[], int],
        pace: Pace,
        wake: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._shard = shard
        self._path = path
        self._writer = writer
        self._now_ms = now_ms
        self._pace = pace
        self._wake = wake
        self._opened: Reader | None = None
        self._claimed: deque[list[int]] = deque()  # filled on the writer's thread, at most one list
        self._held: set[tuple[int, int]] = set()  # (stream, priority) pairs that wait since that was claimed
        self._claiming = False
        self._epoch = 0  # of the connection: claims of an earlier one are given back
        self._next_claim_s = 0.0
        self._backlog: Backlog | None = None
        self._look_again_s = 0.0

    @property
    def reader(self) -> Reader:
        """The connection's own view of the buffer."""
        if self._opened is None:
            self._opened = Reader(self._path)
        return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def take(self, now_s: float) -> StoredEvents | None:
        """Return the next claimed events; None when there are none. On a fast link the writer claims the next
        round while this one is read, packed and sent."""
        if not self._claimed:
            return None
        ids = self._claimed.popleft()
        held, self._held = self._held, set()
        if self._is_fast and not held:  # what goes back has to be there before the next claim
            self.ask(now_s)
        return self._read(ids, held)

    def hold(self, stream_id: int, priority: int) -> None:
        """A stream has to wait: what is claimed of it already goes back when it is taken."""
        if self._claiming or self._claimed:
            self._held.add((stream_id, priority))

    def abandon(self) -> list[int]:
        """The connection ended: what was claimed and not taken. What is being claimed right now goes back
        too: behind these it would overtake them."""
        self._epoch += 1
        self._held.clear()
        self._look_again_s = 0.0  # what failed was claimed, and is not any more
        lost: list[int] = []
        while self._claimed:
            lost += self._claimed.popleft()
        return lost

    def ask(self, now_s: float) -> float:
        """Claim a round, unless one is on its way or not taken yet, or it is too early. Returns after how
        long to ask again, unless `wake` is called before."""
        if self._claiming or self._claimed:
            return IDLE_S
        pending = self._writer.pending_events
        if pending == 0:
            return IDLE_S
        if now_s < self._next_claim_s:
            return self._next_claim_s - now_s
        self._look_at_backlog(pending, now_s)
        self._claiming = True
        # A full batch goes at once and is followed by the next; a small one waits for company first.
        self._next_claim_s = now_s if pending >= self._spec.batch_events else now_s + LINGER_S
        self._writer.submit(ClaimEvents(self, self._epoch))
        return WAITING_S

    def _look_at_backlog(self, pending: int, now_s: float) -> None:
        """Find the streams whose live events must wait, while more waits than fits into a round."""
        if pending <= FRAMES_PER_CLAIM * self._spec.batch_events:
            self._backlog = None
        elif self._backlog is None or now_s >= self._look_again_s:
            to_id = self._backlog.to_id if self._backlog else None
            found = self.reader.backlog(self._shard, self._spec.connections, to_id)
            self._backlog = Backlog(*found, self._spec.order == "newest")
            self._look_again_s = time.monotonic() + LOOK_AGAIN_S

    @property
    def _is_fast(self) -> bool:
        """True if the link takes whole batches."""
        return self._pace.events(self._spec.batch_events) >= self._spec.batch_events

    def _read(self, ids: list[int], held: set[tuple[int, int]]) -> StoredEvents | None:
        events, corrupt = self.reader.without_corrupt(self.reader.by_ids(ids).in_order_of(ids))
        if corrupt:
            log.error("%d events have a wrong checksum; they are kept and not sent", len(corrupt))
            self._writer.submit(SettleEvents(corrupt, DeliveryEvent.MISMATCH))
        if held:
            positions = sorted({at for pair in held for at in events.positions_of(*pair)})
            self._writer.submit(SettleEvents([events.ids[at] for at in positions], DeliveryEvent.FAILURE))
            events = events.pick([at for at in range(len(events.ids)) if at not in positions])
        return events if events.ids else None

    # --- on the writer's thread ---

    def claim(self, store: Store) -> list[int]:
        """Claim events inside the transaction. A slow link gets one frame at a time, so that an urgent event
        never waits behind more than that."""
        events = self._pace.events(self._spec.batch_events)
        limit = events if events < self._spec.batch_events else FRAMES_PER_CLAIM * events
        place = self._shard, self._spec.connections
        return store.claim(limit, *place, self._now_ms(), self._backlog, self._spec.claim_bytes)

    def claimed(self, ids: list[int], epoch: int) -> None:
        """Take over claimed events: they are SYNCING now, for the connection of that epoch."""
        if ids and epoch != self._epoch:
            self._writer.submit(SettleEvents(ids, DeliveryEvent.FAILURE))
        elif ids:
            self._claimed.append(ids)
            if self._backlog is not None:
                self._backlog.passed = self._backlog.reached
        self._claiming = False
        if ids:
            self._wake()
