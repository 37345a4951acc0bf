"""What a service forbids can be switched off, and connections that it counts are made seldom."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

from tests.support.buffers import event
from tests.support.gateways import wait_until
from tests.support.sending import sending
from tests.support.stub_broker import CLOSE, CONNECT, PUBLISH, Answer, Packet, StubBroker


def test_attempts_to_connect_are_at_least_reconnect_min_apart(tmp_path: Path) -> None:
    came_s: list[float] = []

    def rule(packet: Packet) -> Answer | None:
        if packet.kind == CONNECT:
            came_s.append(time.monotonic())
            return CLOSE
        return None

    cloud = StubBroker(rule)
    where = {"reconnect_min_s": 0.3, "reconnect_max_s": 0.31}
    with cloud.running(), sending(tmp_path / "events.db", cloud.port, [], endpoint=where):
        wait_until(lambda: len(came_s) >= 4, "four attempts")
    assert min(after - before for before, after in pairwise(came_s)) >= 0.29


def test_without_retain_and_will_nothing_is_retained(tmp_path: Path) -> None:
    cloud = StubBroker()
    with (
        cloud.running(),
        sending(
            *(tmp_path / "events.db", cloud.port, [event("t/a", b"1")]),
            retain=False,
            status_topic="gateway/g1/status",
        ) as sender,
    ):
        sender.wait_drained()
    assert cloud.of(CONNECT)[0].will_topic is None
    assert cloud.of(PUBLISH, "/status")
    assert not any(packet.retain for packet in cloud.of(PUBLISH))
