"""The HTTP server's address and thread.

The web server itself is loaded for the first who connects: on a small box nobody may look for weeks, and it
takes 8 MB and a sixth of the start.
"""

from __future__ import annotations

import selectors
import socket
import threading
from typing import TYPE_CHECKING

from gateway.core.errors import GatewayError
from gateway.core.threads import RoleThread
from gateway.http.access import Access

if TYPE_CHECKING:
    from gateway.http.site import Site
    from gateway.status.gateway_status import GatewayStatus


class HttpServer:
    """Serves one gateway, on a thread `gateway.http`."""

    def __init__(self, host: str, port: int, access: Access) -> None:
        self.thread = RoleThread("http", self._run)
        self._address = (host, port)
        self._access = access
        self._socket: socket.socket | None = None
        self._site: Site | None = None
        self._stopping = False
        self._changes = threading.Lock()  # of the two above: who stops may meet a site that is being loaded
        self._wake_receiver, self._wake_sender = socket.socketpair()

    def listen(self) -> None:
        """Take the address. Raises GatewayError when it is taken or not ours."""
        host, port = self._address
        try:
            self._socket = socket.create_server(
                self._address, family=socket.AF_INET6 if ":" in host else socket.AF_INET
            )
        except OSError as exc:
            raise GatewayError(
                f"cannot listen on http.listen {host}:{port}: {exc.strerror}",
                hint="choose another address, or `http: off`",
            ) from exc

    def start(self, status: GatewayStatus) -> None:
        """Show `status` to those who connect; `listen` comes first."""
        self._status = status
        self.thread.start()

    def stop(self) -> None:
        with self._changes:
            self._stopping = True
        if self._site is not None:
            self._site.leave()
        self._wake_sender.send(b"x")
        self.thread.join(5.0)
        for each in (self._socket, self._wake_receiver, self._wake_sender):
            if each is not None:
                each.close()

    @property
    def port(self) -> int:
        """The port it listens on, also where the configuration said 0."""
        return int(self._listening.getsockname()[1])

    @property
    def _listening(self) -> socket.socket:
        if self._socket is None:
            raise RuntimeError("listen first")
        return self._socket

    def _run(self) -> None:
        self._wait_for_somebody()
        if self._stopping:
            return
        from gateway.http.site import Site  # noqa: PLC0415 - see the module's first lines

        site = Site(self._status, self._access)
        with self._changes:
            if self._stopping:
                return
            self._site = site
        site.serve(self._listening)

    def _wait_for_somebody(self) -> None:
        """Wait until somebody connects, or `stop`. The connection itself stays in the queue."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listening, selectors.EVENT_READ)
            selector.register(self._wake_receiver, selectors.EVENT_READ)
            selector.select()
