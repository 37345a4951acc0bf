"""The HTTP server as a part."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.app.part import Part
from gateway.config.service_models import Http
from gateway.core.threads import HasThread
from gateway.http.access import Access
from gateway.http.server import HttpServer
from gateway.status.gateway_status import GatewayStatus


class HttpPart(Part):
    """`gateway.http`: the page, the API, metrics and health."""

    def __init__(self, http: Http) -> None:
        token = http.token.get_secret_value() if http.token else None
        access = Access(token, frozenset(host.lower() for host in http.hosts))
        self._server = HttpServer(*http.listen, access)

    def claim(self) -> None:
        self._server.listen()

    def start(self, status: GatewayStatus) -> None:
        self._server.start(status)

    def stop(self) -> None:
        self._server.stop()

    @property
    def workers(self) -> Sequence[HasThread]:
        return (self._server,)
