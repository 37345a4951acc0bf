"""Thread with an asyncio server, for servers inside a threaded program."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

from gateway.core.errors import BrokerError
from gateway.core.threads import RoleThread


class LoopThread:
    """Runs what `serving()` sets up, in an event loop of its own, from `start` until `stop`.

    `serving` gives an asynchronous context manager: entering it opens the server, leaving it closes it.
    It can be started again after it was stopped.
    """

    def __init__(self, role: str, serving: Callable[[], AbstractAsyncContextManager[object]]) -> None:
        self._role = role
        self._serving = serving
        self.thread: RoleThread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._failure: BaseException | None = None

    @property
    def running(self) -> bool:
        return self.thread is not None

    def start(self) -> None:
        """Return once the server is open. Raises BrokerError when it cannot be opened."""
        if self.thread is not None:
            return
        opened = threading.Event()
        self._failure = None
        self.thread = RoleThread(self._role, partial(self._run, opened))
        self.thread.start()
        opened.wait()
        if self._failure is not None:
            self.stop()
            raise BrokerError(f"gateway.{self._role} cannot be started: {self._failure}") from self._failure

    def stop(self) -> None:
        """Close the server and wait for its thread; without effect when it is not running."""
        thread, self.thread = self.thread, None
        if thread is None:
            return
        if self._loop is not None and self._stopping is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)
        thread.join()
        self._loop = self._stopping = None

    def _run(self, opened: threading.Event) -> None:
        try:
            asyncio.run(self._serve(opened))
        except Exception as exc:
            if opened.is_set():
                raise
            self._failure = exc  # start() raises it again, in the caller's thread
        finally:
            opened.set()

    async def _serve(self, opened: threading.Event) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        async with self._serving():
            opened.set()
            await self._stopping.wait()
