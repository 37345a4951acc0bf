"""Packets as the embedded broker splits and reads them, whole, cut and broken."""

from __future__ import annotations

import pytest

from gateway.lab.load import encode_publish
from gateway.mqtt import packets

LONG = encode_publish("tele/d/SENSOR", b"x" * 20_000, 7)
PAIR = encode_publish("t", b"1", 1) + LONG + packets.PINGRESP


def test_packets_cut_at_any_byte_come_out_the_same() -> None:
    whole, rest = packets.split(PAIR)
    assert ([head for head, _ in whole], rest) == ([0x32, 0x32, 0xD0], b"")
    for cut in [*range(20), *range(len(PAIR) - 9, len(PAIR))]:
        first, held = packets.split(PAIR[:cut])
        second, rest = packets.split(held + PAIR[cut:])
        assert (first + second, rest) == (whole, b"")


def test_a_publish_is_read_as_it_was_written() -> None:
    [(head, body)], _ = packets.split(packets.publish(b"a/b", b"x" * 300, 0b1011, b"\x01\x02"))
    assert packets.read_publish(head, body) == (b"a/b", b"x" * 300, 1, True, b"\x01\x02")
    [(head, body)], _ = packets.split(packets.publish(b"a", b"", 0))
    assert packets.read_publish(head, body) == (b"a", b"", 0, False, b"")


@pytest.mark.parametrize(
    ("head", "body"),
    [
        pytest.param(0x30, b"", id="no topic at all"),
        pytest.param(0x30, b"\x00\x09a", id="a topic that is cut"),
        pytest.param(0x32, b"\x00\x01t", id="no packet id"),
        pytest.param(0x32, b"\x00\x01t\x00\x00x", id="packet id 0"),
        pytest.param(0x36, b"\x00\x01t\x00\x01x", id="QoS 3"),
        pytest.param(0x38, b"\x00\x01tx", id="DUP with QoS 0"),
    ],
)
def test_a_broken_publish_is_an_error(head: int, body: bytes) -> None:
    with pytest.raises(ValueError, match="PUBLISH"):
        packets.read_publish(head, body)


@pytest.mark.parametrize("topic", [b"", b"a/+", b"#", b"a\x00b", b"\xff"])
def test_a_topic_that_nobody_may_publish_on_is_an_error(topic: bytes) -> None:
    with pytest.raises(ValueError, match=r"topic|codec"):
        packets.read_topic(topic)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        pytest.param(0x80, b"\x00\x01\x00\x01t\x01", id="flags"),
        pytest.param(0x82, b"\x00\x00\x00\x01t\x01", id="packet id 0"),
        pytest.param(0x82, b"\x00\x01", id="no filter"),
        pytest.param(0x82, b"\x00\x01\x00\x00\x01", id="empty filter"),
        pytest.param(0x82, b"\x00\x01\x00\x01t", id="no QoS"),
        pytest.param(0x82, b"\x00\x01\x00\x01t\x03", id="QoS 3"),
        pytest.param(0x82, b"\x00\x01\x00\x09t\x01", id="a filter that is cut"),
    ],
)
def test_a_broken_subscribe_is_an_error(head: int, body: bytes) -> None:
    with pytest.raises(ValueError, match=r"SUBSCRIBE|filter"):
        packets.read_subscribe(head, body)


def test_subscribe_and_unsubscribe_name_their_filters() -> None:
    assert packets.read_subscribe(0x82, b"\x00\x05\x00\x01a\x01\x00\x01b\x02") == (
        b"\x00\x05",
        [("a", 1), ("b", 2)],
    )
    assert packets.read_unsubscribe(0xA2, b"\x00\x05\x00\x01a\x00\x01b") == (b"\x00\x05", ["a", "b"])


@pytest.mark.parametrize("data", [b"\x32\xff\xff\xff\xff\x01", b"\x32\xff\xff\xff\x7f"])
def test_a_packet_of_any_length_is_not_waited_for(data: bytes) -> None:
    with pytest.raises(ValueError, match="packet"):
        packets.split(data)
