"""Services that count messages: never more in a second than `cloud.messages` says, and each carries more."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.buffers import event
from tests.support.sending import sending
from tests.support.stub_broker import PUBLISH, Packet, StubBroker


@pytest.mark.parametrize("connections", [1, 2])
def test_no_second_has_more_messages_than_allowed(tmp_path: Path, connections: int) -> None:
    came_s: list[float] = []

    def note(packet: Packet) -> None:
        if packet.kind == PUBLISH:
            came_s.append(time.monotonic())

    cloud = StubBroker(note)
    sent = [event(f"t/{n % 6}", f"{n}".encode()) for n in range(60)]
    began_s = time.monotonic()
    with (
        cloud.running(),
        sending(
            *(tmp_path / "events.db", cloud.port, sent),
            messages=20,
            format="event",
            connections=connections,
        ) as sender,
    ):
        sender.wait_drained()
    assert len(came_s) >= 60
    # Counted from the start: a busy machine can delay a message, and so bring it close to the next ones.
    early = [n for n, at_s in enumerate(came_s) if n > (at_s - began_s) * 20 + 5]
    assert not early, f"{early[0]} messages came in {came_s[early[0]] - began_s:.2f} s"


def test_batches_carry_what_came_in_the_meantime(tmp_path: Path) -> None:
    cloud = StubBroker()
    began_s = time.monotonic()
    with cloud.running(), sending(tmp_path / "events.db", cloud.port, [], messages=4) as sender:
        for n in range(100):
            sender.append([event("t/a", f"{n}".encode())])
        sender.wait_drained()
        took_s = time.monotonic() - began_s
    assert len(cloud.events) >= 100
    assert len(cloud.of(PUBLISH)) <= 4 * took_s + 5
