"""Packets that are read past paho: the same messages, answers and ends as with paho, cut anywhere."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.events import Message
from gateway.mqtt import paho_client
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.paho_client import Connack, Connection
from gateway.mqtt.publishes import Splitter, acknowledgements
from tests.support.gateways import wait_until

CONNACKS = {"3.1.1": b"\x20\x02\x00\x00", "5": b"\x20\x03\x00\x00\x00"}


class Silent:
    """A listener that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def accepted(self, connack: Connack) -> None:
        self.told.append(connack)

    def released(self, packet_id: int) -> None:
        self.told.append(("released", packet_id))

    def published(self, packet_id: int, reason_code: int) -> None:
        self.told.append(("published", packet_id, reason_code))

    def published_many(self, packet_ids: Sequence[int], reason_code: int) -> None:
        self.told.append(("published_many", packet_ids, reason_code))

    def subscribed(self, codes: dict[str, int]) -> None:
        self.told.append(("subscribed", codes))

    def unsubscribed(self, filters: Sequence[str]) -> None:
        self.told.append(("unsubscribed", filters))


class AllByPaho(Connection):
    def _split(self, most: int) -> int:
        return 0


class Outcome(NamedTuple):
    turns: list[list[Message]]  # what each read handed on
    told: list[Any]
    answers: bytes
    end: str


@contextmanager
def connection(kind: type[Connection], protocol: str) -> Iterator[tuple[Connection, socket.socket, Silent]]:
    """A connection of `kind` on a socket pair, accepted, with the other end of the pair."""
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    listener = Silent()
    made = kind(
        Endpoint("127.0.0.1", 1, "tested", protocol=protocol, keepalive_s=1),  # type: ignore[arg-type]
        listener,
        lambda: 5,
        epoch=7,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paho_client, "open_transport", lambda *_: ours)
        made.open()
    made.write()
    peer.recv(4096)  # the CONNECT
    try:
        yield made, peer, listener
    finally:
        made.close()
        ours.close()
        peer.close()


def outcome(kind: type[Connection], protocol: str, chunks: Sequence[bytes]) -> Outcome:
    turns, end = [], ""
    with connection(kind, protocol) as (made, peer, listener):
        peer.sendall(CONNACKS[protocol])
        made.read()
        for chunk in chunks:
            peer.sendall(chunk)
            try:
                turns.append(made.read())
                made.write()
            except Exception as exc:  # noqa: BLE001 - whatever paho raises has to be raised here too
                end = f"{type(exc).__name__}: {exc}"
                break
        peer.setblocking(False)
        try:
            answers = peer.recv(1 << 20)
        except BlockingIOError:
            answers = b""
    return Outcome(turns, listener.told, answers, end)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def packet(head: int, body: bytes) -> bytes:
    return bytes([head]) + varint(len(body)) + body


