"""Pipeline from messages to durable events and aggregates, inside the writer's transaction.

Invariants:
- Everything here runs on the writer's thread. One thread owns the windows, so they need no locks, and a
  checkpoint needs no barrier.
- An event, the aggregates it closes and (when due) the checkpoint are one transaction. Acknowledgements and
  local publishes happen after it.

```
take_in ─▶ PendingTimeQueue ─▶ Intake ─▶ windows ─▶ Results ─▶ store
tick ────▶ (time passes) ──────────────▶ windows ─▶ Results ─▶ store, Checkpointer, DiskGuard
```
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.alarms.register import AlarmRegister
from gateway.alarms.silence import SilenceWatch
from gateway.buffer.alerts import append_alert
from gateway.buffer.reader import Reader
from gateway.buffer.retention.disk_guard import DiskGuard
from gateway.buffer.retention.disk_space import DiskSpace
from gateway.buffer.retention.downsampling import Downsampling
from gateway.buffer.retention.policy import Retention, without_history
from gateway.buffer.row_builder import NewRow
from gateway.buffer.store import NewEvent, Store
from gateway.core.clock import Clock
from gateway.core.events import Message
from gateway.core.own_topics import OwnTopics
from gateway.decode.presence import Presence
from gateway.decode.routes import RouteTable
from gateway.flow.admission import Admission
from gateway.pipeline.announcements import Announcements
from gateway.pipeline.checkpointer import Checkpointer
from gateway.pipeline.intake import Intake
from gateway.pipeline.pending_time_queue import PendingTimeQueue
from gateway.pipeline.results import WindowResults
from gateway.pipeline.stored_history import derived_ids, raw_messages, rebuild, replay_one
from gateway.pipeline.unmatched import UnmatchedNames
from gateway.timekeeping.devices import DeviceClocks
from gateway.timekeeping.hold import Hold, never
from gateway.timekeeping.jumps import StepWatch
from gateway.timekeeping.normalize import SkewPolicy
from gateway.windows.engine import WindowEngine

log = logging.getLogger(__name__)


class Pipeline:
    """Takes in messages, lets time pass, keeps the checkpoint. See the module for its invariants."""

    def __init__(
        self,
        topics: OwnTopics,
        routes: RouteTable,
        new_windows: Callable[[], WindowEngine],
        clock: Clock,
        *,
        checkpoint_interval_ms: int = 5_000,
        keep_synced_ms: int = 3_600_000,
        max_size_bytes: int = 2 * 1024**3,
        space: DiskSpace | None = None,
        window_priorities: Mapping[str, int] | None = None,
        kept_windows: frozenset[str] = frozenset(),
        admission: Admission | None = None,
        devices: DeviceClocks | None = None,
        is_certain: Callable[[], bool] = lambda: True,
        downsampling: Downsampling | None = None,
        backlog_rate: Callable[[float], float | None] = lambda _measured_s: None,
        hold: Hold | None = None,
        until_confirmed: bool = False,
        copied_to: Callable[[], int] = without_history,
        alarms: AlarmRegister | None = None,
        presence: Presence | None = None,
        silence_alarms: bool = False,
    ) -> None:
        self.rebirths: dict[str, str] = {}
        """Sparkplug's edge nodes to ask for a birth, each with the reason; emptied once they are asked."""
        self.checkpointer = Checkpointer(
            new_windows, clock, interval_ms=checkpoint_interval_ms, is_certain=is_certain
        )
        priorities = window_priorities or {}
        self.alarms = alarms or AlarmRegister(topics, clock.now_ms, priorities)
        self._results = WindowResults(topics, clock, priorities, kept_windows, self.alarms)
        presence = presence or Presence()
        self._silence = SilenceWatch(topics, presence, silence_alarms)
        self.intake = Intake(
            topics,
            routes,
            self.checkpointer,
            self._results,
            admission or Admission(),
            devices or DeviceClocks(wrong_ms=SkewPolicy().future_tolerance_ms),
            presence,
        )
        self.pending_time = PendingTimeQueue(
            self.intake, hold or never(), clock, is_certain, max_size_bytes // 8
        )
        self.disk_guard = DiskGuard(
            Retention(
                max_size_bytes,
                keep_synced_ms,
                until_confirmed=until_confirmed,
                copied_to=copied_to,
            ),
            self.alert,
            space,
            now_ms=clock.now_ms,
            checkpoint=self.checkpoint,
        )
        self._steps = StepWatch()
        self._alerts_topic = topics.alerts
        self._clock = clock
        self._downsampling = downsampling
        self._backlog_rate = backlog_rate
        self._owed: list[NewRow] = []
        self.awaits_time = True
        """True if the last tick found work to do, or some waits for the next one."""
        self._seen_id = -1
        self._has_ticked = False
        self._announcements = Announcements(self.alert)
        self.unmatched = UnmatchedNames()

    @property
    def windows(self) -> WindowEngine:
        """The windows as they are now; after a rollback they are others."""
        return self.checkpointer.windows

    # --- inside a transaction ---

    def take_in(self, store: Store, messages: Sequence[Message]) -> None:
        """Take in what was read; while the time is not known it waits."""
        self.pending_time.take_in(store, messages)
        if self.intake.presence.news:
            self._silence.save(store, self._clock.now_ms())
        if self.checkpointer.owed:
            self.checkpoint(store)

    def tick(self, store: Store) -> None:
        """Do what depends on time alone: idle sources, early results, the checkpoint, eviction."""
        now_ms = self._clock.now_ms()
        self._look_around(store, now_ms)
        if not self._has_ticked:
            self.alarms.forget_windows(store)
        rows, self._owed = self._owed, []
        if not self.pending_time.blocks_time(store):
            self.intake.take_results(store, rows, self.windows.advance(now_ms))
            rows += self._silence.look(store, now_ms)
        self._results.append(store, rows)
        self._silence.save(store, now_ms)
        self.pending_time.release(store)
        if self.disk_guard.starved and store.windows_aside.owner is not None:
            log.error("the disk is full: the windows of before the trial are given up")
            store.windows_aside.forget()
        if self.checkpointer.due or self.disk_guard.starved:
            self.checkpoint(store)
        self._announcements.failed(store)
        self._announcements.crowded(store, self.windows.counters)
        self._keep_drain_target(store, now_ms)
        self.disk_guard.run(store, now_ms, self._replayed_after(store))
        seen_id, self._seen_id = self._seen_id, store.last_id()
        self._look_for_unmatched_names()
        self.awaits_time = (
            self._seen_id != seen_id
            or self.windows.awaits_time
            or self.pending_time.blocks_time(store)
            or self.disk_guard.is_busy
        )

    def checkpoint(self, store: Store) -> None:
        """Store the state of the windows as of the newest event, unless nothing has changed."""
        self._announcements.slow(self.windows.counters)
        self.checkpointer.save(store, self.intake.edge_nodes)

    def alert(self, store: Store, name: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        """Store an alert about the gateway itself; see `append_alert`."""
        append_alert(store, self._alerts_topic, self._clock.now_ms(), name, message, details)

    # --- outside of a transaction ---

    def ticked(self, store: Store) -> None:
        """The tick is on the disk. Never raises."""
        self._has_ticked = True
        self.disk_guard.committed(store)
        if self._downsampling:
            self._downsampling.committed()

    # --- start, and after a rollback ---

    def restore(self, store: Store, reader: Reader) -> int:
        """Bring new windows to the state of the last commit; returns how many events were replayed.

        Aggregates that the replay gives again are already in the buffer and are not stored twice; one that
        is missing (it can only be when plugins or windows changed) is stored with the next tick.
        """
        self.disk_guard.rolled_back()
        self._announcements.rolled_back()
        if self._downsampling:
            self._downsampling.rolled_back()
        routes = self.intake.routes
        self.checkpointer.restore(store, routes.edge_nodes)
        after_id = self.checkpointer.included_id
        if self.windows.unrestored:
            log.info("%s", rebuild(self.windows, routes, reader, after_id))
            self.checkpointer.owed = True  # not to be done again at the next start
        known = derived_ids(reader, after_id)
        self._owed, replayed = [], 0
        for message in raw_messages(reader, after_id):
            replayed += 1
            store.note_last_payload(message.topic, message.payload)
            rows = self._results.rows_of(replay_one(self.windows, routes, message))
            self._owed += [row for row in rows if NewEvent(*row).event_id not in known]
        now_ms = self._clock.now_ms()
        self.windows.resume(now_ms)
        self._silence.restore(store, now_ms)
        return replayed

    # --- inside ---

    def _look_around(self, store: Store, now_ms: int) -> None:
        """Note wrong clocks, a step of the own one, and edge nodes that have to be asked for a birth."""
        self._announcements.wrong_clocks(store, self.intake.devices.newly_wrong())
        if self._steps.stepped(now_ms, self._clock.monotonic_s()):
            self.windows.resume(now_ms)  # what the step leaps over is no device's silence
            self.intake.presence.time_stepped(now_ms)
        rebirths = self.intake.edge_nodes.rebirths(round(self._clock.monotonic_s() * 1000))
        self.rebirths.update(rebirths)
        first = {node: why for node, why in rebirths.items() if self.intake.edge_nodes.first_asked(node)}
        self._announcements.rebirths(store, first)
        self._announcements.structured(self.intake.edge_nodes.newly_structured())

    def _look_for_unmatched_names(self) -> None:
        intake, windows = self.intake, self.windows
        self.unmatched.look(
            round(self._clock.monotonic_s() * 1000),
            intake.routes,
            [operator.spec for operator in windows.operators.values()],
            windows.counters,
            intake.misses,
            intake.examples,
            intake.presence,
        )

    def _replayed_after(self, store: Store) -> int:
        """Return the id behind which a start may replay every event, be it that a trial is taken back."""
        return store.windows_aside.oldest_needed(self.checkpointer.included_id)

    def _keep_drain_target(self, store: Store, now_ms: int) -> None:
        if self._downsampling is None:
            return
        rate_per_s = self._backlog_rate(self._downsampling.measured_s)
        included_id = self._replayed_after(store)
        for said in self._downsampling.run(store, now_ms, included_id, rate_per_s):
            self.alert(store, "downsampled", said.message, said.details)
