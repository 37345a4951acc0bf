"""The windows, and the checkpoint that brings them back.

Invariants:
- Processing time reaches the windows only as the arrival time of an event or in a tick; a tick that changed
  a window is checkpointed in its own transaction. So a replay of the events after the checkpoint gives the
  windows exactly the state they had.
- Where state was stored to make room in memory, a checkpoint follows in the same transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from gateway.buffer.store import CHECKPOINT_ID, Store
from gateway.core.clock import Clock
from gateway.decode.sparkplug_births import EdgeNodes
from gateway.windows.engine import WindowEngine

log = logging.getLogger(__name__)

KNOWN_MS = "known_ms"
"""In `meta`: a time that has certainly passed."""


class Checkpointer:
    """Owns the windows; stores what changed in them, and restores it. For the writer's thread."""

    def __init__(
        self,
        new_windows: Callable[[], WindowEngine],
        clock: Clock,
        *,
        interval_ms: int,
        is_certain: Callable[[], bool],
    ) -> None:
        self.windows = new_windows()
        self.owed = False
        """True if state was stored beside a checkpoint, so that a checkpoint must follow."""
        self.included_id = -1
        """The id of the newest event that the last checkpoint includes."""
        self._new_windows = new_windows
        self._clock = clock
        self._interval_ms = interval_ms
        self._is_certain = is_certain
        self._next_s = 0.0

    @property
    def due(self) -> bool:
        """True if a checkpoint is due."""
        return self.windows.progressed or self.owed or self._clock.monotonic_s() >= self._next_s

    def save(self, store: Store, edge_nodes: EdgeNodes) -> None:
        """Store the state of the windows as of the newest event, unless nothing has changed."""
        self._next_s = self._clock.monotonic_s() + self._interval_ms / 1000
        self.owed = False
        changes = [*self.windows.take_changes(), *edge_nodes.take_changes()]
        if changes or store.last_id() != self.included_id:
            self.included_id = store.checkpoint(changes)
            if self._is_certain():
                store.set_meta(KNOWN_MS, self._clock.now_ms())

    def make_room(self, store: Store) -> None:
        """Store what changed if too many keys are in memory, so that some can leave it."""
        if self.windows.crowded:
            store.save_windows(self.windows.take_changes())
            self.owed = True

    def restore(self, store: Store, edge_nodes: EdgeNodes) -> None:
        """Bring new windows to the last checkpoint."""
        self.windows, self.owed = self._new_windows(), False
        for note in self.windows.restore(edge_nodes.restore(store.windows.all())):
            log.warning("%s", note)
        self.included_id = store.meta_int(CHECKPOINT_ID)
