"""A broker that delivers QoS 2 for QoS 1, and does not mark what it sends again: each message is stored once.

Aedes 1.2 does both. The broker here does the same, and the gateway is killed at each step of a handshake.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.stub_broker import (
    CONNECT,
    PUBCOMP,
    PUBREC,
    SILENCE,
    SUBSCRIBE,
    Answer,
    Packet,
    StubBroker,
    connack,
    suback,
)

COUNT = 6
TOPIC = b"sensors/a"


class Aedes(StubBroker):
    """Keeps one session, with COUNT messages. It goes silent once at each step in `silences`."""

    def __init__(self, *silences: tuple[int, int]) -> None:
        super().__init__(self._act)
        self.undelivered = dict.fromkeys(range(1, COUNT + 1), PUBREC)  # what is expected next
        self.silent = False
        self._silences = set(silences)  # (kind of packet, packet id)
        self._subscribed = 0

    def _act(self, packet: Packet) -> Answer | None:
        step = packet.kind, packet.packet_id
        if step in self._silences:
            self._silences.discard(step)
            self.silent = True
        if self.silent:
            return SILENCE
        if packet.kind == CONNECT and not packet.client_id.endswith("-republish"):
            return Answer(b"\x20\x02\x01\x00" + self._session()) if self._subscribed else connack(packet)
        if packet.kind == SUBSCRIBE:
            first, self._subscribed = not self._subscribed, 1
            return Answer(suback(packet, 1).data + (self._session() if first else b""))
        if packet.kind == PUBREC:
            self.undelivered[packet.packet_id] = PUBCOMP
            return Answer(b"\x62\x02" + packet.packet_id.to_bytes(2, "big"))
        if packet.kind == PUBCOMP:
            self.undelivered.pop(packet.packet_id, None)
            return SILENCE
        return None

    def _session(self) -> bytes:
        """What is not complete, without DUP."""
        return b"".join(
            _publish(number) if step == PUBREC else b"\x62\x02" + number.to_bytes(2, "big")
            for number, step in self.undelivered.items()
        )


def _publish(number: int) -> bytes:
    body = len(TOPIC).to_bytes(2, "big") + TOPIC + number.to_bytes(2, "big") + b'{"v": %d}' % number
    return bytes([0x34, len(body)]) + body


SLOW_STEPS = [(PUBREC, 1), (PUBCOMP, 3), (PUBCOMP, COUNT)]


@pytest.mark.parametrize(
    "step", [(PUBREC, 3), *(pytest.param(step, marks=pytest.mark.slow) for step in SLOW_STEPS)]
)
def test_kill_at_each_step_of_a_handshake_of_qos_2_stores_nothing_twice(
    tmp_path: Path, step: tuple[int, int]
) -> None:
    broker = Aedes(step)
    with broker.running(), GatewayProcess(gateway_config(tmp_path, broker.url)) as gateway:
        wait_until(lambda: broker.silent, gateway.log())
        gateway.kill()
        broker.silent = False
        gateway.start()
        wait_until(lambda: not broker.undelivered, gateway.log())
        gateway.stop()
        assert [payload["v"] for payload in gateway.raw_payloads()] == [*range(1, COUNT + 1)]
        assert gateway.audit().problems == ()
