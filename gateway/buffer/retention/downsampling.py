"""Thins a backlog that could not drain in time: evenly, every other event of each stream, once or more.

- Only PENDING raw events of normal and low priority that came more than EDGE_MS ago and that the window
  checkpoint includes. What is left is the same everywhere: the numbers of a stream that 2 ** level divides.
  So what is lost is a few runs with a step, however much it is.
- A pass over the backlog is announced in the transaction that begins it, and takes a bounded number of steps
  a tick; with the last one goes an announcement of how many events of which streams it took.
- After it everything is judged anew: a pass begins when more waits than TOO_MUCH of what can drain in time,
  and the level starts again once all of it can.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from gateway.buffer.proof.losses import Removal
from gateway.buffer.store import Store
from gateway.core.events import Priority, Status
from gateway.core.units import format_duration

REASON = "downsampled"
EDGE_MS = 60_000  # what is younger is live
TOO_MUCH = 1.1
MEASURED_S = 10.0
THINNEST = 6  # one in 64 is left
IDS_PER_STEP = 10_000
STEPS_PER_RUN = 4


class DownsamplingNote(NamedTuple):
    """An alert: a sentence for people and the same as data for programs."""

    message: str
    details: dict[str, Any]


class _Pass(NamedTuple):
    """The rest of a pass: ids from `start` to `end` of events that arrived before `before_ms`."""

    start: int
    end: int
    before_ms: int


class Downsampling:
    """Keeps the backlog of one buffer within what drains in `target_ms`. For the writer's thread."""

    def __init__(self, target_ms: int) -> None:
        self.target_ms = target_ms
        self.measured_s = min(MEASURED_S, target_ms / 4000)
        """Least time over which the rate must have been measured."""
        self._level = 0  # of 2 ** level events one is kept
        self._pass: _Pass | None = None
        self._taken = self._taken_for_good = Removal()  # and not yet announced

    def run(
        self, store: Store, now_ms: int, checkpoint_id: int, rate_per_s: float | None
    ) -> list[DownsamplingNote]:
        """Thin as much as fits in one tick, inside a transaction, and return the alerts to announce.

        `rate_per_s` is by how much the backlog shrinks in a second; None where that is not known.
        """
        announcements: list[DownsamplingNote] = []
        if self._pass is None and rate_per_s is not None:
            announcements += self._begin(store, now_ms, checkpoint_id, rate_per_s)
        for _ in range(STEPS_PER_RUN):
            if self._pass is None:
                break
            self._pass = self._step(store, self._pass)
        if self._pass is None and self._taken.events:
            said = f"{self._taken.events} events of {self._taken.whose} were thinned ({REASON})"
            announcements.append(DownsamplingNote(said, self._taken.details(REASON)))
            self._taken = Removal()
        return announcements

    def committed(self) -> None:
        """The last run is on the disk."""
        self._taken_for_good = self._taken

    def rolled_back(self) -> None:
        """The last run is not on the disk: begin again, and say so again."""
        self._pass, self._taken = None, self._taken_for_good
        self._level = max(0, self._level - 1)

    def _begin(
        self, store: Store, now_ms: int, checkpoint_id: int, rate_per_s: float
    ) -> list[DownsamplingNote]:
        waiting = store.events_that_are(Status.PENDING, Status.SYNCING)
        in_time = rate_per_s * self.target_ms / 1000
        if waiting <= in_time:
            self._level = 0
        if waiting <= TOO_MUCH * in_time or self._level == THINNEST:
            return []
        before_ms = now_ms - min(EDGE_MS, self.target_ms)
        end = min(checkpoint_id, store.search.first_since(before_ms) - 1)
        start = store.search.oldest_raw_pending(Priority.NORMAL, end)
        if start is None:
            return []
        self._level += 1
        self._pass = _Pass(start, end, before_ms)
        said = (
            f"{waiting} events wait and the cloud takes {rate_per_s:.0f} of them a second, too few for "
            f"{format_duration(self.target_ms / 1000)}: of the raw events of normal and low priority between "
            f"buffer ids {start} and {end} one in {2**self._level} of each stream is kept ({REASON})"
        )
        stretch = {"reason": REASON, "first_id": start, "last_id": end, "keep_one_in": 2**self._level}
        return [DownsamplingNote(said, stretch)]

    def _step(self, store: Store, todo: _Pass) -> _Pass | None:
        end = min(todo.end, todo.start + IDS_PER_STEP - 1)
        for level in range(1, self._level + 1):
            taken = store.removals.halve(REASON, todo.start, end, level, Priority.NORMAL, todo.before_ms)
            self._taken = Removal.together((self._taken, taken))
        return None if end == todo.end else todo._replace(start=end + 1)
