"""The `gateway` command, called in this process: to start one for each call takes a second."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

from gateway.cli import main


@dataclass(frozen=True)
class Done:
    """What a finished process would have left."""

    returncode: int
    stdout: str
    stderr: str


class _Output(io.TextIOWrapper):
    """A text stream with bytes below it, which a command may write and close as it may a terminal's."""

    def __init__(self) -> None:
        self._bytes = _Kept()
        super().__init__(self._bytes, "utf-8", write_through=True)

    def text(self) -> str:
        return str(self._bytes.content if self._bytes.closed else self._bytes.getvalue(), "utf-8")


class _Kept(io.BytesIO):
    content = b""

    def close(self) -> None:
        if not self.closed:
            self.content = self.getvalue()
        super().close()


def gateway(*args: object, answer: str = "") -> Done:
    """Run `gateway ARGS…` to its end, with `answer` on its standard input."""
    out, err = _Output(), _Output()
    argv = ["gateway", *map(str, args)]
    with (
        patch.object(sys, "argv", argv),
        patch.object(sys, "stdin", io.StringIO(answer)),
        redirect_stdout(out),
        redirect_stderr(err),
        _signals(),
    ):
        try:
            main()
            code: object = 0
        except SystemExit as end:
            code = end.code or 0
    assert isinstance(code, int), code
    return Done(code, out.text(), err.text())


@contextmanager
def _signals() -> Iterator[None]:
    """At the end, SIGINT and SIGTERM mean what they meant: a command that waits for them sets its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
