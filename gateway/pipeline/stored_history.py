"""The windows' past out of the buffer: what is read again at a start, and after a rollback."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

from gateway.buffer.reader import Reader
from gateway.core.events import Emission, Flag
from gateway.core.identifiers import split_ids
from gateway.decode.routes import RouteTable
from gateway.pipeline.freshness import out_of_windows
from gateway.windows.engine import WindowEngine, gathered

log = logging.getLogger(__name__)

_STEP_MS = 250
"""Step at which the windows look at the time, as in a running gateway."""


class StoredMessage(NamedTuple):
    """A message of a device as it came."""

    topic: str
    payload: bytes
    arrival_ms: int
    flags: int = 0
    sequence_num: int = 0


def raw_messages(reader: Reader, after_id: int, to_id: int | None = None) -> Iterator[StoredMessage]:
    """The messages behind `after_id`, up to `to_id` if given, in the order in which they came."""
    for stored in reader.raw_after(after_id, to_id=to_id):
        events, corrupt = reader.without_corrupt(stored)
        if corrupt:
            log.error("%d events have a wrong checksum; the windows go on without them", len(corrupt))
        names, payloads = reader.names(events.stream_ids), reader.payloads(events)
        columns = (events.ingest_times_ms, events.flags, events.sequence_nums)
        yield from map(StoredMessage, names, payloads, *columns)


def derived_ids(reader: Reader, after_id: int) -> set[bytes]:
    """The identities of the aggregates, alerts and reports behind `after_id`."""
    known: set[bytes] = set()
    while (events := reader.derived_after(after_id, 2000)).ids:
        known.update(split_ids(events.event_ids))
        after_id = events.ids[-1]
    return known


def replay_one(windows: WindowEngine, routes: RouteTable, message: StoredMessage) -> list[Emission]:
    """Return the windows' results for a message that was taken in earlier."""
    found = routes.match(message.topic)
    if found is None:
        return []
    route, levels = found
    retained = bool(message.flags & Flag.RETAINED)
    decoded = route.decode(message.topic, levels, message.payload, message.arrival_ms, retained)
    if out_of_windows(message.flags, route.spec):
        return []
    moment = (message.arrival_ms, message.sequence_num)
    return gathered(windows.process(message.topic, route.spec.name, levels, decoded.samples, *moment))


def rebuild(windows: WindowEngine, routes: RouteTable, reader: Reader, to_id: int) -> str:
    """Make the windows that could not be restored anew, as if they had seen all messages up to `to_id` that
    the buffer still has; returns what was done. What they would have given until then is not given again."""
    part, past_routes = windows.part(windows.unrestored), routes.forgetful()
    replayed, now_ms = 0, 0
    for message in raw_messages(reader, 0, to_id):
        if not replayed:
            now_ms = message.arrival_ms
            part.resume(now_ms)
        elif message.arrival_ms >= now_ms + _STEP_MS:
            now_ms = message.arrival_ms
            gathered(
                part.advance(now_ms - _STEP_MS)
            )  # a gateway that looked at the time had looked at least then
        replay_one(part, past_routes, message)
        replayed += 1
    part.renew(now_ms)
    made = f"windows made anew from {replayed} messages: {', '.join(sorted(windows.unrestored))}"
    windows.unrestored.clear()
    return made
