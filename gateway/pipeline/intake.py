"""Intake of messages as events: decode, window, or leave out with a reason.

Invariants:
- Every message ends in exactly one counted outcome: buffered, duplicate, sampled or rejected.
- Nearly every message is plain: one reading with nothing unusual, see `decode.plain_reader`. `_take_in_plain`
  does for it what `_take_in_one` does for any message, and nothing else; both append the same event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from gateway.buffer.row_builder import NewRow
from gateway.buffer.store import NewEvent, Store
from gateway.core.events import SKIPPED_SHIFT, Emission, FieldValue, Flag, Kind, Message, Sample
from gateway.core.own_topics import OwnTopics
from gateway.core.topics import covers
from gateway.decode.plain_reader import Plain
from gateway.decode.presence import Presence
from gateway.decode.routes import Decoded, Route, RouteSpec, RouteTable
from gateway.decode.sparkplug_births import EdgeNodes
from gateway.flow.admission import Admission
from gateway.pipeline.checkpointer import Checkpointer
from gateway.pipeline.freshness import judge_age, out_of_windows
from gateway.pipeline.results import WindowResults
from gateway.pipeline.topic_plans import TopicPlan, TopicPlans
from gateway.pipeline.unmatched import Example
from gateway.timekeeping.devices import DeviceClocks
from gateway.timekeeping.normalize import skew_kinds
from gateway.windows.emission import MANY

_RAW = int(Kind.RAW)
_HISTORICAL = int(Flag.HISTORICAL)
_SKEWED = int(Flag.CLOCK_SKEW)
_SHOWN_BYTES = 16 * 1024  # the readings of larger payloads are not held for the page
_OLD = int(Flag.OLD)
_TIME_UNCERTAIN = int(Flag.TIME_UNCERTAIN)


_new_sample: Callable[[tuple[int, Mapping[str, FieldValue]]], Sample] = partial(tuple.__new__, Sample)
"""The same as Sample(...), in a third of the time."""


class Intake:
    """Takes in messages, inside the writer's transaction. The counters may be read from any thread."""

    def __init__(
        self,
        topics: OwnTopics,
        routes: RouteTable,
        checkpointer: Checkpointer,
        results: WindowResults,
        admission: Admission,
        devices: DeviceClocks,
        presence: Presence,
    ) -> None:
        self.problems: Counter[tuple[str, str]] = Counter()
        """(route, reason) of payloads that could not be decoded, since the start."""
        self.misses: Counter[tuple[str, str]] = Counter()
        """(route, field) of fields that were not there, since the start."""
        self.examples: dict[str, Example] = {}
        """By route, the last message in which a field was not there."""
        self.oddities: Counter[tuple[str, str]] = Counter()
        """(route, what) of readings that `where` filtered, and of payloads that were odd, since the start."""
        self.repeated = 0
        """Retained messages that a broker sent again with the bytes that are stored, since the start."""
        self.presence = presence
        """The devices and when each was last heard."""
        self.skew: Counter[tuple[str, str]] = Counter()
        """(route, kind) of device times that were not believed, since the start."""
        self.devices = devices
        self.routes = routes
        self._plans = TopicPlans(topics, routes)
        self._checkpointer = checkpointer
        self._results = results
        self._admission = admission
        self._ahead: dict[str, int] = {}  # last sequence numbers of streams, with the rows to be appended

    @property
    def edge_nodes(self) -> EdgeNodes:
        """State of Sparkplug's edge nodes."""
        return self.routes.edge_nodes

    def subscriptions(self) -> dict[str, int]:
        """The filters to subscribe to, each with its QoS, without those that another one covers."""
        wanted = self.routes.subscriptions()
        return {
            name: max(qos for other, qos in wanted.items() if covers(name, other))
            for name in wanted
            if not any(other != name and covers(other, name) for other in wanted)
        }

    def take_in(self, store: Store, messages: Sequence[Message], *, certain: bool) -> None:
        """Append what `messages` carry, and the results that they bring about. `certain`: the time at which
        they arrived is known."""
        rows: list[NewRow] = []
        outcomes: Counter[tuple[str, str]] = Counter()
        retained: dict[str, bytes] = {}
        doubt = 0 if certain else _TIME_UNCERTAIN
        self._ahead.clear()
        unusual = bool(doubt) or self._admission.shedding
        plan_of = self._plans.of
        self._plans.bind(self._checkpointer.windows)
        fresh = store.receipts.unseen(messages)
        buffered = 0
        for message in fresh:
            plan = plan_of(message.topic)
            if plan.read is not None and not unusual and not message.retain:
                plain = plan.read(message.payload, plan.levels, message.arrival_ms)
                if plain is not None:
                    self._take_in_plain(plan, message, plain, store, rows)
                    buffered += 1
                    continue
            if message.retain and self._is_repeated(store, plan, message, retained):
                outcomes["outcome", "duplicate"] += 1
                continue
            route = plan.route
            refused = (
                plan.refused if route is None else self._take_in_one(plan, route, message, doubt, store, rows)
            )
            if not refused:
                buffered += 1
                continue
            store.dropped.note(refused, message.topic, message.arrival_ms)
            if refused == "sampled":
                outcomes["outcome", "sampled"] += 1
                continue
            outcomes["outcome", "rejected"] += 1
            outcomes["rejected", refused] += 1
        self._results.append(store, rows)
        outcomes["outcome", "duplicate"] += len(messages) - len(fresh)
        outcomes["outcome", "buffered"] += buffered
        for (name, label), by in outcomes.items():
            if by:
                store.count(name, label, by)

    def take_results(self, store: Store, rows: list[NewRow], chunks: Iterable[Sequence[Emission]]) -> None:
        """Put what windows emit behind `rows`, and append these whenever there are many of them: windows
        that close together must not fill the memory."""
        for chunk in chunks:
            rows += self._results.rows_of(chunk)
            if len(rows) >= MANY:
                self._results.append(store, rows)
                rows.clear()
                self._ahead.clear()
                self._checkpointer.make_room(store)

    def _is_repeated(
        self, store: Store, plan: TopicPlan, message: Message, retained: dict[str, bytes]
    ) -> bool:
        """Return True for a retained message whose bytes are stored already. `retained` holds those seen
        earlier in the same group."""
        if plan.route is None or plan.route.spec.retained != "store":
            return False
        before = retained.get(message.topic)
        retained[message.topic] = message.payload
        if before is None:
            repeated = store.is_last_payload(message.topic, message.payload)
        else:
            repeated = before == message.payload
        self.repeated += repeated
        return repeated

    def _take_in_plain(  # noqa: PLR0912 - one call for each message, not four
        self, plan: TopicPlan, message: Message, plain: Plain, store: Store, rows: list[NewRow]
    ) -> None:
        """Take in a message of one reading that is neither retained, sampled nor of an uncertain time, with
        what its route's `read_plain` has found."""
        topic, payload, arrival_ms = message.topic, message.payload, message.arrival_ms
        time_ms, device_ms, flags, fields, misses = plain
        sample = _new_sample((time_ms, fields))
        route = plan.spec.name
        keeps = plan.keeps
        kept = keeps is not None and keeps(topic, plan.levels, (sample,), arrival_ms)
        rows.append(
            (topic, route, time_ms, arrival_ms, device_ms, plan.priority, _RAW, flags, payload, None, kept)
        )
        if plan.heard is None:
            plan.heard = self.presence.note(plan.device, arrival_ms, readable=True, missed=bool(misses))
        else:
            plan.heard.note(arrival_ms, missed=bool(misses))
        if len(payload) <= _SHOWN_BYTES:
            if plan.last is None:
                plan.last = self.presence.note_reading(plan.device, topic, route, sample)
            else:
                plan.last.sample = sample
        if device_ms is not None:
            if flags:
                self._note_clock(message, device_ms, flags, plan.spec)
            elif plan.clock is None:
                plan.clock = self.devices.observe(topic, device_ms, arrival_ms)
            else:
                self.devices.note(plan.clock, device_ms, arrival_ms)
        windows = self._checkpointer.windows
        if windows.traces:
            windows.locate(topic, self._number_of(store, topic))
        bound = plan.windows
        if bound is None:
            bound = plan.bind(windows)
        chunks = windows.process_one(bound, time_ms, fields, arrival_ms)
        if chunks:
            self.take_results(store, rows, chunks)
        for field in misses:
            self.misses[route, field] += 1
        if misses and len(payload) <= _SHOWN_BYTES:
            self.examples[route] = Example(topic, payload, arrival_ms)

    def _take_in_one(
        self, plan: TopicPlan, route: Route, message: Message, doubt: int, store: Store, rows: list[NewRow]
    ) -> str:
        """Decode and window one message; returns why it was left out, or nothing."""
        levels, spec = plan.levels, route.spec
        if message.retain and spec.retained == "ignore":
            return "retained"
        flags = doubt | Flag.RETAINED if message.retain else doubt
        if self._admission.shedding:
            verdict = self._admission.judge(message.topic, spec.priority, spec.sampling == "allow")
            if isinstance(verdict, str):
                self.presence.note_left_out(levels.get("device") or message.topic, message.arrival_ms)
                return verdict
            flags |= verdict << SKIPPED_SHIFT
        decoded = route.decode(message.topic, levels, message.payload, message.arrival_ms, message.retain)
        clock_flags = decoded.flags
        if clock_flags & _SKEWED and not doubt:
            decoded = judge_age(self.devices, message.topic, decoded, spec, message.arrival_ms)
        flags |= decoded.flags
        rows.append(
            NewEvent(
                message.topic,
                spec.name,
                decoded.event_time_ms,
                message.arrival_ms,
                decoded.device_time_ms,
                spec.priority,
                _RAW,
                flags,
                message.payload,
                kept=route.forwarding.keeps(message.topic, levels, decoded.samples, message.arrival_ms),
            )
        )
        number = self._number_of(store, message.topic) if self._checkpointer.windows.traces else 0
        if not message.retain:
            self._note_device(message, plan.device, decoded, spec.name)
        if decoded.device_time_ms is not None and not (message.retain or doubt):
            # A retained message's time is that of its publishing; and only a known time can judge another.
            self._note_clock(message, decoded.device_time_ms, clock_flags | flags & _OLD, spec)
        if decoded.problem:
            self.problems[spec.name, decoded.problem] += 1
        elif decoded.samples and not out_of_windows(flags, spec):
            windows = self._checkpointer.windows
            if windows.traces:
                windows.locate(message.topic, number)
            bound = plan.bind(windows) if plan.windows is None else plan.windows
            chunks = windows.process_bound(bound, decoded.samples, message.arrival_ms)
            self.take_results(store, rows, chunks)
        if decoded.misses or decoded.filtered or decoded.notes or flags & _OLD:
            self._count_oddities(spec.name, message, decoded)
        return ""

    def _number_of(self, store: Store, topic: str) -> int:
        """Return the sequence number that the newest of the rows to be appended will have."""
        number = (self._ahead.get(topic) or store.last_number(topic)) + 1
        self._ahead[topic] = number
        return number

    def _note_device(self, message: Message, name: str, decoded: Decoded, route: str) -> None:
        self.presence.note(name, message.arrival_ms, not decoded.problem, bool(decoded.misses))
        if decoded.samples and len(message.payload) <= _SHOWN_BYTES:
            self.presence.note_reading(name, message.topic, route, decoded.samples[-1])

    def _count_oddities(self, route: str, message: Message, decoded: Decoded) -> None:
        if decoded.flags & _OLD:
            self.oddities[route, "old"] += 1
        for field in decoded.misses:
            self.misses[route, field] += 1
        if decoded.misses and len(message.payload) <= _SHOWN_BYTES:
            self.examples[route] = Example(message.topic, message.payload, message.arrival_ms)
        if decoded.filtered:
            self.oddities[route, "filtered"] += decoded.filtered
        for note in decoded.notes:
            self.oddities[route, note] += 1

    def _note_clock(self, message: Message, device_time_ms: int, flags: int, spec: RouteSpec) -> None:
        if flags & _HISTORICAL:
            return
        if not flags & _OLD:  # an old reading tells nothing of the clock
            self.devices.observe(message.topic, device_time_ms, message.arrival_ms)
        if flags and spec.timestamp == "normalize":
            for kind in skew_kinds(device_time_ms, message.arrival_ms, flags, spec.skew):
                self.skew[spec.name, kind] += 1
