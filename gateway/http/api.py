"""The read-only API below /api: the state and its parts, history, results, streams, devices, live data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from gateway.http.answers import json_answer
from gateway.http.devices import DevicesApi
from gateway.http.history import HistoryApi
from gateway.http.live import MAX_LISTENERS, Live
from gateway.http.queries import whole_number
from gateway.http.results import Results
from gateway.http.state import State

LISTED_STREAMS = 100
MOST_STREAMS = 1000


class Api:
    """Answers on the HTTP server's loop: everything here is short, or rests as long as it works."""

    def __init__(
        self, state: State, results: Results, live: Live, past: HistoryApi, devices: DevicesApi
    ) -> None:
        self._state = state
        self._results = results
        self._live = live
        self._past = past
        self._devices = devices

    def routes(self) -> list[Route]:
        state = self._state
        parts: dict[str, Callable[[], Any]] = {
            "state": self._whole,
            "buffer": state.buffer,
            "windows": state.windows,
            "links": state.links,
            "devices": lambda: [device._asdict() for device in state.all_devices()],
            "history": state.history,
            "alerts": self._alerts,
        }
        return [
            *(Route(f"/api/{name}", _answering(part)) for name, part in parts.items()),
            Route("/api/results", self._series),
            Route("/api/streams", self._streams),
            Route("/api/live", self._listen),
            Route("/api/page", self._show),
            Route("/api/devices/table", self._devices.table),
            Route("/api/devices/one", self._devices.one),
            Route("/api/aggregates", self._past.aggregates),
            Route("/api/events", self._past.events),
        ]

    def _whole(self) -> dict[str, Any]:
        self._live.refresh()
        return self._state.whole()

    def _alerts(self) -> list[dict[str, Any]]:
        self._live.refresh()
        return self._results.alerts()

    async def _series(self, request: Request) -> Response:
        """`?window=NAME`: only that window's."""
        self._live.refresh()
        return json_answer(self._results.series(request.query_params.get("window")))

    async def _streams(self, request: Request) -> Response:
        """`?after=NAME&limit=N`: the next streams in the order of their names."""
        query = request.query_params
        limit = whole_number(query, "limit", LISTED_STREAMS, 1, MOST_STREAMS)
        return json_answer(self._results.streams(query.get("after", ""), limit))

    async def _listen(self, _request: Request) -> Response:
        return self._stream(self._live.listen)

    async def _show(self, _request: Request) -> Response:
        return self._stream(self._live.show)

    def _stream(self, frames: Callable[[], AsyncIterator[bytes]]) -> Response:
        if not self._live.has_room:
            text = f"{MAX_LISTENERS} listen already"
            return PlainTextResponse(text, 503, {"Retry-After": "10"})
        return StreamingResponse(frames(), media_type="text/event-stream")


def _answering(part: Callable[[], Any]) -> Callable[[Request], Any]:
    async def answer(_request: Request) -> Response:
        return json_answer(part())

    return answer
