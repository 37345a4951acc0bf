"""Messages that are sent in bulk: the same as with paho, on packet ids of their own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.events import Message
from gateway.mqtt.bulk_publishes import (
    FIRST_ID,
    BulkPublishes,
    correlation_data,
    split_answers,
    user_property,
)
from gateway.mqtt.publishes import Splitter
from gateway.mqtt.variable_integers import encode


class Wire:
    """Bulk publishes, and the messages that a broker reads of them."""

    def __init__(self, *, v5: bool = True, receive_maximum: int = 65_535, aliases: int = 0) -> None:
        self.sent = b""
        self.bulk = BulkPublishes(self._send, v5=v5)
        self.bulk.accepted(receive_maximum, aliases)
        self._v5 = v5

    def _send(self, data: bytes) -> None:
        self.sent += data

    def publish(self, *topics: str, payload: bytes = b"1", block: bytes = b"") -> list[int]:
        count = len(topics)
        return self.bulk.publish(topics, [payload] * count, [block] * count)[0]

    def read(self) -> list[Message]:
        sent, self.sent = self.sent, b""
        messages, end = Splitter(v5=self._v5, epoch=1).split(sent, 0, 100_000, 0)
        assert end == len(sent)
        return messages


topics = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="+#\0"), min_size=1, max_size=20)


@given(
    st.lists(st.tuples(topics, st.binary() | st.binary(min_size=130, max_size=300)), max_size=20),
    st.booleans(),
    st.binary(max_size=40),
)
def test_a_broker_reads_what_was_published(
    messages: list[tuple[str, bytes]], v5: bool, identity: bytes
) -> None:
    wire = Wire(v5=v5)
    block = user_property("stream", "ä") + correlation_data(identity) if v5 else b""
    names, payloads = [name for name, _ in messages], [payload for _, payload in messages]
    ids, size_bytes = wire.bulk.publish(names, payloads, [block] * len(messages))
    assert size_bytes == len(wire.sent)
    found = wire.read()
    assert [(each.topic, each.payload, each.packet_id) for each in found] == [
        (name, payload, packet_id) for (name, payload), packet_id in zip(messages, ids, strict=True)
    ]
    assert all((each.qos, each.retain, each.dup) == (1, False, False) for each in found)
    if v5:
        assert all((*each.properties, each.correlation) == (("stream", "ä"), identity) for each in found)


def test_properties_and_payloads_of_any_length_have_their_length_before_them() -> None:
    wire = Wire()
    wire.publish("t", payload=bytes(20_000), block=user_property("n", "x" * 200))
    length = 3 + 2 + 2 + 206 + 20_000
    assert wire.sent.startswith(b"\x32" + encode(length) + b"\x00\x01t\x80\x00" + encode(206) + b"\x26")
    assert len(wire.sent) == 1 + 3 + length


def test_packet_ids_are_those_that_paho_leaves_and_wait_for_their_answer() -> None:
    wire = Wire()
    first, *_ = wire.publish(*["t"] * 15_000)
    assert first == FIRST_ID
    assert list(wire.bulk.answered(range(FIRST_ID + 1, FIRST_ID + 15_000), 0)) == [
        *range(FIRST_ID + 1, FIRST_ID + 15_000)
    ]
    wire.bulk.answered(wire.publish(*["t"] * 15_000), 0)
    ids = wire.publish(*["t"] * 15_000)
    assert len({*ids}) == 15_000
    assert min(ids) == FIRST_ID + 1, "FIRST_ID has no answer yet"
    assert max(ids) == 65_535


def test_only_the_first_answer_to_a_message_counts() -> None:
    wire = Wire()
    one, two = wire.publish("t", "t")
    assert [*wire.bulk.answered([one, one, 5000], 0)] == [one]
    assert [*wire.bulk.answered([one, two], 0)] == [two]
    assert [*wire.bulk.answered([two, two], 0)] == []
    assert wire.bulk.unanswered == 0


def test_a_topic_goes_once_and_then_as_its_alias() -> None:
    wire = Wire(aliases=2)
    wire.publish("a", "b", "c", "a", "b", "c")
    alias_1, alias_2 = b"\x23\x00\x01", b"\x23\x00\x02"
    assert wire.sent.count(b"\x00\x01a\x80") == wire.sent.count(b"\x00\x01b\x80") == 1
    assert wire.sent.count(b"\x00\x01c\x80") == 2
    assert (wire.sent.count(alias_1), wire.sent.count(alias_2)) == (2, 2)
    assert len(wire.sent) == sum((12, 12, 9, 11, 11, 9))


def test_after_a_refusal_an_alias_is_introduced_again() -> None:
    wire = Wire(aliases=9)
    ids = wire.publish("topic", "topic")
    wire.sent = b""
    wire.bulk.answered(ids, 0x87)
    wire.publish("topic", "topic")
    assert wire.sent.count(b"topic") == 1
    assert wire.sent.count(b"\x23\x00\x01") == 2


def test_what_is_too_large_stays_with_all_behind_it_and_gets_no_alias() -> None:
    wire = Wire(aliases=9)
    payloads = [b"", bytes(100), b""]
    ids, size_bytes = wire.bulk.publish(["a", "b", "c"], payloads, [b""] * 3, limit_bytes=30)
    assert (len(ids), size_bytes, wire.bulk.unanswered) == (1, len(wire.sent), 1)
    wire.publish("b", "b")
    assert wire.sent.count(b"b") == 1, "it is introduced with the first that goes"


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a\0", "x" * 65_536, "\ud800"])
def test_what_is_no_topic_stays_with_all_behind_it(topic: str) -> None:
    wire = Wire()
    assert len(wire.publish("a", topic, "b")) == 1


def test_one_place_under_the_receive_maximum_stays_free() -> None:
    assert Wire(receive_maximum=20).bulk.most == 19
    assert Wire(receive_maximum=2).bulk.most == 0


# --- answers ---


def puback(packet_id: int, tail: bytes = b"") -> bytes:
    return bytes((0x40, 2 + len(tail))) + packet_id.to_bytes(2, "big") + tail


def one_by_one(data: bytes) -> tuple[list[tuple[int, int]], int]:
    """The same in the most simple way."""
    found, at = [], 0
    while data[at : at + 1] == b"\x40" and len(data) >= at + 4:
        size = data[at + 1]
        packet_id = int.from_bytes(data[at + 2 : at + 4], "big")
        if not 2 <= size < 128 or at + 2 + size > len(data) or packet_id < FIRST_ID:
            break
        found.append((packet_id, data[at + 4] if size > 2 else 0))
        at += 2 + size
    return found, at


answers = st.builds(
    puback,
    st.integers(FIRST_ID, 65_535) | st.integers(FIRST_ID, 65_535) | st.integers(1, 65_535),
    st.sampled_from([b"", b"", b"\x10", b"\x00\x00", b"\x87\x00", b"\x97\x06\x1f\x00\x03why"]),
)
others = st.sampled_from(
    [b"\x30\x05\x00\x01t\x00x", b"\xd0\x00", b"\x40\x01\x00", b"\x40\x80\x01" + bytes(128)]
)


@given(
    st.lists(st.lists(answers, max_size=4) | others.map(lambda each: [each]), max_size=8), st.integers(0, 9)
)
def test_answers_are_split_wherever_they_are_cut(parts: list[list[bytes]], cut: int) -> None:
    data = b"".join(b"".join(part) * 3 for part in parts)
    data = data[: len(data) - cut]
    groups, end = split_answers(data, 0)
    assert ([(each, code) for ids, code in groups for each in ids], end) == one_by_one(data)


def test_answers_alike_are_one_group() -> None:
    data = b"".join(puback(each) for each in range(40_000, 40_100)) + puback(50_000, b"\x10")
    assert split_answers(b"\xd0\x00" + data, 2) == (
        [([*range(40_000, 40_100)], 0), ([50_000], 0x10)],
        2 + len(data),
    )
