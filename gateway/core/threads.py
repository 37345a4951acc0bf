"""Threads that remember what ended them, so that health can say it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)


class RoleThread(threading.Thread):
    """The thread `gateway.<role>`: runs `loop` once, from `start` until it returns.

    It never keeps the process alive. An error that leaves the loop is logged with its traceback and kept.
    A `brief` one has a job that ends; of any other the end is a problem by itself.
    """

    def __init__(self, role: str, loop: Callable[[], object], *, brief: bool = False) -> None:
        super().__init__(name=f"gateway.{role}", daemon=True)
        self.role = role
        self.failure = ""
        """The error that ended the loop."""
        self._run_loop = loop
        self._brief = brief

    def run(self) -> None:
        """Run the loop, in the new thread."""
        try:
            self._run_loop()
        except BaseException as exc:
            # Whatever it is, also a SystemExit, only this thread ends, and health names it from now on.
            self.failure = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
            log.critical("the thread %s has ended by an error", self.name, exc_info=exc)

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end; not at all when it was never started."""
        if self.ident is not None:
            super().join(timeout)

    @property
    def problem(self) -> str:
        """Return why it has stopped; empty while it runs, and before its start."""
        if self.failure:
            return f"the thread {self.name} has ended: {self.failure}"
        if self._brief or self.ident is None or self.is_alive():
            return ""
        return f"the thread {self.name} has ended"


class HasThread(Protocol):
    """Something that works on a thread of its own, as long as there is one."""

    @property
    def thread(self) -> RoleThread | None: ...
