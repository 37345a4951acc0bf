"""`python -m tests.support.lone_writer BUFFER RULE`: a commit whose fsync fails, with no reader."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from gateway.buffer.store import Store
from gateway.buffer.writer import Do, Writer
from tests.support.buffers import events

FAILURES = 2


def main(path: str, rule: str) -> None:
    store = Store(Path(path))
    store.open()
    writer = Writer(store)
    writer.start()
    writer.call(lambda store: store.append(events(5)))
    Path(rule).write_text("fsync 5")
    writer.submit(Do(lambda store: store.append(events(3, "t/b"))))
    while writer.metrics.failures < FAILURES:
        time.sleep(0.01)
    Path(rule).write_text("sound")
    writer.call(lambda _: None)
    assert writer.stop()
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
