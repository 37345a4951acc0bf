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
from tests.support.gateways import wait_until
from tests.support.stub_broker import SILENCE, SUBSCRIBE, StubBroker, suback

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


def test_a_receiver_listens_once_the_broker_has_granted_its_subscriptions(tmp_path: Path) -> None:
    sink = EventFile(tmp_path / "events.ndjson")
    receiver = Receiver("gateway", "+", sink, resume(sink))
    broker = StubBroker(lambda packet: SILENCE if packet.kind == SUBSCRIBE else None)
    link = Link("receive", Endpoint("127.0.0.1", broker.port, "receive"), receiver)
    with broker.running():
        link.start()
        try:
            wait_until(lambda: broker.of(SUBSCRIBE), "the subscription")
            assert link.connected
            assert not receiver.listening
            asked = broker.of(SUBSCRIBE)[0]
            broker.send_all(suback(asked, *[1] * len(asked.filters)).data)
            wait_until(lambda: receiver.listening, "the grant")
            broker.drop_all()
            wait_until(lambda: not receiver.listening, "the end of the connection")
        finally:
            link.stop()
            sink.close()
