"""History over HTTP: aggregates and events by time, as NDJSON, CSV or JSON.

Rows are looked for and read a stretch at a time. After each a long request rests, the longer the more
messages come in, so that pages, health and the writer have their turn, however large an export is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from gateway.buffer.event_history import TimeRange, found_in
from gateway.buffer.history.blocks import PastResult
from gateway.core.events import Kind
from gateway.core.own_topics import key_levels
from gateway.http.late_reader import LateReader
from gateway.http.past_rows import ROWS_AT_ONCE, StoredResults
from gateway.http.queries import LARGEST, BadQueryError, one_of, topic_filter, whole_number
from gateway.http.rows import Row, Rows, csv_lines, ndjson_lines
from gateway.receiver.event_lines import event_line
from gateway.status.gateway_status import GatewayStatus
from gateway.wire.frame import wire_events

log = logging.getLogger(__name__)

MAX_READING = 4
"""Requests for the past at a time."""
MOST_LATEST = 200_000
"""Results whose latest revision is looked for at once: some 60 MB while it is looked for."""
_MOST_SEEN = 50_000
_AT_ONCE_S = 0.2  # a chart does not rest
_MOST_RESTS, _RATE_PER_REST = 24.0, 250.0
JSON_ROWS, MOST_JSON_ROWS = 1000, 10_000  # a JSON answer is made whole before it is sent
_DAY_MS = 24 * 3600 * 1000
_YEAR_MS = 366 * _DAY_MS
_Found = TypeVar("_Found")
_FORMATS = {"ndjson": ("application/x-ndjson", ndjson_lines), "csv": ("text/csv; charset=utf-8", csv_lines)}


class _Page(NamedTuple):
    """The requested page of rows."""

    form: str
    limit: int
    after: int

    @classmethod
    def of(cls, query: Mapping[str, str]) -> _Page:
        form = one_of(query, "format", ("json", *_FORMATS))
        default, most = (JSON_ROWS, MOST_JSON_ROWS) if form == "json" else (LARGEST, LARGEST)
        return cls(form, whole_number(query, "limit", default, 1, most), whole_number(query, "after", 0))


class HistoryApi:
    """`/api/aggregates` and `/api/events`, on the HTTP server's loop."""

    def __init__(self, status: GatewayStatus) -> None:
        self._status = status
        self._reader = LateReader(status.buffer_path)
        self._stored = StoredResults(status)
        self._at_work = 0

    def close(self) -> None:
        self._stored.close()
        self._reader.close()

    async def aggregates(self, request: Request) -> Response:
        """`?window=&key=&from_ms=&to_ms=&revisions=latest|all&format=&limit=&after=`."""
        return await self._answer(request, self._aggregates)

    async def events(self, request: Request) -> Response:
        """`?stream=FILTER&kind=raw&from_ms=&to_ms=&format=&limit=&after=`."""
        return await self._answer(request, self._events)

    def latest_results(self, query: Mapping[str, str]) -> Rows:
        """The latest revisions of the results that `query` asks for, as `/api/aggregates` does. Raises
        BadQueryError."""
        return self._counted(self._aggregates(query, _Page("json", LARGEST, 0)))

    async def _answer(
        self, request: Request, rows_of: Callable[[Mapping[str, str], _Page], Rows]
    ) -> Response:
        query = request.query_params
        page = _Page.of(query)
        if self._at_work >= MAX_READING:
            text = f"{MAX_READING} requests for history are running"
            return PlainTextResponse(text, 503, {"Retry-After": "5"})
        rows = self._counted(_first(rows_of(query, page), page.limit))
        rows = _resumed(await anext(rows, []), rows)  # what cannot be answered is known before the headers
        if page.form == "json":
            return await _as_json(rows, page.limit)
        media_type, lines = _FORMATS[page.form]
        return StreamingResponse(lines(rows), media_type=media_type)

    async def _counted(self, rows: Rows) -> Rows:
        self._at_work += 1
        try:
            async for some in rows:
                yield some
        finally:
            self._at_work -= 1

    def _events(self, query: Mapping[str, str], page: _Page) -> Rows:
        wanted = _range(query, topic_filter(query, "stream"), _kinds(query), _DAY_MS)
        return self._rows(self._ids(wanted, page.after), self._event_rows)

    def _aggregates(self, query: Mapping[str, str], page: _Page) -> Rows:
        revisions = one_of(query, "revisions", ("latest", "all"))
        window, key = query.get("window"), query.get("key")
        if key is not None and window is None:
            raise BadQueryError("key needs a window: the keys of another one mean something else")
        if window is not None and {*"+#/"} & {*window}:
            raise BadQueryError(f"no window is named {window!r}")
        levels = "#" if key is None else key_levels(key)
        stream = f"{self._status.topics.all_aggregates}{window or '+'}/{levels}"
        wanted = _range(query, stream, frozenset({Kind.AGGREGATE}), _DAY_MS + self._early_ms())
        found = (self._results if revisions == "all" else self._latest)(wanted, page.after)
        return self._rows(found, _aggregate_lines if page.form == "ndjson" else _aggregate_rows)

    def _early_ms(self) -> int:
        """Return how long before its event time, the end of its window, an early result may come."""
        early = [spec for spec in self._status.window_specs if spec.early_every_ms or spec.early_count]
        return max((spec.size_ms or _YEAR_MS for spec in early), default=0)

    async def _ids(self, wanted: TimeRange, after: int) -> AsyncIterator[list[int]]:
        """The ids, up to ROWS_AT_ONCE at a time."""
        for ids in found_in(self._reader(), wanted, after):
            yield ids[:ROWS_AT_ONCE]
            for start in range(ROWS_AT_ONCE, len(ids), ROWS_AT_ONCE):
                yield ids[start : start + ROWS_AT_ONCE]

    async def _results(self, wanted: TimeRange, after: int) -> AsyncIterator[list[PastResult]]:
        stored = self._stored
        for some in stored.found(self._reader(), wanted, after):
            yield some
        _warn_of(stored.corrupt)
        stored.corrupt = 0

    async def _latest(self, wanted: TimeRange, after: int) -> AsyncIterator[list[PastResult]]:
        """Those of the results that no later one corrects or replaces. All are looked at before the first."""
        newest: dict[tuple[str, int, int], int] = {}
        single = array("q")  # results without bounds, such as those of counts: no other takes their place
        seen: list[PastResult] | None = []  # so many are in memory; of more than that only their ids
        async for some in self._results(wanted, 0):
            if seen is not None and len(seen) < _MOST_SEEN:
                seen += some
            else:
                seen = None
            for row in some:
                body = orjson.loads(row.payload)
                if body["start_ms"] is None:
                    single.append(row.id)
                    continue
                for start_ms, end_ms in body["replaces"]:
                    newest.pop((row.topic, start_ms, end_ms), None)
                newest[row.topic, body["start_ms"], body["end_ms"]] = row.id
            if len(newest) + len(single) > MOST_LATEST:
                text = (
                    f"more than {MOST_LATEST} results: narrow window, key or time, or ask for revisions=all"
                )
                raise BadQueryError(text)
            yield []
        kept = {*newest.values(), *single}
        if seen is not None:
            yield [row for row in seen if row.id in kept and row.id > after]
            return
        async for some in self._results(wanted, after):
            yield [row for row in some if row.id in kept]

    async def _rows(
        self, found: AsyncIterator[list[_Found]], read: Callable[[list[_Found]], Iterable[Any]]
    ) -> Rows:
        """Yield the rows of what is found; rest after each chunk, once that has taken `_AT_ONCE_S`."""
        began_s, worked_s = time.thread_time(), 0.0
        async for some in found:
            rows = [*read(some)] if some else []
            took_s = time.thread_time() - began_s  # not the wait for the interpreter
            worked_s += took_s
            await asyncio.sleep(took_s * self._rests() if worked_s > _AT_ONCE_S else 0)
            if rows:
                yield rows
            began_s = time.thread_time()

    def _rests(self) -> float:
        """Return how often a request rests as long as it has worked: all threads share one interpreter."""
        latest = self._status.history.latest
        return min(_MOST_RESTS, 1 + (latest.in_per_s if latest else 0) / _RATE_PER_REST)

    def _event_rows(self, ids: list[int]) -> Iterator[Row]:
        reader = self._reader()
        events, corrupt = reader.without_corrupt(reader.by_ids(ids))
        _warn_of(len(corrupt))
        for buffer_id, event in zip(events.ids, wire_events(reader.columns(events)), strict=True):
            yield {"id": buffer_id} | orjson.loads(event_line(self._status.gateway_id, event))


