"""Connections of the HTTP server: bounded in number, and closed when they keep it waiting.

uvicorn waits for ever for the first request of a connection, and answers 503 to every client once there are
many connections, health included. Here a connection without a request makes way for the next one.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 200
REQUEST_WITHIN_S = 10.0


class BoundedProtocol(H11Protocol):
    """A connection. Closed if a whole request head does not arrive within REQUEST_WITHIN_S."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._waits_since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request. Beyond MAX_CONNECTIONS the one that has waited longest makes room."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > MAX_CONNECTIONS:
            idle = [one for one in cast(set[BoundedProtocol], self.connections) if not one.at_work]
            min(idle, key=lambda one: one._waits_since_s, default=self).close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.at_work:
            self._stop_waiting()
        elif self._timer is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    @property
    def at_work(self) -> bool:
        """True while a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def close(self) -> None:
        """Close the connection at once; it counts no longer."""
        self.connections.discard(self)
        self.transport.abort()

    def _wait(self) -> None:
        self._waits_since_s = self.loop.time()
        self._timer = self.loop.call_later(REQUEST_WITHIN_S, self._expire)

    def _expire(self) -> None:
        if not self.at_work:
            self.close()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class RestingServer(uvicorn.Server):
    """uvicorn's server wakes up ten times a second to see whether it should end; this one is told."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """End soon; on the loop."""
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        """Once a second only: a tick also sets the date of the answers. Its counter counts tenths."""
        counter = 0
        while not await self.on_tick(counter):
            counter += _TICKS_PER_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), 1.0)


_TICKS_PER_S = 10
