"""Merging of partial results while they are received: `gateway receive --merge FILE`.

The windows are those of a roll-up gateway (`merge: true`), and so is what they give: a result when each
gateway that is not idle has sent its part, and a correction for each part that comes later. A result is an
event like others, of the gateway that the file names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gateway.config import load_config
from gateway.core.events import Emission, Kind, Priority, WireEvent
from gateway.core.identifiers import AggregateIds
from gateway.core.own_topics import OwnTopics
from gateway.decode.routes import RouteTable
from gateway.fleet.job import FleetError
from gateway.fleet.rules import Rules
from gateway.pipeline.replay import STEP_MS, Recorded, Replay
from gateway.receiver.ledger import MERGED, Ledger, Series, identity
from gateway.receiver.merge_state import MergeState
from gateway.receiver.sinks.sink import Received
from gateway.windows.emission import emission_json
from gateway.wire.results import kind_of, topic_of

log = logging.getLogger(__name__)

_HOT_KEYS = 10_000  # in memory, of each window
_REMEMBERED = 100_000
"""Parts after which the topics that were found so far are forgotten, so that they cannot fill the memory."""
_NO_STREAMS: Callable[[str], bool] = frozenset[str]().__contains__


def merger_of(path: Path, prefix: str, state: Path, now_ms: Callable[[], int]) -> PartMerger:
    """Return what merges by the windows of the configuration at `path`, with its state in the file `state`.

    Raises ConfigError, PluginError or FleetError.
    """
    settings = load_config(path)
    rules = Rules.of(settings).merging()
    if not rules.windows:
        raise FleetError(f"{path} has no window with merge: true", hint="see docs/receiver.md, Merging")
    return PartMerger(rules, OwnTopics(prefix, settings.gateway.id), MergeState(state), now_ms)


class PartMerger:
    """Merges the parts among what was received, by windows of `rules` that all merge.

    For one thread at a time; its methods raise OutputError.

    `now_ms` is the time of this machine: by it a gateway that sends no parts becomes idle.
    """

    def __init__(self, rules: Rules, topics: OwnTopics, state: MergeState, now_ms: Callable[[], int]) -> None:
        self.results = 0
        self._topics = topics
        self._ids = AggregateIds(f"{topics.gateway_id}/{MERGED}")
        self._state = state
        self._now_ms = now_ms
        self._priorities = {one.name: one.priority for one in rules.windows}
        self._reads = rules.common_streams() or _NO_STREAMS
        self._routes = RouteTable(rules.routes)
        self._engine = rules.stored_engine(state.windows.state, _HOT_KEYS)
        self._time = Replay(self._routes, self._engine)
        self._gateways: dict[str, Replay] = {}
        self._ledger = Ledger()
        self._look_ms = 0
        self._until_forgotten = _REMEMBERED

    @property
    def late(self) -> int:
        """Number of parts that came too late for their windows."""
        return sum(one.late_dropped for one in self._engine.counters.values())

    @property
    def refused(self) -> int:
        """Number of parts that the window's plugin could not read."""
        return sum(one.plugin_errors for one in self._engine.counters.values())

    def resume(self, ledger: Ledger) -> list[Received]:
        """Go on where the last run was; returns the results that the output, and `ledger`, lack."""
        self._ledger = ledger
        self._state.open()
        for note in self._engine.restore(self._state.windows.all()):
            log.warning("%s", note)
        return [one for one in self._state.results() if ledger.take(identity(*one))]

    def reconnected(self) -> None:
        """Note that gateways may have been silent only because this receiver did not listen."""
        self._engine.resume(self._now_ms())

    def take(self, received: Sequence[Received]) -> list[Received]:
        """Merge the parts among new events; returns the results, to be written with them."""
        parts = [one for one in received if self._is_part(one)]
        if not parts:
            return []
        now_ms = self._now_ms()
        with self._state.transaction():
            emissions = self._time.pass_time(now_ms)
            for gateway_id, event, _ in parts:
                message = Recorded(event.stream, event.payload, now_ms, event.flags, event.sequence_num)
                emissions += self._of(gateway_id).take_stored(message, event.flags)
                self._make_room()
            self._state.note_parts(one.event.event_id for one in parts)
            return self._keep(emissions, now_ms)

    def pass_time(self) -> list[Received]:
        """Return the results that are due because time has passed, to be written."""
        now_ms = self._now_ms()
        if now_ms < self._look_ms:
            return []
        self._look_ms = now_ms + STEP_MS
        emissions = self._time.pass_time(now_ms)
        if not emissions and not self._engine.progressed:
            return []
        with self._state.transaction():
            return self._keep(emissions, now_ms)

    def close(self) -> None:
        """Close the file of the state."""
        self._state.close()

    def _is_part(self, received: Received) -> bool:
        event = received.event
        return (
            event.kind == Kind.AGGREGATE
            and self._reads(event.stream)
            and not self._state.knows(event.event_id)
        )

    def _of(self, gateway_id: str) -> Replay:
        self._until_forgotten -= 1
        if not self._until_forgotten:
            self._until_forgotten = _REMEMBERED
            self._gateways.clear()
        found = self._gateways.get(gateway_id)
        if found is None:
            found = self._gateways[gateway_id] = Replay(self._routes, self._engine.seen_from(gateway_id))
        return found

    def _make_room(self) -> None:
        if self._engine.crowded:
            self._state.windows.save(self._engine.take_changes())

    def _keep(self, emissions: Iterable[Emission], now_ms: int) -> list[Received]:
        """Store the state of the windows with the results that it brought about."""
        results = [self._result(one, now_ms) for one in emissions if one.kind != "dropped"]
        self._state.windows.save(self._engine.take_changes())
        self._state.put_results(results)
        self.results += len(results)
        return results

    def _result(self, emission: Emission, now_ms: int) -> Received:
        kind, gateway_id = kind_of(emission), self._topics.gateway_id
        topic = topic_of(self._topics, emission, kind)
        known = self._ledger.of(Series(gateway_id, topic, MERGED))
        number = (known.seen.last or 0) + 1 if known is not None else 1
        priority = Priority.CRITICAL if kind is Kind.ALERT else self._priorities[emission.window]
        event = WireEvent(
            self._ids.of(emission.identity),
            topic,
            number,
            emission.event_time_ms,
            ingest_time_ms=now_ms,
            device_time_ms=None,
            priority=priority,
            kind=kind,
            flags=0,
            payload=emission_json(emission, gateway_id),
        )
        result = Received(gateway_id, event, MERGED)
        self._ledger.take(identity(*result))
        return result
