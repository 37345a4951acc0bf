"""Gateway processes that begin at once: forks of a process that has imported the gateway already."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

_FORK_SERVER = multiprocessing.get_context("forkserver")
# What `gateway run` imports, now or later.
_FORK_SERVER.set_forkserver_preload(
    [
        *("gateway.cli.run", "gateway.app.web", "gateway.http.site", "uvicorn.loops.asyncio"),
        "uvicorn.protocols.http.h11_impl",
    ]
)


class ForkedGateway:
    """`gateway ARGS…` as a process of its own, with those methods of `subprocess.Popen` that tests use.

    To start a Python and to import the gateway takes half a second of a processor, a fork some milliseconds.
    """

    def __init__(self, args: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._process = _FORK_SERVER.Process(
            target=_run, args=(tuple(args), log, dict(environment)), daemon=True
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise TimeoutError(f"process {self.pid} still runs after {timeout} s")
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _run(args: tuple[str, ...], log: Path, environment: dict[str, str]) -> None:
    """Be `gateway ARGS…`: its output goes to the end of `log`."""
    with log.open("ab") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv = ["gateway", *args]
    import_module("gateway.cli").main()
