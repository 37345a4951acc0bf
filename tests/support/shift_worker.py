"""Starts, kills and checks the process that `shift_process.py` is, and keeps what the world outside knows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

from gateway.buffer.proof.balance import audit
from gateway.buffer.repair.recovery import WHOLE
from tests.support.places import ROOT
from tests.support.shift import (
    FILE,
    PATIENCE_S,
    Sent,
    Settled,
    Shift,
    Stored,
    Synchronous,
    contents,
    missing,
    what_was_sent,
)

PROGRAM = "tests.support.shift_process"


class Broker:
    """What the world outside knows: what it has sent, and what came back."""

    def __init__(self) -> None:
        self.notes: list[object] = []
        self.sent = 0
        self._powerless = False

    def lose_power(self) -> None:
        """Where the machine has no power, no acknowledgement leaves it any more.

        A process under a file system that is shut down lives on, and ext4 may tell it that an fsync succeeded
        which the shutdown has overtaken: the journal of that moment is thrown away, and the file ends at the
        commit before.
        """
        self._powerless = True

    @property
    def acknowledged(self) -> int:
        """All messages before this one are acknowledged; a broker delivers the others again, in order."""
        return max((note.numbers[-1] + 1 for note in self.notes if isinstance(note, Stored)), default=0)

    def hear(self, line: list[Any]) -> None:
        match line:
            case ["sent", int(messages)]:
                self.sent = max(self.sent, messages)
                self.notes.append(Sent(messages))
            case ["stored", *numbers] if not self._powerless:
                self.notes.append(Stored(tuple(numbers)))
            case ["settled", *numbers]:
                self.notes.append(Settled(tuple(numbers)))


class Worker:
    """One life of the process; it ends with `kill`, or with the `with` at the latest."""

    def __init__(self, folder: Path, synchronous: Synchronous, seed: int, broker: Broker) -> None:
        numbers = [str(number) for number in (seed, broker.acknowledged, broker.sent)]
        self._broker = broker
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-B", "-m", PROGRAM, str(folder), synchronous, *numbers],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,))
        self._listener.start()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def wait_ready(self) -> None:
        assert self._ready.wait(PATIENCE_S), "the process does not start"
        assert self._process.poll() is None, "the process ended by itself"

    def kill(self) -> None:
        """End it with SIGKILL, and hear what it still said."""
        self._process.kill()
        self._process.wait(PATIENCE_S)
        self._listener.join(PATIENCE_S)

    def _listen(self, output: IO[bytes]) -> None:
        with output:
            for line in output:
                if line == b'["ready"]\n':
                    self._ready.set()
                elif line.endswith(b"\n"):  # the last one may be cut off: that was never said
                    self._broker.hear(json.loads(line))


def check(folder: Path, copy: Path, broker: Broker, synchronous: Synchronous = "full") -> frozenset[int]:
    """Start on a copy of what was left, and compare with what the world outside knows.

    Returns the acknowledged messages that are missing; fails on whatever else is wrong.
    """
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for suffix in ("", "-wal", ".mark"):
        file = folder / (FILE + suffix)
        if file.exists():
            shutil.copyfile(file, copy / file.name)
    shift = Shift(copy, synchronous)
    with shift.running() as writer:
        writer.call(lambda _: None)
        here = contents(shift.reader)  # fails on what is there twice
        assert audit(shift.reader).problems == ()
    assert shift.recovery == WHOLE, "a crash was taken for damage"
    assert shift.opening.lost == "", "a crash was taken for a loss"
    assert all(sent == what_was_sent(number) for number, sent in here.items())
    return missing(broker.notes, here)
