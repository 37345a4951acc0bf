"""A TCP line to a broker that can be slow, late or cut, and that can lose PUBACKs."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from gateway.mqtt.loop_thread import LoopThread
from tests.support.ports import free_port

_CHUNK_BYTES = 64 * 1024
_PUBACK = 4


class FaultyLine:
    """Carries bytes from 127.0.0.1:`port` to a broker. What is set on it holds from the next byte on.

    - `holds`: nothing goes up
    - `lose_pubacks`: answers to publishes do not come back; how many it lost is in `lost_pubacks`
    - `cut_after_bytes`: each connection ends once so much has gone up on it; `cuts` counts them
    - `delay_s`: every byte takes so long, in each direction
    - `rate_bytes_per_s`: of what goes up, per connection
    """

    def __init__(self, broker_port: int) -> None:
        self.port = free_port()
        self.holds = False
        self.lose_pubacks = False
        self.cut_after_bytes: int | None = None
        self.delay_s = 0.0
        self.rate_bytes_per_s: float | None = None
        self.lost_pubacks = self.cuts = self.up_bytes = self.connections = 0
        self._broker_port = broker_port
        self._thread = LoopThread("faulty-line", self._serving)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[FaultyLine]:
        self._thread.start()
        try:
            yield self
        finally:
            self._thread.stop()

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        # A small receive window: else the kernel would take in what a slow line has not carried yet.
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        listener.bind(("127.0.0.1", self.port))
        tasks: set[asyncio.Task[None]] = set()

        def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if not server.is_serving():
                writer.transport.abort()  # it came while the line ended
                return
            task = asyncio.ensure_future(self._carry(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(lambda _: writer.transport.abort())

        server = await asyncio.start_server(carry, sock=listener, limit=4096)
        try:
            yield
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for _ in range(3):
                await asyncio.sleep(0)  # an aborted transport closes its socket in the next round of the loop

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._broker_port)
        except OSError:
            return
        pumps = {
            asyncio.ensure_future(self._late(self._up(reader), far_writer)),
            asyncio.ensure_future(self._late(self._down(far_reader), writer)),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            far_writer.transport.abort()  # first: what waits may be cancelled
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _late(self, chunks: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> None:
        """Hand each chunk on `delay_s` after it came."""
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1000)

        async def deliver() -> None:
            while True:
                at_s, data = await due.get()
                await asyncio.sleep(max(0.0, at_s - time.monotonic()))
                writer.write(data)
                await writer.drain()
                due.task_done()

        delivery = asyncio.ensure_future(deliver())
        try:
            async for data in chunks:
                await due.put((time.monotonic() + self.delay_s, data))
            await due.join()
        except ConnectionError:
            return  # the other side closes, and so do we
        finally:
            delivery.cancel()

    async def _up(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        carried = 0
        while data := await reader.read(512 if self.rate_bytes_per_s else _CHUNK_BYTES):
            if self.cut_after_bytes is not None and carried + len(data) >= self.cut_after_bytes:
                yield data[: self.cut_after_bytes - carried]
                self.cuts += 1
                return
            carried += len(data)
            self.up_bytes += len(data)
            if self.rate_bytes_per_s:
                await asyncio.sleep(len(data) / self.rate_bytes_per_s)
            while self.holds:
                await asyncio.sleep(0.01)
            yield data

    async def _down(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """Packet by packet, so that single ones can be left out."""
        while True:
            try:
                first = await reader.readexactly(1)
                size, length = 0, b""
                while not length or length[-1] & 128:
                    length += await reader.readexactly(1)
                    size |= (length[-1] & 127) << 7 * (len(length) - 1)
                packet = first + length + await reader.readexactly(size)
            except asyncio.IncompleteReadError:
                return
            if self.lose_pubacks and first[0] >> 4 == _PUBACK:
                self.lost_pubacks += 1
            else:
                yield packet
