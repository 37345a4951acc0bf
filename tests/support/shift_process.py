"""`python -m tests.support.shift_process FOLDER SYNCHRONOUS SEED ACKNOWLEDGED SENT`: works until killed.

The messages ACKNOWLEDGED to SENT come first, as the broker delivers again what it has no PUBACK for. Each
line on the standard output is one thing of which the world outside knows from then on.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

from tests.support.shift import Marked, Sent, Settled, Shift, Stored

_OUTPUT = 1


def say(what: object) -> None:
    """One write of one line, which a `kill -9` cannot take back."""
    match what:
        case Sent(messages):
            line: list[object] = ["sent", messages]
        case Stored(numbers) | Settled(numbers):
            line = [type(what).__name__.lower(), *numbers]
        case Marked():
            return
        case _:
            line = [what]
    os.write(_OUTPUT, json.dumps(line).encode() + b"\n")


def main(folder: str, synchronous: str, seed: str, acknowledged: str, sent: str) -> None:
    assert synchronous in ("full", "normal")
    shift = Shift(Path(folder), "full" if synchronous == "full" else "normal", say)
    with shift.running() as writer:
        say("ready")
        again = range(int(acknowledged), int(sent))
        if again:
            writer.submit(shift.take_in(again, dup=True))
        chance, count = random.Random(seed), int(sent)
        while True:
            count = shift.work(chance, 10, count)


if __name__ == "__main__":
    main(*sys.argv[1:])
