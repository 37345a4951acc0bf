"""Charts over time: `/api/course` gives the results of a window by key, or a field of a device.

What is read comes from the buffer, at most TWO_AT_ONCE requests at a time; the others wait in a line.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from gateway.buffer.event_history import TimeRange, found_in
from gateway.core.events import Kind
from gateway.http.answers import json_answer
from gateway.http.fold import Point, chosen_of, folded, numbers_in, with_holes
from gateway.http.history import HistoryApi
from gateway.http.late_reader import LateReader
from gateway.http.queries import LARGEST, BadQueryError, one_of, whole_number
from gateway.http.rows import Rows, csv_lines
from gateway.http.units import Units
from gateway.status.gateway_status import GatewayStatus

POINTS, MOST_POINTS = 600, 5000
MOST_KEYS = 6
"""Lines of one chart that can be told apart."""
MOST_READ = 20_000
"""Messages that are decoded for one chart; of more, every so-manieth is."""
TWO_AT_ONCE, MOST_WAITING = 2, 40
_CHUNK = 500
_DAY_MS = 24 * 3600 * 1000


class CoursesApi:
    """`/api/course`, on the HTTP server's loop."""

    def __init__(self, status: GatewayStatus, past: HistoryApi, units: Units) -> None:
        self._status = status
        self._past = past
        self._units = units
        self._reader = LateReader(status.buffer_path)
        # Its own: those of the pipeline learn from what they read. Made when somebody looks.
        self._routes = cache(status.pipeline.intake.routes.forgetful)
        self._turns = asyncio.Semaphore(TWO_AT_ONCE)
        self._waiting = 0

    def close(self) -> None:
        self._reader.close()

    async def course(self, request: Request) -> Response:
        """`?window=&key=&key=&measure=` or `?device=&field=`, with `&from_ms=&to_ms=&points=&format=`."""
        query = request.query_params
        form = one_of(query, "format", ("json", "csv"))
        if self._waiting >= MOST_WAITING:
            return PlainTextResponse(f"{MOST_WAITING} charts wait already", 503, {"Retry-After": "5"})
        self._waiting += 1
        try:
            async with self._turns:
                found = await (self._of_window(query) if "window" in query else self._of_field(query))
        finally:
            self._waiting -= 1
        if form == "json":
            return json_answer(found)
        return StreamingResponse(csv_lines(_csv_rows(found)), media_type="text/csv; charset=utf-8")

    async def _of_window(self, query: QueryParams) -> dict[str, Any]:
        name, keys = query["window"], query.getlist("key")
        spec = next((spec for spec in self._status.window_specs if spec.name == name), None)
        if spec is None:
            raise BadQueryError(f"no window is named {name!r}")
        if not 0 < len(keys) <= MOST_KEYS:
            raise BadQueryError(f"key is given once to {MOST_KEYS} times")
        rows = {key: await self._results(name, key, query) for key in keys}
        measures = [*dict.fromkeys(name for some in rows.values() for row in some[-1:] for name in row[1])]
        measure = chosen_of(measures, query.get("measure"))
        field = measure.rpartition(".")[0] or spec.fields[0]
        usual_ms = spec.slide_ms or spec.size_ms
        return {
            "measures": measures,
            "measure": measure,
            "unit": self._units.of_result(spec, field, measure),
            "series": [
                {"key": key, **_series(_points(rows[key], measure), usual_ms, _most(query))} for key in keys
            ],
            "read_every": 1,
        }

    async def _results(self, window: str, key: str, query: Mapping[str, str]) -> list[_Result]:
        """Return (end or start of its window, its numbers, count) of each result."""
        asked = {name: query[name] for name in ("from_ms", "to_ms") if name in query}
        found: list[_Result] = []
        async for rows in self._past.latest_results({**asked, "window": window, "key": key}):
            for row in rows:
                at_ms = row["end_ms"] or row.get("start_ms") or row.get("time_ms")
                if at_ms is not None:
                    found.append((at_ms, numbers_in(row["result"]), row.get("count") or 1))
        return sorted(found, key=lambda one: one[0])

    async def _of_field(self, query: QueryParams) -> dict[str, Any]:
        device, field = query.get("device", ""), query.get("field", "")
        sources = self._status.presence.sources(device)
        topics = {topic: one for topic, one in sources.items() if field in one.sample.fields}
        if not topics:
            raise BadQueryError(f"no reading of {device!r} with a field {field!r} has come since the start")
        from_ms, to_ms = whole_number(query, "from_ms", 0), whole_number(query, "to_ms", LARGEST)
        ids: list[int] = []
        for topic in sorted(topics):
            wanted = TimeRange(topic, frozenset({Kind.RAW}), from_ms, to_ms, _DAY_MS)
            began_s = time.monotonic()
            for some in found_in(self._reader(), wanted):
                ids += some
                began_s = await _rest(began_s)
        every = -(-len(ids) // MOST_READ) or 1
        points = [point async for point in self._readings(sorted(ids)[::every], field)]
        return {
            "measures": [field],
            "measure": field,
            "unit": self._units.of_field(next(iter(topics.values())).route, field),
            "series": [{"key": device, **_series(points, None, _most(query))}],
            "read_every": every,
        }

    async def _readings(self, ids: Sequence[int], field: str) -> AsyncIterator[Point]:
        began_s = time.monotonic()
        for start in range(0, len(ids), _CHUNK):
            for point in self._decoded(ids[start : start + _CHUNK], field):
                yield point
            began_s = await _rest(began_s)

    def _decoded(self, ids: Sequence[int], field: str) -> Iterator[Point]:
        reader = self._reader()
        events, _ = reader.without_corrupt(reader.by_ids(ids))
        names, payloads = reader.names(events.stream_ids), reader.payloads(events)
        for topic, payload, arrival_ms in zip(names, payloads, events.ingest_times_ms, strict=True):
            match = self._routes().match(topic)
            if match is None:
                continue
            route, levels = match
            for sample in route.decode(topic, levels, payload, arrival_ms).samples:
                value = sample.fields.get(field)
                if isinstance(value, (bool, int, float)):
                    yield Point(sample.time_ms, float(value))


_Result = tuple[int, dict[str, float], int]


def _points(rows: Sequence[_Result], measure: str) -> list[Point]:
    """The chosen number of each result; a mean comes with the least and the most beside it."""
    stem, dot, last = measure.rpartition(".")
    low, high = (f"{stem}{dot}min", f"{stem}{dot}max") if last == "mean" else ("", "")
    return [
        Point(
            at_ms,
            numbers.get(measure),
            numbers.get(low) if low else None,
            numbers.get(high) if high else None,
            weight,
        )
        for at_ms, numbers, weight in rows
    ]


def _series(points: Sequence[Point], usual_ms: int | None, most: int) -> dict[str, Any]:
    few, width_ms = folded(points, most)
    shown = with_holes(few, usual_ms, width_ms)
    has_band = any(point.low is not None for point in shown)
    return {
        "found": len(points),
        "width_ms": width_ms,
        "times": [point.time_ms for point in shown],
        "values": [point.value for point in shown],
        "low": [point.low for point in shown] if has_band else None,
        "high": [point.high for point in shown] if has_band else None,
    }


async def _rest(began_s: float) -> float:
    """Rest as long as the last stretch took, so that everything else has its turn."""
    await asyncio.sleep(time.monotonic() - began_s)
    return time.monotonic()


async def _csv_rows(found: Mapping[str, Any]) -> Rows:
    for series in found["series"]:
        low, high = series["low"] or series["values"], series["high"] or series["values"]
        columns = zip(series["times"], series["values"], low, high, strict=True)
        yield [
            {
                "key": series["key"],
                "time_ms": at,
                found["measure"] or "value": value,
                "low": least,
                "high": most,
            }
            for at, value, least, most in columns
            if value is not None
        ]


def _most(query: Mapping[str, str]) -> int:
    return whole_number(query, "points", POINTS, 2, MOST_POINTS)
