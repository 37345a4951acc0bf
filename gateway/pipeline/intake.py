"""Intake of messages as events: decode, window, or leave out with a reason.

Every message ends in exactly one counted outcome: buffered, duplicate, sampled or rejected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from gateway.buffer.store import NewEvent, Store
from gateway.core.events import SKIPPED_SHIFT, Emission, Flag, Kind, Message
from gateway.core.own_topics import OwnTopics, parse_uplink_topic
from gateway.core.topics import covers
from gateway.decode.presence import Presence
from gateway.decode.routes import Decoded, RouteSpec, RouteTable
from gateway.decode.sparkplug_births import EdgeNodes
from gateway.flow.admission import Admission
from gateway.pipeline.checkpointer import Checkpointer
from gateway.pipeline.freshness import judge_age, out_of_windows
from gateway.pipeline.results import WindowResults
from gateway.timekeeping.devices import DeviceClocks
from gateway.timekeeping.normalize import skew_kinds
from gateway.windows.emission import MANY

MAX_TOPIC_CHARS = 1024  # of 65,535 that MQTT allows: every stream that is remembered costs its name
_HISTORICAL = int(Flag.HISTORICAL)
_SKEWED = int(Flag.CLOCK_SKEW)
_SHOWN_BYTES = 16 * 1024  # the readings of larger payloads are not held for the page
_OLD = int(Flag.OLD)
_TIME_UNCERTAIN = int(Flag.TIME_UNCERTAIN)


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
    ) -> None:
        self.problems: Counter[tuple[str, str]] = Counter()
        """(route, reason) of payloads that could not be decoded, since the start."""
        self.misses: Counter[tuple[str, str]] = Counter()
        """(route, field) of fields that were not there, since the start."""
        self.oddities: Counter[tuple[str, str]] = Counter()
        """(route, what) of readings that `where` filtered, and of payloads that were odd, since the start."""
        self.repeated = 0
        """Retained messages that a broker sent again with the bytes that are stored, since the start."""
        self.presence = Presence()
        """The devices and when each was last heard, since the start."""
        self.skew: Counter[tuple[str, str]] = Counter()
        """(route, kind) of device times that were not believed, since the start."""
        self.devices = devices
        self.routes = routes
        self._prefix = topics.prefix
        self._all_topics = f"{topics.prefix}/"
        self._own_topics = f"{topics.root}/"
        self._own_bridged = f"/up/event/{topics.root}/"
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
        rows: list[NewEvent] = []
        outcomes: Counter[tuple[str, str]] = Counter()
        retained: dict[str, bytes] = {}
        doubt = 0 if certain else _TIME_UNCERTAIN
        self._ahead.clear()
        seen = store.receipts.seen
        for message in messages:
            qos = message.qos
            if qos and seen(message.packet_id, message.dup, message.topic, message.payload, qos):
                outcomes["outcome", "duplicate"] += 1
                continue
            if message.retain and self._is_repeated(store, message, retained):
                outcomes["outcome", "duplicate"] += 1
                continue
            refused = self._take_in_one(message, doubt, store, rows)
            if not refused:
                outcomes["outcome", "buffered"] += 1
                continue
            store.dropped.note(refused, message.topic, message.arrival_ms)
            if refused == "sampled":
                outcomes["outcome", "sampled"] += 1
                continue
            outcomes["outcome", "rejected"] += 1
            outcomes["rejected", refused] += 1
        self._results.append(store, rows)
        for (name, label), by in outcomes.items():
            store.count(name, label, by)

    def take_results(self, store: Store, rows: list[NewEvent], chunks: Iterable[Sequence[Emission]]) -> None:
        """Put what windows emit behind `rows`, and append these whenever there are many of them: windows
        that close together must not fill the memory."""
        for chunk in chunks:
            rows += map(self._results.event_of, chunk)
            if len(rows) >= MANY:
                self._results.append(store, rows)
                rows.clear()
                self._ahead.clear()
                self._checkpointer.make_room(store)

    def _is_repeated(self, store: Store, message: Message, retained: dict[str, bytes]) -> bool:
        """Return True for a retained message whose bytes are stored already. `retained` holds those seen
        earlier in the same group."""
        found = self.routes.match(message.topic)
        if found is None or found[0].spec.retained != "store":
            return False
        before = retained.get(message.topic)
        retained[message.topic] = message.payload
        if before is None:
            repeated = store.is_last_payload(message.topic, message.payload)
        else:
            repeated = before == message.payload
        self.repeated += repeated
        return repeated

    def _take_in_one(self, message: Message, doubt: int, store: Store, rows: list[NewEvent]) -> str:
        """Decode and window one message; returns why it was left out, or nothing."""
        echo = self._echo_of(message.topic)
        if echo:
            return echo
        if len(message.topic) > MAX_TOPIC_CHARS:
            return "topic_too_long"
        found = self.routes.match(message.topic)
        if found is None:
            return "no_route"
        route, levels = found
        spec = route.spec
        if message.retain and spec.retained == "ignore":
            return "retained"
        flags = doubt | Flag.RETAINED if message.retain else doubt
        if self._admission.shedding:
            verdict = self._admission.judge(message.topic, spec.priority, spec.sampling == "allow")
            if isinstance(verdict, str):
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
                Kind.RAW,
                flags,
                message.payload,
                kept=route.forwarding.keeps(message.topic, levels, decoded.samples, message.arrival_ms),
            )
        )
        number = self._number_of(store, message.topic) if self._checkpointer.windows.traces else 0
        if not message.retain:
            self._note_device(message, levels, decoded, spec.name)
        if decoded.device_time_ms is not None and not (message.retain or doubt):
            # A retained message's time is that of its publishing; and only a known time can judge another.
            self._note_clock(message, decoded.device_time_ms, clock_flags | flags & _OLD, spec)
        if decoded.problem:
            self.problems[spec.name, decoded.problem] += 1
        elif decoded.samples and not out_of_windows(flags, spec):
            self._window(message, levels, decoded, spec.name, number, store, rows)
        if decoded.misses or decoded.filtered or decoded.notes or flags & _OLD:
            self._count_oddities(spec.name, decoded)
        return ""

    def _number_of(self, store: Store, topic: str) -> int:
        """Return the sequence number that the newest of the rows to be appended will have."""
        number = (self._ahead.get(topic) or store.last_number(topic)) + 1
        self._ahead[topic] = number
        return number

    def _note_device(self, message: Message, levels: Mapping[str, str], decoded: Decoded, route: str) -> None:
        name = levels.get("device") or message.topic
        self.presence.note(name, message.arrival_ms, not decoded.problem, bool(decoded.misses))
        if decoded.samples and len(message.payload) <= _SHOWN_BYTES:
            self.presence.note_reading(name, message.topic, route, decoded.samples[-1])

    def _echo_of(self, topic: str) -> str:
        """Return why this is output that must not come in again, or nothing: a route such as `#`, or two
        gateways that read each other's uplink, would go round for ever."""
        if topic.startswith(self._all_topics):
            if topic.startswith(self._own_topics):
                return "own_topic"
            return "" if parse_uplink_topic(self._prefix, topic) is None else "bridged"
        return "bridged" if self._own_bridged in topic else ""  # from a gateway with another prefix

    def _window(
        self,
        message: Message,
        levels: Mapping[str, str],
        decoded: Decoded,
        route: str,
        number: int,
        store: Store,
        rows: list[NewEvent],
    ) -> None:
        windows = self._checkpointer.windows
        chunks = windows.process(message.topic, route, levels, decoded.samples, message.arrival_ms, number)
        if chunks:
            self.take_results(store, rows, chunks)

    def _count_oddities(self, route: str, decoded: Decoded) -> None:
        if decoded.flags & _OLD:
            self.oddities[route, "old"] += 1
        for field in decoded.misses:
            self.misses[route, field] += 1
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
