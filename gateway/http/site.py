"""The site that the HTTP server serves: the dashboard, the API, /metrics, and health for supervisors."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gateway.buffer.reader import ReadError
from gateway.http.access import Access
from gateway.http.alarms import AlarmsApi
from gateway.http.answers import json_answer
from gateway.http.api import Api
from gateway.http.assets import Assets
from gateway.http.bodies import read_body
from gateway.http.clock import clock_status, device_clocks
from gateway.http.connections import BoundedProtocol, RestingServer
from gateway.http.courses import CoursesApi
from gateway.http.devices import DevicesApi
from gateway.http.guard import COOKIE, Guard, address_of, too_many_guesses
from gateway.http.guesses import Guesses
from gateway.http.history import HistoryApi
from gateway.http.late_reader import unreadable
from gateway.http.live import Live
from gateway.http.metrics import GatewayCollector
from gateway.http.queries import BadQueryError, refusal
from gateway.http.results import Results
from gateway.http.settings import SettingsApi
from gateway.http.state import State
from gateway.http.tail import TailApi
from gateway.http.units import Units
from gateway.http.window_keys import WindowKeysApi
from gateway.status.gateway_status import GatewayStatus

ROOMS = ("devices", "windows", "alarms", "buffer", "messages", "configuration")
"""Paths of the page beside `/`, the overview: all are the same file, which shows the room of its address."""
_GRACE_S = 2  # for unfinished answers when it stops
_SESSION_S = 30 * 24 * 3600


class Site:
    """Everything that is served, on the thread that calls `serve`. It writes nothing itself: changes of
    alarms are commands to the writer."""

    def __init__(self, status: GatewayStatus, access: Access) -> None:
        self._access = access
        self._guesses = Guesses()
        self._assets = Assets()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._status = status
        self._results = Results(status.buffer_path)
        self._state = State(status, self._results)
        self._live = Live(self._state, self._results)
        self._past = HistoryApi(status)
        units = Units(route.spec for route in status.pipeline.intake.routes.routes)
        self._courses = CoursesApi(status, self._past, units)
        self._alarms = AlarmsApi(status)
        self._devices = DevicesApi(status, self._results, self._alarms, self._live.refresh, units)
        self._settings = SettingsApi(status)
        self._tail = TailApi(status)
        self._window_keys = WindowKeysApi(status, self._results, self._live.refresh)
        self._registry = CollectorRegistry()
        self._registry.register(GatewayCollector(status))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._server = RestingServer(
            uvicorn.Config(
                self._app(),
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                http=BoundedProtocol,
                ws="none",  # or it imports `websockets` where that is installed; the page has no use for it
                timeout_graceful_shutdown=_GRACE_S,
            )
        )

    def serve(self, listening: socket.socket) -> None:
        """Answer those who connect, until `leave`."""
        self._server.run([listening])

    def leave(self) -> None:
        """End soon; from any thread, also before `serve`."""
        self._server.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop may have ended by itself
                self._loop.call_soon_threadsafe(self._let_go)

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self._page),
                *(Route(f"/{room}", self._page) for room in ROOMS),
                Route("/login", self._login_page, methods=["GET"]),
                Route("/login", self._login, methods=["POST"]),
                Route("/assets/{name}", self._asset),
                Route("/metrics", self._metrics),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Route("/clock", self._clock),
                Route("/clock/devices", self._clock_devices),
                *Api(
                    self._state,
                    self._results,
                    self._live,
                    self._past,
                    self._devices,
                ).routes(),
                Route("/api/course", self._courses.course),
                Route("/api/windows/keys", self._window_keys.keys),
                *self._alarms.routes(),
                Route("/api/messages", self._tail.messages),
                Route("/api/explain", self._tail.explain),
                Route("/api/configuration", self._settings.configuration),
            ],
            exception_handlers={BadQueryError: refusal, ReadError: unreadable},
            middleware=[Middleware(Guard, access=self._access, guesses=self._guesses)],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        sampling = asyncio.create_task(self._live.run())
        yield
        sampling.cancel()
        with suppress(asyncio.CancelledError):
            await sampling
        self._results.close()
        self._past.close()
        self._courses.close()
        self._tail.close()

    def _let_go(self) -> None:
        self._server.leave()
        self._tail.leave()
        self._closing = asyncio.ensure_future(self._live.close())

    # --- endpoints, all of them on the loop: there is no other thread ---

    async def _page(self, request: Request) -> Response:
        return self._assets.answer(request, "index.html")

    async def _asset(self, request: Request) -> Response:
        return self._assets.answer(request, request.path_params["name"])

    async def _login_page(self, request: Request) -> Response:
        return self._assets.answer(request, "login.html")

    async def _login(self, request: Request) -> Response:
        """Turn the token into a cookie. Only a same-site form can: the cookie is for this site alone."""
        address, now_s = address_of(request.scope), time.monotonic()
        token = parse_qs((await read_body(request)).decode(errors="replace")).get("token", [""])[0]
        if wait_s := self._guesses.wait_s(address, now_s):
            return too_many_guesses(wait_s)
        if not self._access.admits(token):
            self._guesses.note_wrong(address, token, now_s)
            return RedirectResponse("/login?wrong", 303)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, self._access.cookie, _SESSION_S, httponly=True, samesite="strict")
        return answer

    async def _metrics(self, _request: Request) -> Response:
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    async def _healthz(self, _request: Request) -> Response:
        return _answer([*self._status.health(), *self._live.problems()])

    async def _readyz(self, _request: Request) -> Response:
        return _answer([*self._status.readiness(), *self._live.problems()], progress=self._state.progress())

    async def _clock(self, _request: Request) -> Response:
        return json_answer(clock_status(self._status))

    async def _clock_devices(self, _request: Request) -> Response:
        return json_answer(device_clocks(self._status))


def _answer(problems: list[str], **more: Any) -> Response:
    """200 when there are no problems, else 503 with each of them in a sentence."""
    status = "unavailable" if problems else "ok"
    return json_answer({"status": status, "problems": problems, **more}, 503 if problems else 200)
