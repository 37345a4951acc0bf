"""Live data as server-sent events: one frame a second, made once for all who listen.

A slow reader misses frames instead of piling them up: each listener takes the newest frame when its
connection has room again. A frame has a number, so a program that sees a hole asks anew; a page gets
everything instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import orjson

from gateway.buffer.reader import ReadError
from gateway.core.errors import plain_reason
from gateway.http.page_feed import PageFeed
from gateway.http.results import AT_ONCE, Results
from gateway.http.state import State

log = logging.getLogger(__name__)

MAX_LISTENERS = 32
FRAME_EVERY_S = 1.0


class Live:
    """Sends the state to the listeners once a second, on the HTTP server's loop."""

    def __init__(self, state: State, results: Results) -> None:
        self.listeners = 0
        """Open streams: programs and pages."""
        self._programs = 0
        self._pages = 0
        self._page = PageFeed(self._parts)
        self._state = state
        self._results = results
        self._number = 0
        self._frame = b""
        self._fresh: deque[dict[str, Any]] = deque(maxlen=AT_ONCE)  # results that no frame has had yet
        self._turn = asyncio.Condition()
        self._closed = False
        self._problem = ""

    async def run(self) -> None:
        """Until `close`."""
        while not self._closed:
            self._turn_once()
            async with self._turn:
                self._turn.notify_all()
            await asyncio.sleep(FRAME_EVERY_S)

    def _turn_once(self) -> None:
        try:
            if self.listeners:
                self.refresh()
            if self._programs:
                self._frame = self._make_frame(self._number + 1)
                self._number += 1
            if self._pages:
                self._page.turn()
        except Exception as exc:  # the loop's border: whatever it is, the next second is another try
            if not self._problem:
                log.exception("live data cannot be made")
            self._problem = plain_reason(exc)
        else:
            self._problem = ""

    def problems(self) -> list[str]:
        """Return why listeners get no frames right now."""
        return [f"live data cannot be made: {self._problem}"] if self._problem else []

    async def close(self) -> None:
        """Let every listener go."""
        self._closed = True
        async with self._turn:
            self._turn.notify_all()

    @property
    def has_room(self) -> bool:
        return self.listeners < MAX_LISTENERS and not self._closed

    async def listen(self) -> AsyncIterator[bytes]:
        """The frames for one program, from now on: the whole state and the new results."""
        self.listeners += 1
        self._programs += 1
        seen = self._number
        try:
            yield b"retry: 2000\n\n"
            while not self._closed:
                async with self._turn:
                    await self._turn.wait()
                if self._number != seen:
                    seen = self._number
                    yield self._frame
        finally:
            self._programs -= 1
            self.listeners -= 1

    async def show(self) -> AsyncIterator[bytes]:
        """The frames for one page: everything at once, then what changes."""
        self.listeners += 1
        self._pages += 1
        if self._pages == 1:
            self.refresh()
            self._page.turn()
        seen = None
        try:
            yield b"retry: 2000\n\n"
            while not self._closed:
                number = self._page.number
                if number != seen:
                    yield (
                        self._page.changes if seen is not None and number == seen + 1 else self._page.whole()
                    )
                    seen = number
                async with self._turn:
                    await self._turn.wait()
        finally:
            self._pages -= 1
            self.listeners -= 1

    def refresh(self) -> None:
        """Take in what the windows gave since the last look, as far as the buffer can be read right now."""
        try:
            self._fresh.extend(self._results.refresh())
        except ReadError as exc:  # a full or failing disk: the page is needed most just then
            log.warning("the last results cannot be read: %s", exc)

    def _parts(self) -> dict[str, Any]:
        return self._state.page()

    def _make_frame(self, number: int) -> bytes:
        body = {"number": number, "results": [*self._fresh], **self._state.whole()}
        self._fresh.clear()
        return b"id: %d\nevent: state\ndata: %b\n\n" % (number, orjson.dumps(body))
