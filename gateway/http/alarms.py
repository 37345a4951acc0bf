"""Alarms over HTTP: the list, and the only things that can be changed here: acknowledge and clear."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway.alarms.register import as_json
from gateway.alarms.requests import ACTIONS, SHOWS, change_alarms, counts, listed
from gateway.buffer.store import Store
from gateway.buffer.writer import Command
from gateway.core.errors import AlarmError
from gateway.http.answers import json_answer
from gateway.http.bodies import read_body
from gateway.http.queries import one_of, rows_wanted
from gateway.status.gateway_status import GatewayStatus

LISTED, MOST_LISTED = 200, 2000
_ANSWER_WITHIN_S = 10.0


class AlarmsApi:
    """`/api/alarms`, `/api/alarms/acknowledge` and `/api/alarms/clear`, on the HTTP server's loop."""

    def __init__(self, status: GatewayStatus) -> None:
        self._status = status

    def routes(self) -> list[Route]:
        changing = [
            Route(f"/api/alarms/{action}", partial(self._change, action=action), methods=["POST"])
            for action in ACTIONS
        ]
        return [Route("/api/alarms", self._list), *changing]

    def per_key(self) -> Counter[str]:
        """Return the number of alarms that are on, by key."""
        return Counter(row.key for row in listed(self._status.alarms))

    async def _list(self, request: Request) -> Response:
        """`?state=on|all|active|acknowledged|cleared&window=&search=&offset=&limit=`."""
        query = request.query_params
        show, window = one_of(query, "state", SHOWS), query.get("window")
        wanted = rows_wanted(query, LISTED, MOST_LISTED)
        rows, part = self._status.alarms, query.get("search", "").casefold()
        found = [
            row
            for row in listed(rows, show)
            if window in (None, row.window) and part in f"{row.window} {row.key}".casefold()
        ]
        return json_answer(
            {
                "time_ms": self._status.clock.now_ms(),
                "counts": counts(rows),
                "notifications": {
                    "waiting": self._status.waiting_notifications,
                    "targets": [
                        {"name": target.name, "problem": target.problem}
                        for target in self._status.notify_targets
                    ],
                },
                "found": len(found),
                "alarms": [as_json(row) for row in found[wanted]],
            }
        )

    async def _change(self, request: Request, *, action: str) -> Response:
        """A POST of JSON; see `alarms.requests`."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return PlainTextResponse("Send JSON, with Content-Type: application/json.", 415)
        try:
            body = orjson.loads(await read_body(request))
        except orjson.JSONDecodeError:
            body = None
        if not isinstance(body, dict):
            return PlainTextResponse('Send a JSON object, such as {"window": …, "key": …, "by": …}.', 400)
        register = self._status.pipeline.alarms
        done = _Done(partial(change_alarms, register, action, body, "http"), asyncio.get_running_loop())
        self._status.writer.submit(done)
        try:
            return json_answer(await asyncio.wait_for(done.outcome, _ANSWER_WITHIN_S))
        except AlarmError as exc:
            return PlainTextResponse(str(exc), 409)
        except TimeoutError:
            text = "The disk takes nothing right now; it is done as soon as it does."
            return PlainTextResponse(text, 503, {"Retry-After": "10"})


class _Done(Command):
    """A change that a coroutine waits for."""

    urgent = True

    def __init__(self, change: Callable[[Store], dict[str, Any]], loop: asyncio.AbstractEventLoop) -> None:
        self.outcome: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._change = change
        self._loop = loop
        self._result: dict[str, Any] = {}

    def apply(self, store: Store) -> None:
        self._result = self._change(store)

    def committed(self) -> None:
        self._tell(lambda: self.outcome.set_result(self._result))

    def failed(self, error: Exception) -> None:
        self._tell(lambda: self.outcome.set_exception(error))

    def _tell(self, settle: Callable[[], None]) -> None:
        """On the writer's thread; the loop may have ended, or nobody waits any more."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(lambda: None if self.outcome.done() else settle())
