"""The HTTP server: /metrics for Prometheus, /healthz and /readyz for whoever supervises the process."""

from __future__ import annotations

import socket
import threading

import uvicorn
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.errors import GatewayError
from gateway.http.metrics import GatewayCollector
from gateway.http.view import GatewayView


class HttpServer:
    """Serves one gateway, on a thread `gateway.http`. It only reads."""

    def __init__(self, gateway: GatewayView, host: str, port: int) -> None:
        self._gateway = gateway
        self._address = (host, port)
        self._registry = CollectorRegistry()
        self._registry.register(GatewayCollector(gateway))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._server = uvicorn.Server(
            uvicorn.Config(self._app(), log_config=None, access_log=False, lifespan="off")
        )

    def start(self) -> None:
        """Listen. Raises GatewayError when the address cannot be had."""
        try:
            family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
            self._socket = socket.create_server(self._address, family=family)
        except OSError as exc:
            host, port = self._address
            raise GatewayError(
                f"http.listen {host}:{port} cannot be had: {exc.strerror}",
                hint="choose another address, or `http: off`",
            ) from exc
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="gateway.http", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(5.0)
        self._socket.close()

    @property
    def port(self) -> int:
        """The port it listens on, also where the configuration said 0."""
        return int(self._socket.getsockname()[1])

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/metrics", self._metrics),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
            ]
        )

    def _metrics(self, _request: Request) -> Response:
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def _healthz(self, _request: Request) -> Response:
        return _answer(self._gateway.health())

    def _readyz(self, _request: Request) -> Response:
        return _answer(self._gateway.readiness())


def _answer(problems: list[str]) -> Response:
    """200 when there are no problems, else 503 with each of them in a sentence."""
    status = "unavailable" if problems else "ok"
    return JSONResponse({"status": status, "problems": problems}, 503 if problems else 200)
