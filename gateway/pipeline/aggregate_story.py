"""Explains one result of a window: the readings in it, the late ones, its corrections, its sources.

The readings are found by running the window again over the messages in the buffer, so the answer is that of
the configuration as it is now; `count` says whether it is the same as then.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from gateway.buffer.event_filter import EventFilter
from gateway.buffer.reader import Reader
from gateway.core.errors import GatewayError
from gateway.core.events import Reading, Status
from gateway.core.identifiers import split_ids
from gateway.core.sequence_sets import Run, runs_of
from gateway.pipeline.replay import Recorded, Replay
from gateway.windows.engine import WindowEngine
from gateway.windows.watermark import NEVER

_MARGIN_MS = 3_600_000
"""Of arrival time before a window's start: its sources' watermarks have to be known when it begins."""
_STATUSES = """
SELECT json_group_array(status) FROM
(SELECT status FROM buffer_events WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id)
"""


Bounds = tuple[Any, Any]
"""Start and end of a window, in ms."""


class StoryError(GatewayError):
    """Raised when a result cannot be explained."""


class Used(NamedTuple):
    """A reading of the window. `late` ones came after its end had passed, `dropped` ones too late."""

    topic: str
    sequence_num: int
    value: float
    time_ms: int
    arrival_ms: int
    late: bool
    dropped: bool
    status: str


class Revision(NamedTuple):
    """A result of the same window and key."""

    event_id: str
    revision: int
    kind: str
    count: int  # type: ignore[assignment] # hides tuple.count, which nobody needs
    status: str


@dataclass
class AggregateStory:
    """A result and what is known of it."""

    payload: dict[str, Any]
    readings: list[Used] = field(default_factory=list)
    revisions: list[Revision] = field(default_factory=list)
    bounds: Bounds | None = None
    """Start and end of the wider session that has replaced it; None where nothing has."""

    @property
    def used(self) -> list[Used]:
        """The readings that the newest result of the window has."""
        return [one for one in self.readings if not one.dropped]

    @property
    def dropped(self) -> list[Used]:
        """The readings that came too late for the window."""
        return [one for one in self.readings if one.dropped]

    @property
    def missing(self) -> int:
        """Number of readings of the newest result that are no longer in the buffer."""
        return max(0, max(each.count for each in self.revisions) - len(self.used))

    def sources(self) -> dict[str, list[Run]]:
        """The sequence numbers of its readings, by topic."""
        numbers: defaultdict[str, set[int]] = defaultdict(set)
        for one in self.used:
            numbers[one.topic].add(one.sequence_num)
        return {topic: [*runs_of(sorted(some))] for topic, some in sorted(numbers.items())}

    def not_delivered(self) -> Counter[str]:
        """The readings that the cloud has not acknowledged, by status."""
        return Counter(one.status for one in self.used if one.status != Status.SYNCED.name.lower())

    def fields(self) -> dict[str, object]:
        """Return it as plain values, for JSON."""
        return {
            "aggregate": self.payload,
            "replaced_by": None if self.bounds is None else list(self.bounds),
            "readings": [one._asdict() for one in self.used],
            "dropped": [one._asdict() for one in self.dropped],
            "late": sum(one.late for one in self.used),
            "missing": self.missing,
            "revisions": [one._asdict() for one in self.revisions],
            "sources": {topic: [list(run) for run in runs] for topic, runs in self.sources().items()},
            "not_delivered": dict(self.not_delivered()),
            "cloud_has_all": not self.not_delivered() and not self.missing,
        }


def tell_story(
    reader: Reader, event_id: UUID, parts: Callable[[str], tuple[Replay, WindowEngine]]
) -> AggregateStory:
    """Explain a result in the buffer; `parts` makes a replay and an engine with the one window of that name.

    Raises StoryError if there is no such result, or if its window is not bounded by time.
    """
    found = next(_chosen(reader, EventFilter(event_ids=(event_id,))), None)
    if found is None:
        raise StoryError(
            f"there is no event {event_id} in the buffer", hint="`gateway buffer list` shows ids"
        )
    payload = found.payload
    if not payload.keys() >= {"window", "key", "start_ms", "end_ms", "count"}:
        raise StoryError(f"the event {event_id} is no result of a window")
    story = AggregateStory(payload)
    same_key = [
        each
        for each in _chosen(reader, EventFilter(stream=found.topic))
        if all(each.payload.get(name) == payload[name] for name in ("window", "key"))
    ]
    bounds = _replacing(_bounds(payload), same_key)
    newest_ms = found.ingest_ms
    for each in same_key:
        if _bounds(each.payload) == bounds:
            known = each.payload
            revision = (each.event_id, known["revision"], known["kind"], known["count"], each.status)
            story.revisions.append(Revision(*revision))
            newest_ms = max(newest_ms, each.ingest_ms)
    if bounds != _bounds(payload):
        story.bounds = bounds
    replay, engine = parts(payload["window"])
    if not engine.operators[payload["window"]].uses_watermark:
        raise StoryError("results of count and global windows cannot be explained: time does not bound them")
    story.readings = [*_readings(reader, payload, bounds, newest_ms, replay, engine)]
    return story


def _bounds(payload: dict[str, Any]) -> Bounds:
    return payload.get("start_ms"), payload.get("end_ms")


def _replacing(bounds: Bounds, results: Iterable[_Result]) -> Bounds:
    """Return the bounds of the session that has replaced that of `bounds` at last; `results` are in order."""
    for each in results:
        if list(bounds) in each.payload.get("replaces", ()):
            bounds = _bounds(each.payload)
    return bounds


class _Result(NamedTuple):
    event_id: str
    topic: str
    status: str
    ingest_ms: int
    payload: dict[str, Any]


def _chosen(reader: Reader, choice: EventFilter) -> Iterator[_Result]:
    after = 0
    while rows := reader.chosen(choice, after):
        statuses = {row_id: Status(status).name.lower() for row_id, status, _ in rows}
        events, _ = reader.without_corrupt(reader.by_ids([*statuses]))
        columns = (split_ids(events.event_ids), reader.names(events.stream_ids), events.ingest_times_ms)
        for row_id, event_id, topic, ingest_ms, body in zip(
            events.ids, *columns, reader.payloads(events), strict=True
        ):
            yield _Result(str(UUID(bytes=event_id)), topic, statuses[row_id], ingest_ms, _fields(body))
        after = rows[-1][0]


def _fields(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _readings(
    reader: Reader,
    payload: dict[str, Any],
    bounds: Bounds,
    newest_ms: int,
    replay: Replay,
    engine: WindowEngine,
) -> Iterator[Used]:
    operator = engine.operators[payload["window"]]
    start_ms, end_ms = bounds
    lateness_ms = operator.spec.allowed_lateness_ms
    seen: list[tuple[int, Reading, int]] = []

    def observe(key: str, watermark_ms: int, reading: Reading, arrival_ms: int) -> None:
        if key == payload["key"] and start_ms <= reading.time_ms < end_ms:
            seen.append((watermark_ms, reading, arrival_ms))

    operator.observe(observe)
    first_id = reader.first_since(min(start_ms, newest_ms) - _MARGIN_MS)
    last_id = reader.first_since(newest_ms + lateness_ms + _MARGIN_MS)
    for stored in reader.raw_after(max(1, first_id) - 1, to_id=max(last_id, first_id)):
        events, _ = reader.without_corrupt(stored)
        statuses = _statuses(reader, events.ids)
        rows = zip(
            *(reader.names(events.stream_ids), reader.payloads(events), events.ingest_times_ms, events.flags),
            *(events.sequence_nums, statuses),
            strict=True,
        )
        for topic, body, ingest_ms, flags, number, status in rows:
            replay.feed(Recorded(topic, body, ingest_ms, flags, number))
            for watermark_ms, reading, arrival_ms in seen:
                late = NEVER < end_ms <= watermark_ms
                dropped = watermark_ms >= end_ms + lateness_ms
                moment = (reading.value, reading.time_ms, arrival_ms)
                yield Used(reading.topic, number, *moment, late and not dropped, dropped, status)
            seen.clear()


def _statuses(reader: Reader, ids: list[int]) -> list[str]:
    choice = orjson.dumps(ids).decode()
    (found,) = reader.arrays(_STATUSES, choice)
    return [Status(status).name.lower() for status in found]
