"""The keys of a window with their last results, searched and cut by the gateway."""

from __future__ import annotations

from collections.abc import Callable

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from gateway.http.answers import json_answer
from gateway.http.queries import rows_wanted
from gateway.http.results import KEPT_KEYS, Results
from gateway.status.gateway_status import GatewayStatus

LISTED, MOST_LISTED = 50, 500


class WindowKeysApi:
    """`/api/windows/keys`, on the HTTP server's loop."""

    def __init__(self, status: GatewayStatus, results: Results, refresh: Callable[[], None]) -> None:
        self._status = status
        self._results = results
        self._refresh = refresh

    async def keys(self, request: Request) -> Response:
        """`?window=&search=&offset=&limit=`: its keys by name, each with its current result."""
        query = request.query_params
        name, part = query.get("window", ""), query.get("search", "").casefold()
        if name not in {spec.name for spec in self._status.window_specs}:
            return PlainTextResponse(f"no window is named {name!r}", 404)
        wanted = rows_wanted(query, LISTED, MOST_LISTED)
        self._refresh()
        last = self._results.last_of(name)
        chosen = sorted(key for key in last if part in key.casefold())
        return json_answer(
            {
                "time_ms": self._status.clock.now_ms(),
                "known": len(last),
                "found": len(chosen),
                "kept": KEPT_KEYS,
                "left_out": self._results.left_out_of(name) > 0,
                "results": [orjson.Fragment(last[key]) for key in chosen[wanted]],
            }
        )