def text(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def publish(topic: bytes, payload: bytes, qos: int = 1, packet_id: int = 1, block: bytes = b"") -> bytes:
    return packet(0x30 | qos << 1, text(topic) + packet_id.to_bytes(2, "big") * bool(qos) + block + payload)


names = st.sampled_from([b"a", b"plant/\xc3\xa9/t", b"", b"\xff\xfe", b"a\x00b", b"x" * 130]) | st.binary(
    max_size=6
)
properties = st.one_of(
    st.builds(lambda flag: bytes([1, flag]), st.integers(0, 3)),
    st.builds(lambda number: b"\x02" + number.to_bytes(4, "big"), st.integers(0, 9)),
    st.builds(lambda value: b"\x0b" + varint(value), st.integers(0, 300)),
    st.builds(lambda name, value: b"\x26" + text(name) + text(value), names, names),
    st.builds(lambda value: b"\x09" + text(value), names),
    st.builds(lambda value: b"\x03" + text(value), names),
    st.just(b"\x23\x00\x01"),  # a topic alias
    st.binary(max_size=3),
)
blocks = st.one_of(
    st.just(b""),
    st.just(b"\x00"),
    st.builds(
        lambda parts, wrong: varint(max(0, len(b"".join(parts)) + wrong)) + b"".join(parts),
        st.lists(properties, max_size=3),
        st.sampled_from([0, 0, 0, 0, -1, 1, 5]),
    ),
)
publishes = st.builds(
    lambda flags, topic, number, block, payload: packet(
        0x30 | flags, text(topic) + number.to_bytes(2, "big") * bool(flags & 6) + block + payload
    ),
    *(st.integers(0, 15), names, st.integers(0, 65_535), blocks, st.binary(max_size=140)),
)
others = st.sampled_from(
    [
        b"\xd0\x00",  # PINGRESP
        b"\x62\x02\x00\x07",  # PUBREL
        b"\x40\x02\x00\x07",  # PUBACK
        b"\x90\x03\x00\x01\x01",  # SUBACK
        b"\xc0\x00",  # PINGREQ
        b"\x00\x00",
        b"\x00",
        b"\xe0\x01\x8e",  # DISCONNECT
        b"\x30\x80\x80\x80\x80\x01",  # a length that never ends
        b"\x30\x80\x00",
        b"\x32\x85\x00\x00\x01a\x00\x09",  # a length in more bytes than it needs
    ]
)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Packets, mostly good ones, some damaged, as one stream that is cut anywhere."""
    kinds = st.one_of(publishes, publishes, publishes, others, st.binary(max_size=4))
    stream = bytearray(b"".join(draw(st.lists(kinds, min_size=1, max_size=12))))
    for at, byte in draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=2)):
        if at < len(stream):
            stream[at] = byte
    cuts = sorted(draw(st.sets(st.integers(0, max(1, len(stream))), max_size=5)))
    pieces = [bytes(stream[a:b]) for a, b in itertools.pairwise([0, *cuts, len(stream)])]
    return [piece for piece in pieces if piece]


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
@given(chunks=streams())
@example(chunks=[publish(b"a", b"1")[:4], publish(b"a", b"1")[4:] + publish(b"b", b"2", qos=0)])
@example(chunks=[b"\x00", publish(b"a", b"1", block=b"\x00")])
@example(chunks=[b"\x00\x80", publish(b"a", b"1", block=b"\x00")])
@example(
    chunks=[b"\x30\x03\x00\x09a" + publish(b"b", b"2", qos=0, block=b"\x00")]
)  # a topic beyond its packet
@example(chunks=[b"\x32\x04\x00\x01a\x00" + publish(b"b", b"2", block=b"\x00")])  # half a packet id
@example(chunks=[b"\x30\x00", publish(b"b", b"2", block=b"\x00")])
@example(chunks=[publish(b"", b"1", block=b"\x00") + publish(b"b", b"2", block=b"\x00")])
@example(chunks=[publish(b"a", b"", block=b"\x02\x0b") + publish(b"b", b"2", block=b"\x00")])  # runs on
@example(chunks=[publish(b"a", b"p" * 200, block=b"\x80\x00")])  # the length of no properties, in two bytes
@example(chunks=[publish(b"a", b"1", block=b"\x05\x0b\x01") + publish(b"b", b"2", block=b"\x00")])
def test_any_stream_gives_what_paho_gives(protocol: str, chunks: list[bytes]) -> None:
    assert outcome(Connection, protocol, chunks) == outcome(AllByPaho, protocol, chunks)


@given(
    protocol=st.sampled_from(["3.1.1", "5"]), sizes=st.lists(st.integers(0, 20_000), min_size=1, max_size=4)
)
def test_packets_of_all_lengths(protocol: str, sizes: list[int]) -> None:
    block = b"\x00" if protocol == "5" else b""
    stream = b"".join(
        publish(b"t", b"p" * size, packet_id=1 + at, block=block) for at, size in enumerate(sizes)
    )
    found = outcome(Connection, protocol, [stream])
    assert [len(message.payload) for turn in found.turns for message in turn] == sizes
    assert found == outcome(AllByPaho, protocol, [stream])


def test_good_packets_do_not_reach_paho() -> None:
    """Or the comparison above would compare paho with itself."""
    block = b"\x0c\x26" + text(b"unit") + text(b"C") + b"\x0b\x03"
    stream = b"".join(publish(b"a/b", b"%d" % at, qos=at % 2, packet_id=at, block=block) for at in range(50))
    messages, end = Splitter(v5=True, epoch=3).split(stream, 0, 2000, 9)
    assert end == len(stream)
    assert messages[49] == Message("a/b", b"49", 1, False, False, 49, 3, 9, (("unit", "C"),), (3,))
    assert len(messages) == 50


def test_what_is_left_is_left_where_it_begins() -> None:
    whole, rest = publish(b"a", b"1"), publish(b"b", b"2", qos=2)
    for tail in (rest, whole[:-1], b"\x30", b"\x30\xff", b"\xd0\x00"):
        messages, end = Splitter(v5=False, epoch=1).split(whole * 3 + tail, 0, 2000, 1)
        assert (len(messages), end) == (3, 3 * len(whole))
    assert Splitter(v5=False, epoch=1).split(whole * 3, 0, 2, 1)[1] == 2 * len(whole)


def test_a_turn_takes_no_more_than_its_limit() -> None:
    stream = publish(b"a", b"1") * 5000
    for kind in (Connection, AllByPaho):
        with connection(kind, "3.1.1") as (made, peer, _):
            peer.sendall(CONNACKS["3.1.1"])
            made.read()
            peer.sendall(stream)
            assert [len(made.read()) for _ in range(4)] == [2000, 2000, 1000, 0]


def test_acknowledgements_are_those_of_this_connection_in_order() -> None:
    came = [("a", 1, 300, 7), ("b", 0, 0, 7), ("c", 2, 2, 7), ("d", 1, 9, 6), ("e", 1, 1, 7)]
    messages = [Message(topic, b"", qos, False, False, mid, epoch, 0) for topic, qos, mid, epoch in came]
    assert acknowledgements(messages, 7) == b"\x40\x02\x01\x2c\x40\x02\x00\x01"


def test_messages_count_as_a_sign_of_life() -> None:
    """A broker that is busy sending may be late with its PINGRESP."""
    with connection(Connection, "3.1.1") as (made, peer, _):
        peer.sendall(CONNACKS["3.1.1"])
        made.read()
        started = time.monotonic()

        def sends_for_long() -> bool:
            peer.sendall(publish(b"a", b"1"))
            assert len(made.read()) == 1
            made.write()
            made.keep_alive(listening=True)
            return time.monotonic() - started > 3.2  # three times its keepalive

        wait_until(sends_for_long, "the end of the stream")