def _aggregate_rows(some: list[PastResult]) -> Iterator[Row]:
    for row in some:
        yield {"id": row.id} | orjson.loads(row.payload)


def _aggregate_lines(some: list[PastResult]) -> Iterator[bytes]:
    for row in some:
        yield b'{"id":%d,%b\n' % (row.id, row.payload[1:])


async def _as_json(rows: Rows, limit: int) -> Response:
    """`{rows, next}`: what `after` is on the next page, or null on the last one."""
    found: list[Any] = [row async for some in rows for row in some]
    more = found[-1]["id"] if found and len(found) == limit else None
    return Response(orjson.dumps({"rows": found, "next": more}), media_type="application/json")


async def _resumed(first: list[Row], rows: Rows) -> Rows:
    if first:
        yield first
    async for some in rows:
        yield some


async def _first(rows: Rows, limit: int) -> Rows:
    left = limit
    async for some in rows:
        yield some[:left]
        left -= len(some)
        if left <= 0:
            return


def _range(query: Mapping[str, str], stream: str, kinds: frozenset[Kind], ahead_ms: int) -> TimeRange:
    from_ms, to_ms = whole_number(query, "from_ms", 0), whole_number(query, "to_ms", LARGEST)
    return TimeRange(stream, kinds, from_ms, to_ms, ahead_ms)


def _kinds(query: Mapping[str, str]) -> frozenset[Kind]:
    name = one_of(query, "kind", (*(kind.name.lower() for kind in Kind), "all"))
    return frozenset(Kind) if name == "all" else frozenset({Kind[name.upper()]})


def _warn_of(corrupt: int) -> None:
    if corrupt:
        log.warning("%d corrupt events or blocks of results are left out of an answer", corrupt)
