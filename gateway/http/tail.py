"""Live messages by topic, with what the gateway made of each: `/api/messages`, and `/api/explain` for one.

They are read from the buffer, so a tail costs the intake of messages nothing, and none that is closed costs
anything. What is too much for it is skipped and counted: at most SHOWN messages a second out of the newest
LOOKED_AT.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64encode
from collections.abc import AsyncIterator
from functools import cache
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from gateway.buffer.reader import Reader, ReadError
from gateway.core.errors import PluginError
from gateway.core.topics import filter_matches
from gateway.http.answers import json_answer
from gateway.http.late_reader import LateReader
from gateway.http.queries import topic_filter, whole_number
from gateway.pipeline.explanation import explain, flag_names, time_reason
from gateway.pipeline.plugins_loader import WindowPlugins, load_plugins
from gateway.status.gateway_status import GatewayStatus
from gateway.windows.engine import WindowEngine

log = logging.getLogger(__name__)

MAX_TAILS = 4
EVERY_S = 1.0
LISTED, SHOWN = 20, 50
LOOKED_AT = 10_000
MAX_PAYLOAD_BYTES = 2000
MAX_READINGS = 10
_QUIET_TURNS = 15  # then a comment shows whether somebody still listens
_KNOWN_STREAMS = 50_000
_RAW_AFTER = """
SELECT json_group_array(id), json_group_array(stream) FROM (
  SELECT id, stream FROM buffer_events WHERE id > ? AND kind = 0 ORDER BY id LIMIT ?
)
"""
_OF_STREAMS = """
SELECT json_group_array(id) FROM (
  SELECT id FROM (SELECT id, stream, kind FROM buffer_events WHERE id < ? ORDER BY id DESC LIMIT ?)
  WHERE kind = 0 AND stream IN (SELECT value FROM json_each(?)) LIMIT ?
)
"""
LOOKED_BACK = 50_000
"""Events before the last message of a device among which the ones before it are looked for."""


class _Tail:
    """The place of one listener in the buffer."""

    def __init__(self, topic_filter: str, after_id: int) -> None:
        self.after_id = after_id
        self._filter = topic_filter
        self._wanted: dict[int, bool] = {}

    def new(self, reader: Reader) -> tuple[list[int], int]:
        """Return the ids of the next messages to show, and how many were skipped before them."""
        _, newest = reader.id_range()
        passed = max(newest - LOOKED_AT - self.after_id, 0)
        self.after_id = max(self.after_id, newest - LOOKED_AT)
        ids, streams = reader.arrays(_RAW_AFTER, self.after_id, LOOKED_AT)
        if not ids:
            return [], passed
        self.after_id = ids[-1]
        unknown = [stream for stream in {*streams} if stream not in self._wanted]
        if len(self._wanted) + len(unknown) > _KNOWN_STREAMS:
            self._wanted.clear()
            unknown = [*{*streams}]
        for stream, name in zip(unknown, reader.names(unknown), strict=True):
            self._wanted[stream] = filter_matches(self._filter, name)
        found = [one for one, stream in zip(ids, streams, strict=True) if self._wanted[stream]]
        return found[-SHOWN:], passed + max(len(found) - SHOWN, 0)


class TailApi:
    """Answers on the HTTP server's loop."""

    def __init__(self, status: GatewayStatus) -> None:
        self._status = status
        self._reader = LateReader(status.buffer_path)
        # Its own: those of the pipeline learn from what they read. Made when somebody looks.
        self._routes = cache(status.pipeline.intake.routes.forgetful)
        self._plugins: WindowPlugins | None = None
        self._tails = 0
        self._closed = asyncio.Event()

    def leave(self) -> None:
        """Let every listener go; on the loop."""
        self._closed.set()

    def close(self) -> None:
        self._reader.close()

    async def messages(self, request: Request) -> Response:
        """`?filter=&last=`: server-sent events; with `once=true` or `device=` the last ones as JSON."""
        query = request.query_params
        wanted, device = topic_filter(query, "filter"), query.get("device")
        last = whole_number(query, "last", LISTED, 0, SHOWN)
        if device is not None:
            return json_answer({"messages": self._told(self._of_device(device, last))})
        tail, ids = self._begin(wanted, last)
        shown = self._told(ids)
        if query.get("once") == "true":
            return json_answer({"messages": shown})
        if self._tails >= MAX_TAILS or self._closed.is_set():
            return PlainTextResponse(f"{MAX_TAILS} tails are open already", 503, {"Retry-After": "10"})
        return StreamingResponse(self._follow(tail, shown), media_type="text/event-stream")

    def _begin(self, topic_filter: str, last: int) -> tuple[_Tail, list[int]]:
        """Return a tail from now on, and the ids of the `last` messages before."""
        _, newest = self._reader().id_range()
        tail = _Tail(topic_filter, max(newest - LOOKED_AT, 0) if last else newest)
        ids, _ = tail.new(self._reader())
        return tail, ids[-last:] if last else []

    def _of_device(self, name: str, last: int) -> list[int]:
        """The ids of its last messages: they are looked for backwards from the time it was last heard."""
        presence, reader = self._status.presence, self._reader()
        heard = presence.device(name, self._status.clock.now_ms())
        if heard is None:
            return []
        streams = reader.stream_ids([name, *presence.sources(name)])
        behind_id = reader.first_since(heard.last_ms + 1)
        wanted = orjson.dumps([*streams.values()]).decode()
        (ids,) = reader.arrays(_OF_STREAMS, behind_id, LOOKED_BACK, wanted, last)
        return sorted(ids)

    async def _follow(self, tail: _Tail, first: list[dict[str, Any]]) -> AsyncIterator[bytes]:
        self._tails += 1
        try:
            yield b"retry: 2000\n\n" + _frame(first, 0)
            quiet = 0
            while not await self._is_closed_within(EVERY_S):
                try:
                    ids, skipped = tail.new(self._reader())
                    shown = self._told(ids)
                except ReadError as exc:
                    log.warning("the last messages cannot be read: %s", exc)
                    continue
                quiet = 0 if shown or skipped else quiet + 1
                if shown or skipped:
                    yield _frame(shown, skipped)
                elif quiet % _QUIET_TURNS == 0:
                    yield b": quiet\n\n"
        finally:
            self._tails -= 1

    async def _is_closed_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._closed.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def explain(self, request: Request) -> Response:
        """`?id=`: all that the gateway makes of one stored message, as `gateway explain` does."""
        reader, number = self._reader(), whole_number(request.query_params, "id")
        events, _ = reader.without_corrupt(reader.by_ids([number]))
        if not events.ids:
            return PlainTextResponse("This message is not in the buffer any more.", 404)
        try:
            new_engine = self._engines()
        except PluginError as exc:
            return PlainTextResponse(f"{exc}; {exc.hint}", 503)
        (topic,), (payload,) = reader.names(events.stream_ids), reader.payloads(events)
        specs = self._status.window_specs
        said = explain(self._routes(), new_engine, specs, topic, payload, events.ingest_times_ms[0])
        return json_answer(
            {**said.as_json(), "id": events.ids[0], "stored_flags": flag_names(events.flags[0])}
        )

    def _engines(self) -> Any:
        specs = self._status.window_specs
        if self._plugins is None:  # of its own: an object of a plugin belongs to one thread
            self._plugins = load_plugins(specs, self._status.config.plugins.directory)
        plugins = self._plugins
        return lambda: WindowEngine(specs, plugins.plugins, plugins.fingerprints)

    def _told(self, ids: list[int]) -> list[dict[str, Any]]:
        if not ids:
            return []
        reader = self._reader()
        events, _ = reader.without_corrupt(reader.by_ids(ids))
        names, payloads = reader.names(events.stream_ids), reader.payloads(events)
        columns = zip(events.ids, names, payloads, events.ingest_times_ms, events.flags, strict=True)
        return [self._one(*row) for row in columns]

    def _one(self, number: int, topic: str, payload: bytes, arrival_ms: int, flags: int) -> dict[str, Any]:
        found = self._routes().match(topic)
        told: dict[str, Any] = {
            "id": number,
            "topic": topic,
            "arrival_ms": arrival_ms,
            "flags": flag_names(flags),
            **_shown(payload),
        }
        if found is None:
            return told | {"route": None, "reason": "no route takes this topic", "readings": []}
        route, levels = found
        decoded = route.decode(topic, levels, payload, arrival_ms)
        return told | {
            "route": route.spec.name,
            "event_time_ms": decoded.event_time_ms,
            "reason": time_reason(route, decoded, arrival_ms),
            "problem": decoded.problem,
            "readings": [
                {"time_ms": sample.time_ms, "fields": dict(sample.fields)}
                for sample in decoded.samples[:MAX_READINGS]
            ],
            "more_readings": max(len(decoded.samples) - MAX_READINGS, 0),
            "misses": list(decoded.misses),
            "filtered": decoded.filtered,
            "notes": list(decoded.notes),
        }


def _shown(payload: bytes) -> dict[str, Any]:
    """The payload as text, or base64 where it is none; cut where it is long."""
    cut = payload[:MAX_PAYLOAD_BYTES]
    try:
        return {"payload": cut.decode("utf-8"), "bytes": len(payload)}
    except UnicodeDecodeError as exc:
        if len(payload) > len(cut) and exc.start >= len(cut) - 3:  # cut inside of a character
            return {"payload": cut[: exc.start].decode("utf-8"), "bytes": len(payload)}
        return {"payload_base64": b64encode(cut).decode(), "bytes": len(payload)}


def _frame(messages: list[dict[str, Any]], skipped: int) -> bytes:
    body = orjson.dumps({"messages": messages, "skipped": skipped}, option=orjson.OPT_NON_STR_KEYS)
    return b"event: messages\ndata: %b\n\n" % body
