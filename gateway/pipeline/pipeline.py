"""From messages to durable events and aggregates, inside the writer's transaction.

Invariants:
- Everything here runs on the writer's thread. One thread owns the windows, so they need no locks, and a
  checkpoint needs no barrier.
- An event, the aggregates it closes and (when due) the checkpoint are one transaction. Acknowledgements and
  local publishes happen after it.
- Every message ends in exactly one counted outcome: buffered, duplicate, sampled or rejected.
- Processing time reaches the windows only as the arrival time of an event or in `tick`; a tick that changed
  a window is checkpointed in its own transaction. So a replay of the events after the checkpoint gives the
  windows exactly the state they had.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from itertools import groupby
from typing import Any, NamedTuple

from gateway.buffer.alerts import DERIVED_FAMILY, append_alert
from gateway.buffer.pending_time import PendingMessage
from gateway.buffer.reader import Reader
from gateway.buffer.retention.disk_guard import DiskGuard
from gateway.buffer.retention.disk_space import DiskSpace
from gateway.buffer.retention.downsampling import Downsampling
from gateway.buffer.retention.policy import Retention
from gateway.buffer.store import CHECKPOINT_ID, NewEvent, Store
from gateway.buffer.writer import Command, is_storage_fault
from gateway.core.clock import Clock
from gateway.core.events import SKIPPED_SHIFT, Emission, Flag, Kind, Message, Priority
from gateway.core.identifiers import aggregate_id
from gateway.core.packed_json import packed
from gateway.core.topics import covers
from gateway.decode import sparkplug_births as sparkplug
from gateway.decode.presence import Presence
from gateway.decode.routes import RouteSpec, RouteTable
from gateway.flow.admission import Admission
from gateway.pipeline.announcements import Announcements
from gateway.pipeline.stored_history import derived_ids, raw_messages, rebuild, replay_one
from gateway.timekeeping.devices import DeviceClocks
from gateway.timekeeping.hold import Hold, never
from gateway.timekeeping.jumps import StepWatch
from gateway.timekeeping.normalize import SkewPolicy, skew_kinds
from gateway.windows.emission import emission_json
from gateway.windows.engine import WindowEngine

log = logging.getLogger(__name__)

KNOWN_MS = "known_ms"
"""In `meta`: a time that has certainly passed."""
DATED_PER_TURN = 4_096  # some 100 ms of the writer's thread, four times a second
_HISTORICAL = int(Flag.HISTORICAL)
MAX_TOPIC_CHARS = 1024  # of 65,535 that MQTT allows: every stream that is remembered costs its name


class OutputTopics(NamedTuple):
    """Where this gateway publishes what it makes; design 5.1."""

    prefix: str
    gateway_id: str

    @property
    def root(self) -> str:
        return f"{self.prefix}/{self.gateway_id}"

    @property
    def status(self) -> str:
        return f"{self.root}/status"

    def aggregate(self, window: str, key: str) -> str:
        return self.aggregates(window) + _safe_levels(key)

    def aggregates(self, window: str) -> str:
        """What the topics of all aggregates of a window begin with."""
        return f"{self.root}/aggregates/{window}/"

    @property
    def alerts(self) -> str:
        return f"{self.root}/alerts"

    @property
    def backpressure(self) -> str:
        return f"{self.root}/backpressure"

    def late(self, window: str) -> str:
        return f"{self.root}/late/{window}"


class Pipeline:
    """Takes in messages, runs the windows, keeps the checkpoint. See the module for its invariants."""

    def __init__(
        self,
        topics: OutputTopics,
        routes: RouteTable,
        new_windows: Callable[[], WindowEngine],
        clock: Clock,
        *,
        checkpoint_interval_ms: int = 5_000,
        keep_synced_ms: int = 3_600_000,
        max_size_bytes: int = 2 * 1024**3,
        space: DiskSpace | None = None,
        window_priorities: dict[str, int] | None = None,
        admission: Admission | None = None,
        devices: DeviceClocks | None = None,
        is_certain: Callable[[], bool] = lambda: True,
        downsampling: Downsampling | None = None,
        backlog_rate: Callable[[float], float | None] = lambda _measured_s: None,
        hold: Hold | None = None,
    ) -> None:
        self.problems: Counter[tuple[str, str]] = Counter()
        """(route, reason) of payloads that could not be decoded, since the start."""
        self.misses: Counter[tuple[str, str]] = Counter()
        """(route, field) of fields that were not there, since the start."""
        self.oddities: Counter[tuple[str, str]] = Counter()
        """(route, what) of readings that `where` filtered, and of payloads that were odd, since the start."""
        self.presence = Presence()
        """The devices and when each was last heard, since the start."""
        self.skew: Counter[tuple[str, str]] = Counter()
        """(route, kind) of device times that were not believed, since the start."""
        self.rebirths: dict[str, str] = {}
        """Sparkplug's edge nodes to ask for a birth, each with the reason; who asks them, empties it."""
        self.devices = devices or DeviceClocks(wrong_ms=SkewPolicy().future_tolerance_ms)
        self._is_certain = is_certain  # whether the gateway knows what time it is
        self._hold = hold or never()
        self._most_undated_bytes = max_size_bytes // 8
        self._began_ms = 0  # nothing has arrived before; known once messages had to wait
        self._started_ms = self._hold.uptime_ms()
        self._date_failures = 0
        self._doubt = 0
        self._steps = StepWatch()
        self._topics = topics
        self._own_topics = f"{topics.root}/"
        self._routes = routes
        self._new_windows = new_windows
        self.windows = new_windows()
        self._clock = clock
        self._checkpoint_interval_ms = checkpoint_interval_ms
        self._window_priorities = window_priorities or {}
        self._admission = admission or Admission()
        self._next_checkpoint_s = 0.0
        self._checkpointed = -1
        self._room = DiskGuard(Retention(max_size_bytes, keep_synced_ms), self.alert, space)
        self._downsampling = downsampling
        self._backlog_rate = backlog_rate
        self._owed: list[NewEvent] = []
        self._handed_on = False  # state of the windows was stored: a checkpoint has to follow
        self._announcements = Announcements(self.alert)

    @property
    def edge_nodes(self) -> sparkplug.EdgeNodes:
        """What is known of Sparkplug's edge nodes."""
        return self._routes.edge_nodes

    def subscriptions(self) -> dict[str, int]:
        """The filters to subscribe to, each with its QoS, without those that another one covers."""
        wanted = self._routes.subscriptions()
        return {
            name: max(qos for other, qos in wanted.items() if covers(name, other))
            for name in wanted
            if not any(other != name and covers(other, name) for other in wanted)
        }

    # --- inside a transaction ---

    def take_in(self, store: Store, messages: Sequence[Message]) -> None:
        """Take in what was read; while the time is not known it is set aside instead."""
        if store.undated.count or self._waits(store):
            self._set_aside(store, messages)
        else:
            self._take_in(store, self._restamped(messages), certain=self._is_certain())

    def _waits(self, store: Store) -> bool:
        return self._hold.waits() and store.undated.size_bytes < self._most_undated_bytes

    def _set_aside(self, store: Store, messages: Sequence[Message]) -> None:
        """Keep messages, with the uptime at which each came."""
        now_ms, uptime_ms = self._clock.now_ms(), self._hold.uptime_ms()
        kept = []
        for one in self._restamped(messages):
            if one.qos and store.receipts.seen(one.packet_id, one.dup, one.topic, one.payload):
                store.count("outcome", "duplicate")
                continue
            age_ms = now_ms - one.arrival_ms
            # Another age means that the time became known between the two.
            came_ms = uptime_ms - age_ms if 0 <= age_ms <= uptime_ms - self._started_ms else uptime_ms
            kept.append(PendingMessage(one.topic, one.payload, one.retain, self._hold.boot, came_ms))
        store.undated.add(kept)

    def _date(self, store: Store) -> None:
        """Take in the oldest messages that were set aside, if it is time. Only in `tick`: no message that
        has just come is to blame when one of them cannot be taken in."""
        if not store.undated.count or self._waits(store):
            return
        most = DATED_PER_TURN >> self._date_failures
        waiting = store.undated.take(max(1, most))
        if not most:
            log.error("a message on %r cannot be taken in and is rejected", waiting[0].topic)
            store.count("outcome", "rejected")
            store.count("rejected", "poison")
            store.dropped.note("poison", waiting[0].topic, self._clock.now_ms())
            self._date_failures -= 1
            return
        try:
            self._take_in_undated(store, waiting)
        except Exception as exc:
            # Fewer next time, down to the one at fault; but the disk is no fault of a message.
            self._date_failures += not is_storage_fault(exc)
            raise
        self._date_failures = max(0, self._date_failures - 1)

    def _take_in_undated(self, store: Store, waiting: Sequence[PendingMessage]) -> None:
        now_ms, uptime_ms = self._clock.now_ms(), self._hold.uptime_ms()
        self._began_ms = now_ms - (uptime_ms - self._started_ms)
        for same_boot, group in groupby(waiting, lambda one: one.boot == self._hold.boot):
            dated = [
                Message(
                    *(one.topic, one.payload, 0, one.retain, False, 0, 0),  # its receipt is noted already
                    now_ms - (uptime_ms - one.uptime_ms) if same_boot else now_ms,
                )
                for one in group
            ]
            self._take_in(store, dated, certain=same_boot and self._is_certain())

    def _restamped(self, messages: Sequence[Message]) -> Sequence[Message]:
        """What waited in a queue while the time became known has the wrong one."""
        if not messages or messages[0].arrival_ms >= self._began_ms:
            return messages
        now_ms = self._clock.now_ms()
        return [m if m.arrival_ms >= self._began_ms else m._replace(arrival_ms=now_ms) for m in messages]

    def _take_in(self, store: Store, messages: Sequence[Message], *, certain: bool) -> None:
        """Append what `messages` carry, and the aggregates that they close. Each ends in one outcome."""
        events: list[NewEvent] = []
        emissions: list[Emission] = []
        outcomes: Counter[tuple[str, str]] = Counter()
        self._doubt = 0 if certain else int(Flag.TIME_UNCERTAIN)
        self.windows.hand_on = partial(self._hand_on, store, events, emissions)
        for message in messages:
            if message.qos and store.receipts.seen(
                message.packet_id, message.dup, message.topic, message.payload
            ):
                outcomes["outcome", "duplicate"] += 1
                continue
            refused = self._take_in_one(message, events, emissions)
            if not refused:
                outcomes["outcome", "buffered"] += 1
                continue
            store.dropped.note(refused, message.topic, message.arrival_ms)
            if refused == "sampled":
                outcomes["outcome", "sampled"] += 1
                continue
            outcomes["outcome", "rejected"] += 1
            outcomes["rejected", refused] += 1
        self._append(store, events, emissions)
        if self._handed_on:
            self.checkpoint(store)
        for (name, label), by in outcomes.items():
            store.count(name, label, by)

    def tick(self, store: Store) -> None:
        """What time alone brings about: idle sources, early results, the checkpoint, eviction."""
        now_ms = self._clock.now_ms()
        self._announcements.wrong_clocks(store, self.devices.newly_wrong())
        if self._steps.stepped(now_ms, self._clock.monotonic_s()):
            self.windows.resume(now_ms)  # what the step leaps over is no device's silence
        rebirths = self._routes.edge_nodes.rebirths(round(self._clock.monotonic_s() * 1000))
        self.rebirths.update(rebirths)
        self._announcements.rebirths(store, rebirths)
        owed, self._owed = self._owed, []
        self.windows.hand_on = partial(self._hand_on, store, owed, [])
        # While messages wait, no device is silent, and nobody knows what time it is.
        quiet = store.undated.count or self._hold.waits()
        emissions = [] if quiet else self.windows.advance(now_ms)
        self._append(store, owed, emissions)
        self._date(store)
        now_s = self._clock.monotonic_s()
        due = self.windows.progressed or self._handed_on or self._room.starved
        if due or now_s >= self._next_checkpoint_s:
            self.checkpoint(store)
        self._announcements.failed(store)
        self._announcements.crowded(store, self.windows.counters)
        self._keep_drain_target(store, now_ms)
        self._room.run(store, now_ms, self._checkpointed)

    def checkpoint(self, store: Store) -> None:
        """Store the state of the windows as of the newest event, unless nothing has changed."""
        self._next_checkpoint_s = self._clock.monotonic_s() + self._checkpoint_interval_ms / 1000
        self._handed_on = False
        self._announcements.slow(self.windows.counters)
        changes = [*self.windows.take_changes(), *self._routes.edge_nodes.take_changes()]
        if changes or store.last_id() != self._checkpointed:
            self._checkpointed = store.checkpoint(changes)
            if self._is_certain():
                store.set_meta(KNOWN_MS, self._clock.now_ms())

    def alert(self, store: Store, name: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        """Store an alert about the gateway itself; see `append_alert`."""
        append_alert(store, self._topics.alerts, self._clock.now_ms(), name, message, details)

    # --- outside of a transaction ---

    def ticked(self, store: Store) -> None:
        """The tick is on the disk. Never raises."""
        self._room.committed(store)
        if self._downsampling:
            self._downsampling.committed()

    def check(self, store: Store, size_bytes: int) -> None:
        """Make room for a group of that size, in transactions of its own. Raises OSError when the disk is as
        good as full, LogHeldError when the log must not grow."""
        now_ms = self._clock.now_ms()
        self._room.check(store, now_ms, self._checkpointed, size_bytes)
        if self._room.starved and self._checkpointed < store.last_id():
            with store.transaction():
                self.checkpoint(store)  # what came since the last one may then be given up
            self._room.check(store, now_ms, self._checkpointed, size_bytes)

    def release(self) -> None:
        """Give the ballast's room away."""
        self._room.release()

    def relieve(self, store: Store) -> None:
        """The disk is full: make room, in transactions of its own. Raises what the disk raises."""
        now_ms = self._clock.now_ms()
        self._room.relieve(store, now_ms, self._checkpointed)
        with store.transaction():
            self.checkpoint(store)  # what came since the last one may be given up with the next attempt

    # --- start, and after a rollback ---

    def restore(self, store: Store, reader: Reader) -> int:
        """Bring new windows to the state of the last commit; returns how many events were replayed.

        Aggregates that the replay gives again are already in the buffer and are not stored twice; one that
        is missing (it can only be when plugins or windows changed) is stored with the next tick.
        """
        self._room.rolled_back()
        self._announcements.rolled_back()
        if self._downsampling:
            self._downsampling.rolled_back()
        self.windows, self._handed_on = self._new_windows(), False
        for note in self.windows.restore(self._routes.edge_nodes.restore(store.windows.all())):
            log.warning("%s", note)
        after_id = self._checkpointed = store.meta_int(CHECKPOINT_ID)
        if self.windows.unrestored:
            log.info("%s", rebuild(self.windows, self._routes, reader, after_id))
            self._handed_on = True  # not to be done again at the next start
        known = derived_ids(reader, after_id)
        self._owed, replayed = [], 0
        for message in raw_messages(reader, after_id):
            replayed += 1
            emissions = replay_one(self.windows, self._routes, message)
            self._owed += [e for e in map(self._derived, emissions) if e.event_id not in known]
        self.windows.resume(self._clock.now_ms())
        return replayed

    # --- inside ---

    def _take_in_one(self, message: Message, events: list[NewEvent], emissions: list[Emission]) -> str:
        """Decode and window one message; returns why it was left out, or nothing."""
        if message.topic.startswith(self._own_topics):
            return "own_topic"  # a route such as `#` would feed our output back to us for ever
        if len(message.topic) > MAX_TOPIC_CHARS:
            return "topic_too_long"
        found = self._routes.match(message.topic)
        if found is None:
            return "no_route"
        route, levels = found
        spec = route.spec
        if message.retain and spec.retained == "ignore":
            return "retained"
        flags = self._doubt | Flag.RETAINED if message.retain else self._doubt
        if self._admission.shedding:
            verdict = self._admission.judge(message.topic, spec.priority, spec.sampling == "allow")
            if isinstance(verdict, str):
                return verdict
            flags |= verdict << SKIPPED_SHIFT
        decoded = route.decode(message.topic, levels, message.payload, message.arrival_ms)
        events.append(
            NewEvent(
                message.topic,
                spec.name,
                decoded.event_time_ms,
                message.arrival_ms,
                decoded.device_time_ms,
                spec.priority,
                Kind.RAW,
                decoded.flags | flags if flags else decoded.flags,
                message.payload,
            )
        )
        self.presence.note(levels.get("device") or message.topic, message.arrival_ms, not decoded.problem)
        if decoded.device_time_ms is not None:
            self._note_clock(message, decoded.device_time_ms, decoded.flags, spec)
        if decoded.problem:
            self.problems[spec.name, decoded.problem] += 1
        elif decoded.samples:
            emissions += self.windows.process(
                message.topic, spec.name, levels, decoded.samples, message.arrival_ms
            )
        for field in decoded.misses:
            self.misses[spec.name, field] += 1
        if decoded.filtered:
            self.oddities[spec.name, "filtered"] += decoded.filtered
        for note in decoded.notes:
            self.oddities[spec.name, note] += 1
        return ""

    def _note_clock(self, message: Message, device_time_ms: int, flags: int, spec: RouteSpec) -> None:
        if message.retain or self._doubt or flags & _HISTORICAL:
            return  # its time is that of the publishing; and who knows no time judges none
        self.devices.observe(message.topic, device_time_ms, message.arrival_ms)
        if flags and spec.timestamp == "normalize":
            for kind in skew_kinds(device_time_ms, message.arrival_ms, flags, spec.skew):
                self.skew[spec.name, kind] += 1

    def _hand_on(
        self,
        store: Store,
        events: list[NewEvent],
        before: list[Emission],
        out: list[Emission],
        state_too: bool,
    ) -> None:
        """Many windows close at once: append what there is so far, so that it does not fill the memory."""
        self._append(store, events, [*before, *out])
        for done in (events, before, out):
            done.clear()
        if state_too:
            store.save_windows(self.windows.take_changes())
            self._handed_on = True

    def _append(self, store: Store, events: list[NewEvent], emissions: list[Emission]) -> None:
        if emissions:
            events = [*events, *map(self._derived, emissions)]
        if events:
            store.append(events)
            for kind, count in Counter(event.kind for event in events).items():
                store.count("appended", Kind(kind).name.lower(), count)

    def _derived(self, emission: Emission) -> NewEvent:
        topic, kind, priority = self._destination(emission)
        return NewEvent(
            topic,
            DERIVED_FAMILY,
            emission.event_time_ms,
            self._clock.now_ms(),
            None,
            priority,
            kind,
            0,
            packed(emission_json(emission)),
            aggregate_id(self._topics.gateway_id, emission.identity),
        )

    def _destination(self, emission: Emission) -> tuple[str, Kind, int]:
        """Topic, kind and priority of what a window gives. A result that names an `alert` is one."""
        if emission.kind == "dropped":
            return self._topics.late(emission.window), Kind.AUDIT, Priority.LOW
        if isinstance(emission.result, dict) and "alert" in emission.result:
            return self._topics.alerts, Kind.ALERT, Priority.CRITICAL
        priority = self._window_priorities.get(emission.window, Priority.NORMAL)
        return self._topics.aggregate(emission.window, emission.key), Kind.AGGREGATE, priority

    def _keep_drain_target(self, store: Store, now_ms: int) -> None:
        if self._downsampling is None:
            return
        rate_per_s = self._backlog_rate(self._downsampling.measured_s)
        for said in self._downsampling.run(store, now_ms, self._checkpointed, rate_per_s):
            self.alert(store, "downsampled", said.message, said.details)


class AppendBatch(Command):
    """Takes in what one turn of the ingest loop has read."""

    def __init__(
        self,
        pipeline: Pipeline,
        messages: Sequence[Message],
        acknowledge: Callable[[Sequence[Message]], None],
        retry: Callable[[Sequence[Message], Exception], None],
    ) -> None:
        self.weight = len(messages)
        self.size_bytes = sum(len(message.payload) for message in messages)
        self._pipeline = pipeline
        self._messages = messages
        self._acknowledge = acknowledge
        self._retry = retry

    def apply(self, store: Store) -> None:
        self._pipeline.take_in(store, self._messages)

    def committed(self) -> None:
        # Persist, then acknowledge: this is the only place from which a PUBACK starts.
        self._acknowledge(self._messages)

    def failed(self, error: Exception) -> None:
        # When it was the disk, the writer is stopping: what is not acknowledged comes again.
        if not is_storage_fault(error):
            self._retry(self._messages, error)


class Tick(Command):
    """Joins a group four times a second."""

    def __init__(self, pipeline: Pipeline, after: Callable[[], None]) -> None:
        self._pipeline = pipeline
        self._after = after

    def apply(self, store: Store) -> None:
        self._store = store
        self._pipeline.tick(store)

    def committed(self) -> None:
        self._pipeline.ticked(self._store)
        self._after()


def _safe_levels(key: str) -> str:
    """A key as topic levels that a broker takes: it closes the connection on any other, again and again.

    Keys come out of payloads, so they may hold anything.
    """
    levels = _UNSAFE.sub("_", key) or "all"
    if len(levels) <= MAX_KEY_CHARS and levels.count("/") < MAX_KEY_LEVELS:
        return levels
    digest = blake2b(key.encode(), digest_size=8).hexdigest()  # so that keys stay apart
    return f"{levels[:_KEPT_CHARS].replace('/', '_')}~{digest}"


MAX_KEY_CHARS = 1024  # a topic has at most 65,535 bytes
MAX_KEY_LEVELS = 64  # Mosquitto takes at most 200 levels in a topic
_KEPT_CHARS = 64
# Wildcards, and what Mosquitto takes for malformed UTF-8: control characters and noncharacters.
_NONCHARACTERS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_UNSAFE = re.compile(rf"[+#\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}]")
