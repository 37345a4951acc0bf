"""What the embedded broker still owes a session: order, room, reconnects, and an end to what it keeps."""

from __future__ import annotations

import logging

import pytest

from gateway.mqtt import outbox as module
from gateway.mqtt.outbox import Outbox


class Line:
    """Takes packets as long as it has room; what it got, as (flags, packet id or None, payload)."""

    def __init__(self, room: int = 1_000_000) -> None:
        self.room = room
        self.sent: list[tuple[int, int | None, bytes]] = []
        self.released: list[int] = []

    def has_room(self) -> bool:
        return self.room > 0

    def write(self, data: bytes) -> None:
        self.room -= 1
        if data[0] == 0x62:
            self.released.append(int.from_bytes(data[2:], "big"))
            return
        flags = data[0] & 15
        start = 7 if flags & 6 else 5  # a header of two bytes, a topic of one
        packet_id = int.from_bytes(data[5:7], "big") if flags & 6 else None
        self.sent.append((flags, packet_id, data[start:]))


@pytest.fixture
def outbox() -> Outbox:
    return Outbox("reader")


def put(outbox: Outbox, count: int, qos: int = 1) -> None:
    for number in range(count):
        outbox.put(b"t", b"%d" % number, qos)


def test_what_was_not_acknowledged_comes_again_on_the_next_connection_in_order(outbox: Outbox) -> None:
    first, second = Line(), Line()
    outbox.connect(first)
    put(outbox, 3)
    outbox.acknowledged(2)
    outbox.disconnect()
    outbox.put(b"t", b"meanwhile", 1)
    outbox.connect(second)
    assert second.sent == [(0b1010, 1, b"0"), (0b1010, 3, b"2"), (0b0010, 4, b"meanwhile")]


def test_a_message_of_qos_2_is_released_and_never_published_again_after_its_pubrec(outbox: Outbox) -> None:
    first, second = Line(), Line()
    outbox.connect(first)
    put(outbox, 2, qos=2)
    outbox.received(1)
    assert first.released == [1]
    outbox.disconnect()
    outbox.connect(second)
    assert second.released == [1]
    assert second.sent == [(0b1100, 2, b"1")]
    outbox.acknowledged(1)
    outbox.received(2)
    outbox.acknowledged(2)
    third = Line()
    outbox.connect(third)
    assert (third.sent, third.released) == ([], [])


def test_what_finds_no_room_waits_in_order(outbox: Outbox) -> None:
    line = Line(room=2)
    outbox.connect(line)
    put(outbox, 4)
    outbox.put(b"t", b"last", 0)
    assert [payload for *_, payload in line.sent] == [b"0", b"1"]
    line.room = 10
    outbox.send_waiting()
    assert [payload for *_, payload in line.sent] == [b"0", b"1", b"2", b"3", b"last"]


def test_no_more_than_the_window_is_in_flight(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_IN_FLIGHT", 2)
    line = Line()
    outbox.connect(line)
    put(outbox, 5)
    assert len(line.sent) == 2
    outbox.acknowledged(1)
    assert [payload for *_, payload in line.sent] == [b"0", b"1", b"2"]


def test_packet_ids_in_use_are_not_given_again(outbox: Outbox) -> None:
    line = Line()
    outbox.connect(line)
    put(outbox, 1)
    for _ in range(65535):
        outbox.put(b"t", b"x", 1)
        outbox.acknowledged(line.sent[-1][1] or 0)
    assert 1 not in [packet_id for _, packet_id, _ in line.sent[1:]]


def test_qos_0_is_for_a_client_that_is_there(outbox: Outbox) -> None:
    put(outbox, 3, qos=0)
    line = Line()
    outbox.connect(line)
    assert line.sent == []


def test_the_queue_of_a_client_that_stays_away_ends_and_it_is_said_how_much_was_lost(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_MOST_WAITING", 2)
    with caplog.at_level(logging.WARNING):
        put(outbox, 5)
        outbox.connect(Line())
    assert caplog.messages == [
        "the embedded broker drops messages for 'reader': too many wait",
        "the embedded broker dropped 3 messages for 'reader'",
    ]


def test_its_queue_is_bounded_in_bytes_too(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_WAITING_BYTES", 2)
    put(outbox, 5)
    line = Line()
    outbox.connect(line)
    assert len(line.sent) == 2
