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
from gateway.core.identifiers import aggregate_id
from gateway.core.own_topics import OwnTopics, key_levels
from gateway.wire.results import kind_of, payload_of, topic_of

_KIND: Final = 6  # of a row


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
        self._starts: dict[str, str] = {}  # of the topics of each window's aggregates

    def event_of(self, emission: Emission) -> NewEvent:
        """The event that carries an emission; its id is the same whenever the emission is."""
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
            payload_of(emission, self._topics.gateway_id),
            aggregate_id(self._topics.gateway_id, emission.identity),
            kind is Kind.AGGREGATE and emission.window in self._kept,
        )

    def _destination(self, emission: Emission) -> tuple[str, Kind, int]:
        """Topic, kind and priority of what a window gives."""
        kind = kind_of(emission)
        if kind is not Kind.AGGREGATE:
            return (
                topic_of(self._topics, emission, kind),
                kind,
                Priority.CRITICAL if kind is Kind.ALERT else Priority.LOW,
            )
        priority = self._priorities.get(emission.window, Priority.NORMAL)
        start = self._starts.get(emission.window)
        if start is None:
            start = self._starts[emission.window] = self._topics.aggregates(emission.window)
        return start + key_levels(emission.key), kind, priority

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
