"""A TCP line to a broker that can be cut and mended: the outages of the demo and of tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.host.ports import free_port
from gateway.mqtt.loop_thread import LoopThread

_CHUNK_BYTES = 64 * 1024
_ONE_WAY_S = 0.2  # how long a cut line still carries what goes up, but no answers


class FaultProxy:
    """Carries bytes between `host:port` and a broker at `to_host:to_port`, both ways, while it is up.

    When it is cut, the answers are lost first and the connections close shortly after: the nastiest kind
    of outage, after which what has arrived is sent again. `mend` opens it again on the same port.
    """

    def __init__(self, to_host: str, to_port: int, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.port = port or free_port(host)
        self._target = (to_host, to_port)
        self._thread = LoopThread("line", self._serving)
        self._answers = True
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def up(self) -> bool:
        return self._thread.running

    def mend(self) -> None:
        """Return once connections are taken. Raises BrokerError when the port is in use."""
        self._answers = True
        self._thread.start()

    def cut(self) -> None:
        """Return once all connections are closed."""
        self._answers = False
        self._thread.stop()

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._connected, self.host, self.port)
        try:
            yield
        finally:
            server.close()
            await asyncio.sleep(_ONE_WAY_S)
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._carry(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        there = asyncio.ensure_future(self._pump(reader, far_writer, answers=False))
        back = asyncio.ensure_future(self._pump(far_reader, writer, answers=True))
        try:
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in (there, back):
                pump.cancel()
            for end in (writer, far_writer):
                end.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        try:
            while data := await reader.read(_CHUNK_BYTES):
                if self._answers or not answers:
                    writer.write(data)
                    await writer.drain()
        except ConnectionError:
            return  # the other side closes, and so do we
