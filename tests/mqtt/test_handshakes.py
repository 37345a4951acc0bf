"""Handshakes of QoS 2 come one after the other."""

from __future__ import annotations

from gateway.mqtt.handshakes import PATIENCE_S, Handshakes


def test_the_next_handshake_begins_when_the_one_before_is_complete() -> None:
    handshakes = Handshakes()
    assert handshakes.due(0.0) is None
    handshakes.add([1, 2])
    handshakes.add([3])
    assert (handshakes.due(0.0), handshakes.due(0.0)) == (1, None)
    handshakes.completed(2)
    assert handshakes.due(1.0) is None
    handshakes.completed(1)
    assert (handshakes.due(1.0), handshakes.due(1.0)) == (2, None)
    handshakes.completed(2)
    assert handshakes.due(1.0) == 3
    handshakes.completed(3)
    assert handshakes.due(1.0) is None


def test_a_broker_that_sends_no_pubrel_does_not_hold_up_the_others_for_ever() -> None:
    handshakes = Handshakes()
    handshakes.add([1, 2])
    assert handshakes.due(0.0) == 1
    assert handshakes.due(PATIENCE_S - 0.1) is None
    assert handshakes.due(PATIENCE_S) == 2


def test_a_packet_id_is_not_free_between_pubrel_and_pubcomp() -> None:
    handshakes = Handshakes()
    handshakes.add([1])
    assert handshakes.due(0.0) == 1
    assert not handshakes.is_repeated(1)
    handshakes.released(1)
    assert handshakes.is_repeated(1)
    handshakes.completed(1)
    assert not handshakes.is_repeated(1)
