"""What a service forbids can be switched off, and connections that it counts are made seldom."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.core.events import Status
from tests.support.buffers import event
from tests.support.gateways import wait_until
from tests.support.sending import sending
from tests.support.stub_broker import (
    CLOSE,
    CONNECT,
    PUBLISH,
    Answer,
    Packet,
    StubBroker,
    connack,
)


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


def reference(server: str) -> bytes:
    """The property Server Reference of MQTT 5."""
    return b"\x1c" + len(server).to_bytes(2, "big") + server.encode()


@pytest.mark.parametrize("code", [0x9C, 0x9D])
@pytest.mark.parametrize("packet_kind", ["connack", "disconnect"])
def test_a_server_that_refers_to_another_is_shown_with_the_key_to_change_and_not_followed(
    tmp_path: Path, code: int, packet_kind: str
) -> None:
    other = StubBroker()

    def rule(packet: Packet) -> Answer | None:
        named = reference(f"127.0.0.1:{other.port}")
        if packet_kind == "connack":
            return connack(packet, code, named) if packet.kind == CONNECT else None
        body = bytes([code, len(named)]) + named
        return Answer(bytes([0xE0, len(body)]) + body, close=True) if packet.kind == PUBLISH else None

    cloud = StubBroker(rule)
    endpoint = {"reconnect_max_s": 0.02}
    with (
        other.running(),
        cloud.running(),
        sending(tmp_path / "events.db", cloud.port, [event("t/a", b"1")], endpoint=endpoint) as sender,
    ):
        (link,) = sender.links
        wait_until(lambda: f"127.0.0.1:{other.port}" in link.metrics.last_error, "what the server says")
        assert "change url" in link.metrics.last_error
        wait_until(lambda: cloud.connections > 2, "more attempts")
        assert sender.counts()[Status.FAILED] == 0
    assert other.connections == 0
