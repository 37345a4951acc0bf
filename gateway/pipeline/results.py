"""Results of windows as events of the buffer, with topics and stable event ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.alarms.register import AlarmRegister
from gateway.buffer.alerts import DERIVED_FAMILY
from gateway.buffer.row_builder import NewRow
from gateway.buffer.store import NewEvent, Store
from gateway.core.clock import Clock
from gateway.core.events import Emission, Kind, Priority
from gateway.core.identifiers import AggregateIds
from gateway.core.own_topics import OwnTopics, key_levels
from gateway.windows.emission import emission_json
from gateway.wire.results import kind_of, topic_of

_KIND: Final = 6  # of a row
_AGGREGATE, _NORMAL = int(Kind.AGGREGATE), int(Priority.NORMAL)


class WindowResults:
    """Turns emissions into events. `priorities` are those of the windows' aggregates, by window; what the
    windows `kept` give stays at the edge. `alarms` follow the alerts that are appended."""

    def __init__(
        self,
        topics: OwnTopics,
        clock: Clock,
        priorities: Mapping[str, int],
        kept: frozenset[str],
        alarms: AlarmRegister,
    ) -> None:
        self._alarms = alarms
        self._kept = kept
        self._topics = topics
        self._clock = clock
        self._priorities = priorities
        self._ids = AggregateIds(topics.gateway_id)
        self._starts: dict[str, str] = {}  # of the topics of each window's aggregates

    def rows_of(self, emissions: Sequence[Emission]) -> list[NewRow]:
        """The events that carry emissions; their ids are the same whenever the emissions are."""
        now_ms = self._clock.now_ms()
        return [self._row_of(emission, now_ms) for emission in emissions]

    def _row_of(self, emission: Emission, now_ms: int) -> NewRow:
        topic, kind, priority = self._destination(emission)
        payload = emission_json(emission, self._topics.gateway_id)
        event_id = self._ids.of(emission.identity)
        kept = kind == _AGGREGATE and emission.window in self._kept
        times = (emission.event_time_ms, now_ms, None)
        return topic, DERIVED_FAMILY, *times, priority, kind, 0, payload, event_id, kept

    def _destination(self, emission: Emission) -> tuple[str, int, int]:
        """Topic, kind and priority of what a window gives."""
        kind = kind_of(emission)
        if kind is not Kind.AGGREGATE:
            priority = Priority.CRITICAL if kind is Kind.ALERT else Priority.LOW
            return topic_of(self._topics, emission, kind), int(kind), int(priority)
        window = emission.window
        start = self._starts.get(window)
        if start is None:
            start = self._starts[window] = self._topics.aggregates(window)
        return start + key_levels(emission.key), _AGGREGATE, self._priorities.get(window, _NORMAL)

    def append(self, store: Store, events: Sequence[NewRow]) -> None:
        """Store events and count them; alerts change alarms."""
        if Kind.ALERT in append(store, events):
            for event in events:
                if event[_KIND] == Kind.ALERT:
                    self._alarms.take(store, NewEvent(*event))


def append(store: Store, events: Sequence[NewRow]) -> Counter[int]:
    """Store events, and count them by what they are; returns these counts."""
    kinds = Counter([event[_KIND] for event in events])
    if events:
        store.append(events)
        for kind, count in kinds.items():
            store.count("appended", Kind(kind).name.lower(), count)
    return kinds
