"""`python lone_writer.py BUFFER RULE`: a commit whose fsync fails, while nobody else has the file open."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from buffers import events

from gateway.buffer.store import Store
from gateway.buffer.writer import Do, Writer

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
