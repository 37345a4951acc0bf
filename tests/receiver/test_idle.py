"""When the receiver counts as idle, which is when `gateway receive --once` ends."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.link import Link
from gateway.receiver.session import Receiver
from gateway.receiver.sinks.ndjson import EventFile
from gateway.receiver.sinks.sink import Received, resume

WAIT_S = 30.0


class SlowFile(EventFile):
    """Writes nothing until it may."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.began, self.may_go_on = threading.Event(), threading.Event()

    def write(self, events: Sequence[Received]) -> int:
        self.began.set()
        assert self.may_go_on.wait(WAIT_S)
        return super().write(events)


def test_a_receiver_that_writes_for_long_is_not_idle(tmp_path: Path) -> None:
    sink = SlowFile(tmp_path / "events.ndjson")
    receiver = Receiver("gateway", "+", sink, resume(sink))
    link = Link("receive", Endpoint("127.0.0.1", 9, "receive"), receiver)
    writing = threading.Thread(target=receiver.received, args=(link, []))
    writing.start()
    try:
        assert sink.began.wait(WAIT_S)
        assert receiver.quiet_s() == 0
        sink.may_go_on.set()
        writing.join(WAIT_S)
        assert receiver.quiet_s() > 0
    finally:
        sink.may_go_on.set()
        writing.join(WAIT_S)
        link.stop()
        sink.close()
