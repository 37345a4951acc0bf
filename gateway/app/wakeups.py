"""Wakes the parts that a commit has stored something for, so that none of them has to poll."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.buffer.history.keeper import HistoryKeeper
from gateway.buffer.store import Store
from gateway.cloud.bridge import Bridge
from gateway.core.events import Kind
from gateway.local.republish import Republish


class Wakeups:
    """`committed` runs on the writer's thread after each commit; it tells by the counters what is new."""

    def __init__(
        self,
        store: Store,
        republish: Republish,
        bridges: Sequence[Bridge],
        history: HistoryKeeper | None = None,
    ) -> None:
        self._history = history
        self._store = store
        self._republish = republish
        self._bridges = bridges
        self._results = self._raw = -1

    def committed(self) -> None:
        """Wake `republish` for new results, and the bridges for any new event."""
        counts = self._store.counts
        results = sum(counts["appended", name] for name in _RESULTS)
        raw = counts["appended", Kind.RAW.name.lower()]
        if results != self._results:
            self._republish.wake()
            if self._history is not None:
                self._history.wake()
        if (results, raw) != (self._results, self._raw):
            for bridge in self._bridges:
                bridge.stored()
        self._results, self._raw = results, raw


_RESULTS = tuple(kind.name.lower() for kind in Kind if kind is not Kind.RAW)
