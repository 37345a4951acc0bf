"""A TCP line to a broker that can be cut and mended: the outages of the demo and of tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.mqtt.loop_thread import LoopThread, free_port

_CHUNK_BYTES = 64 * 1024
_DEAD_S = 0.2  # how long a cut line stays silent before its connections close


class Line:
    """Carries bytes between `host:port` and a broker at `to_host:to_port`, both ways, while it is up.

    When it is cut, what is under way is lost in both directions, acknowledgements too, and connections
    close shortly after. `mend` opens it again on the same port.
    """

    def __init__(self, to_host: str, to_port: int, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.port = port or free_port(host)
        self._target = (to_host, to_port)
        self._thread = LoopThread("gateway.line", self._serving)
        self._dead = False
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def up(self) -> bool:
        return self._thread.running

    def mend(self) -> None:
        """Return once connections are taken. Raises BrokerError when the port is in use."""
        self._dead = False
        self._thread.start()

    def cut(self) -> None:
        """Return once all connections are closed."""
        self._dead = True
        self._thread.stop()

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._connected, self.host, self.port)
        try:
            yield
        finally:
            server.close()
            await asyncio.sleep(_DEAD_S)
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
        there = asyncio.ensure_future(self._pump(reader, far_writer))
        back = asyncio.ensure_future(self._pump(far_reader, writer))
        try:
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in (there, back):
                pump.cancel()
            for end in (writer, far_writer):
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(_CHUNK_BYTES):
                if not self._dead:
                    writer.write(data)
                    await writer.drain()
        except ConnectionError:
            return  # the other side closes, and so do we
