"""The way to a running gateway for commands of the same machine: a Unix socket in the data directory.

One request and its answers per connection, each a line of JSON. A request is `{"do": NAME, …}`; answers are
any number of `{"done": n, "total": n}`, then one `{"result": {…}}` or `{"error": text, "hint": text}`.
Only the gateway's own user may connect (mode 0600). One request is worked on at a time; a client that goes
away ends its own at the next step.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from gateway.core.errors import ControlError, GatewayError
from gateway.core.threads import RoleThread

log = logging.getLogger(__name__)

SOCKET_FILE = "control.sock"
REQUEST_BYTES = 1024 * 1024  # some 25,000 event ids
ANSWER_BYTES = 4 * 1024 * 1024  # a support bundle asks for the last lines of the log
_CLIENT_PATIENCE_S = 5.0  # to send its request, and to take an answer
_SERVER_PATIENCE_S = 60.0  # between two answers; it may be busy with another request

Report = Callable[[int, int], None]
Operation = Callable[[Mapping[str, Any], Report], Mapping[str, Any]]
"""Gets the request and where to report progress, returns the result. Its GatewayErrors go to the client."""


class ControlServer:
    """Runs `gateway.control`. It changes nothing itself: operations are commands to the writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stopping = threading.Event()
        self.thread = RoleThread("control", self._run)

    def start(self, operations: Mapping[str, Operation]) -> None:
        """Listen, for requests that name one of `operations`.

        Call it while holding the data directory's lock: the socket of a dead gateway is replaced.

        Raises OSError, also for a path that is too long for a socket (107 bytes).
        """
        self._operations = operations
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.unlink(missing_ok=True)
            self._listener.bind(str(self._path))
            self._path.chmod(0o600)  # no client can have connected: it does not listen yet
            self._listener.listen()
            self._listener.settimeout(_CLIENT_PATIENCE_S)  # a client may go before it is accepted
        except OSError:
            self._close()
            raise
        self.thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End what is being worked on at its next step, and the thread."""
        self._stopping.set()
        self._wake_sender.send(b"!")
        self.thread.join(timeout_s)
        self._path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        for one in (self._listener, self._wake_receiver, self._wake_sender):
            one.close()

    # --- the thread ---

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake_receiver, selectors.EVENT_READ)
            while True:
                selector.select()
                if self._stopping.is_set():
                    return
                try:
                    self._serve_next()
                except OSError as exc:
                    log.warning("a client of %s went away: %s", self._path, exc)

    def _serve_next(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as lines:
            connection.settimeout(_CLIENT_PATIENCE_S)

            def answer(line: Mapping[str, Any]) -> None:
                connection.sendall(orjson.dumps(line) + b"\n")

            def report(done: int, total: int) -> None:
                if self._stopping.is_set():
                    raise ControlError("the gateway is stopping; what is done so far stays done")
                answer({"done": done, "total": total})

            answer(self._work(lines, report))

    def _work(self, lines: BinaryIO, report: Report) -> Mapping[str, Any]:
        try:
            request = _request(lines)
            name = str(request.get("do"))
            if name not in self._operations:
                raise ControlError(
                    f"this gateway cannot do {name!r}", hint="does the gateway run another version?"
                )
            log.info("asked to %s: %s", name, {key: value for key, value in request.items() if key != "do"})
            return {"result": self._operations[name](request, report)}
        except GatewayError as exc:
            return {"error": str(exc), "hint": exc.hint}
        except OSError:
            raise
        except Exception as exc:
            # The thread's border: whatever an operation raises must not end it.
            log.exception("what a client asked for failed")
            return {"error": f"it failed: {exc!r}", "hint": "the gateway's log says more"}


def ask(path: Path, request: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Have the gateway behind the socket `path` do something; returns its result.

    Raises ControlError when it does not answer, or says that it could not.
    """
    line = orjson.dumps(request) + b"\n"
    if len(line) > REQUEST_BYTES:
        raise ControlError(
            f"the request has {len(line)} bytes, more than {REQUEST_BYTES}", hint="ask for less"
        )
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_SERVER_PATIENCE_S)
            connection.connect(os.fspath(path))
            connection.sendall(line)
            with connection.makefile("rb") as lines:
                return _result(lines, report)
    except TimeoutError as exc:
        raise ControlError(
            f"the gateway did not answer within {_SERVER_PATIENCE_S:g} s",
            hint="it may be at work for another command, or its disk may be full: see its log",
        ) from exc
    except OSError as exc:
        raise ControlError(
            f"the gateway that runs on {path.parent} cannot be asked: {path.name}: {exc.strerror or exc}",
            hint="it may be starting; run the command as the user that it runs as, or stop the gateway first",
        ) from exc


def _request(lines: BinaryIO) -> dict[str, Any]:
    request = _line(lines, REQUEST_BYTES)
    if not isinstance(request, dict):
        raise ControlError("a request is a JSON object")
    return request


def _result(lines: BinaryIO, report: Report) -> Mapping[str, Any]:
    while isinstance(found := _line(lines, ANSWER_BYTES), dict):
        if "result" in found:
            result: Mapping[str, Any] = found["result"]
            return result
        if "error" in found:
            raise ControlError(str(found["error"]), hint=str(found.get("hint", "")))
        report(int(found.get("done", 0)), int(found.get("total", 0)))
    raise ControlError("the gateway's answer cannot be read", hint="does the gateway run another version?")


def _line(lines: BinaryIO, limit_bytes: int) -> Any:
    line = lines.readline(limit_bytes + 1)
    if not line.endswith(b"\n"):
        problem = "is too long" if len(line) > limit_bytes else "ends in the middle"
        raise ControlError(f"what came from the other side {problem}", hint="what was done so far stays done")
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise ControlError(f"what came from the other side is no JSON: {exc}") from exc
