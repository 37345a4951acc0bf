"""The contract of every broker that the gateway brings along: packets in, packets out."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import pytest

from gateway.mqtt.embedded import EmbeddedBroker
from gateway.mqtt.mosquitto_child import MosquittoChild, find_mosquitto
from tests.conftest import no_broker
from tests.support.broker_kinds import why_no_program
from tests.support.ports import free_port

WAIT_S = 60.0
CONNACK, PUBLISH, PUBACK, PUBREC, PUBCOMP, SUBACK, PINGRESP = 2, 3, 4, 5, 7, 9, 13

Embedded = EmbeddedBroker | MosquittoChild


@pytest.fixture(params=["amqtt", "mosquitto"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Embedded]:
    served: Embedded
    if request.param == "amqtt":
        served = EmbeddedBroker(port=free_port())
    else:
        program = find_mosquitto() or no_broker(why_no_program())
        served = MosquittoChild(program, tmp_path / "mosquitto", port=free_port())
    served.start()
    yield served
    served.stop()


class Packet(NamedTuple):
    kind: int
    flags: int
    body: bytes

    @property
    def message(self) -> tuple[bytes, bytes, bool]:
        """Topic, payload and RETAIN of a PUBLISH."""
        length = int.from_bytes(self.body[:2], "big")
        start = 2 + length + (2 if self.flags & 6 else 0)
        return self.body[2 : 2 + length], self.body[start:], bool(self.flags & 1)


def text(value: bytes) -> bytes:
    return struct.pack("!H", len(value)) + value


class Wire:
    """A client of which every byte is said by the test. Packets are shorter than 128 bytes."""

    def __init__(self, broker: Embedded) -> None:
        self._socket = socket.create_connection((broker.host, broker.port), timeout=WAIT_S)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._socket.close()

    def send(self, first: int, body: bytes) -> None:
        self._socket.sendall(bytes((first, len(body))) + body)

    def connect(
        self,
        name: bytes,
        *,
        clean: bool = True,
        keepalive_s: int = 60,
        will: tuple[bytes, bytes] | None = None,
        protocol: bytes = b"\x00\x04MQTT\x04",
    ) -> Packet:
        flags = (2 if clean else 0) | (0 if will is None else 4)
        properties = b"\x00" if protocol.endswith(b"\x05") else b""
        said = b"" if will is None else text(will[0]) + text(will[1])
        body = protocol + bytes((flags,)) + struct.pack("!H", keepalive_s) + properties + text(name) + said
        self.send(0x10, body)
        return self.packet(CONNACK)

    def subscribe(self, topic_filter: bytes) -> None:
        self.send(0x82, b"\x00\x01" + text(topic_filter) + b"\x01")
        self.packet(SUBACK)

    def publish(self, topic: bytes, payload: bytes, *, retain: bool = False) -> None:
        """At QoS 1, until it is acknowledged."""
        self.send(0x33 if retain else 0x32, text(topic) + b"\x00\x07" + payload)
        assert self.packet(PUBACK).body[:2] == b"\x00\x07"

    def ping(self) -> None:
        self.send(0xC0, b"")
        self.packet(PINGRESP)

    def packet(self, kind: int) -> Packet:
        """The next packet, which must be of `kind`."""
        found = Packet(*divmod(self._read(1)[0], 16), self._read(self._read(1)[0]))
        assert found.kind == kind
        return found

    def message(self) -> tuple[bytes, bytes, bool]:
        """The next message, acknowledged."""
        found = self.packet(PUBLISH)
        if found.flags & 6:
            length = int.from_bytes(found.body[:2], "big")
            self.send(0x40, found.body[2 + length : 4 + length])
        return found.message

    def is_closed(self) -> bool:
        """Whether the broker hangs up, without another packet."""
        try:
            return self._socket.recv(1) == b""
        except ConnectionError:
            return True

    def _read(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            more = self._socket.recv(count - len(found))
            assert more, "the broker has closed the connection"
            found += more
        return found


def session_present(connack: Packet) -> bool:
    assert connack.body[1] == 0
    return bool(connack.body[0] & 1)


def say(broker: Embedded, topic: bytes, payload: bytes, *, retain: bool = False) -> None:
    with Wire(broker) as wire:
        wire.connect(b"speaker")
        wire.publish(topic, payload, retain=retain)
        wire.send(0xE0, b"")
        assert wire.is_closed()


def test_a_persistent_client_that_comes_back_while_its_old_socket_is_open_receives(broker: Embedded) -> None:
    with Wire(broker) as old, Wire(broker) as new:
        assert not session_present(old.connect(b"device", clean=False))
        old.subscribe(b"to/device")
        assert session_present(new.connect(b"device", clean=False))
        assert old.is_closed()
        say(broker, b"to/device", b"on")
        assert new.message() == (b"to/device", b"on", False)
        new.ping()


def test_a_clean_client_that_takes_over_is_left_alone_by_the_end_of_the_old_one(broker: Embedded) -> None:
    with Wire(broker) as old, Wire(broker) as new:
        old.connect(b"device")
        old.subscribe(b"old/#")
        new.connect(b"device")
        new.subscribe(b"new/#")
        assert old.is_closed()
        say(broker, b"old/x", b"1")
        say(broker, b"new/x", b"2")
        assert new.message() == (b"new/x", b"2", False)
        new.ping()


def test_ten_clients_of_one_name_at_once_leave_one_that_works(broker: Embedded) -> None:
    wires = [Wire(broker) for _ in range(10)]
    for wire in wires:
        wire.send(0x10, b"\x00\x04MQTT\x04\x02\x00\x3c" + text(b"device"))
    survivors = []
    for wire in wires:
        try:
            wire.packet(CONNACK)
            wire.ping()
            survivors.append(wire)
        except (AssertionError, ConnectionError):
            pass
    with Wire(broker) as last:
        last.connect(b"device")
        last.subscribe(b"t")
        say(broker, b"t", b"x")
        assert last.message()[1] == b"x"
    for wire in wires:
        with wire:
            assert wire.is_closed()


def test_a_frozen_client_is_disconnected_after_its_keepalive_and_its_will_comes(broker: Embedded) -> None:
    with Wire(broker) as watcher, Wire(broker) as frozen:
        watcher.connect(b"watcher")
        watcher.subscribe(b"state/#")
        frozen.connect(b"device", keepalive_s=1, will=(b"state/device", b"gone"))
        assert watcher.message() == (b"state/device", b"gone", False)
        assert frozen.is_closed()


def test_mqtt_3_1_is_served(broker: Embedded) -> None:
    with Wire(broker) as wire:
        assert not session_present(wire.connect(b"old", protocol=b"\x00\x06MQIsdp\x03"))
        wire.subscribe(b"t")
        say(broker, b"t", b"x")
        assert wire.message()[:2] == (b"t", b"x")


def test_mqtt_5_is_answered(broker: Embedded) -> None:
    with Wire(broker) as wire:
        connack = wire.connect(b"new", protocol=b"\x00\x04MQTT\x05")
        assert connack.body[1] == (0x84 if isinstance(broker, EmbeddedBroker) else 0)


@pytest.mark.parametrize(
    ("first", "body"),
    [
        pytest.param(0x30, text(b"t") + b"x", id="PUBLISH"),
        pytest.param(0xC0, b"", id="PINGREQ"),
        pytest.param(0x10, b"\x00\x04MQTT", id="half a CONNECT"),
    ],
)
def test_what_comes_before_a_connect_ends_the_connection(broker: Embedded, first: int, body: bytes) -> None:
    with Wire(broker) as wire:
        wire.send(first, body)
        assert wire.is_closed()


@pytest.mark.parametrize("topic", [b"a/+", b"#", b"a/#/b"])
def test_a_publish_to_a_wildcard_ends_the_connection_and_no_other(broker: Embedded, topic: bytes) -> None:
    with Wire(broker) as other, Wire(broker) as wire:
        other.connect(b"other")
        wire.connect(b"device")
        wire.send(0x32, text(topic) + b"\x00\x01x")
        assert wire.is_closed()
        other.ping()


def test_a_topic_that_begins_with_a_dollar_is_acknowledged_and_not_for_wildcards(broker: Embedded) -> None:
    with Wire(broker) as reader, Wire(broker) as wire:
        reader.connect(b"reader")
        reader.subscribe(b"#")
        wire.connect(b"device")
        wire.publish(b"$x/y", b"1")
        wire.publish(b"x/y", b"2")
        wire.ping()
        assert reader.message()[:2] == (b"x/y", b"2")


def test_what_waited_for_a_session_comes_in_order_and_not_as_retained(broker: Embedded) -> None:
    with Wire(broker) as wire:
        wire.connect(b"device", clean=False)
        wire.subscribe(b"t")
        wire.send(0xE0, b"")
        assert wire.is_closed()
    for number in range(5):
        say(broker, b"t", b"%d" % number)
    with Wire(broker) as wire:
        assert session_present(wire.connect(b"device", clean=False))
        assert [wire.message() for _ in range(5)] == [(b"t", b"%d" % number, False) for number in range(5)]


def test_retained_messages_come_with_a_subscription_and_not_with_a_connection(broker: Embedded) -> None:
    say(broker, b"t", b"kept", retain=True)
    with Wire(broker) as wire:
        wire.connect(b"device", clean=False)
        wire.subscribe(b"t")
        assert wire.message() == (b"t", b"kept", True)
    with Wire(broker) as wire:
        assert session_present(wire.connect(b"device", clean=False))
        wire.ping()


def test_a_clean_session_leaves_nothing_to_come_back_to(broker: Embedded) -> None:
    with Wire(broker) as wire:
        wire.connect(b"device")
        wire.subscribe(b"t")
    with Wire(broker) as wire:
        assert not session_present(wire.connect(b"device", clean=False))
        say(broker, b"t", b"x")
        wire.ping()


def test_clients_that_vanish_leave_no_traceback_in_the_log(
    broker: Embedded, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for number in range(5):
            with Wire(broker) as wire:
                wire.connect(b"device%d" % number)
                wire.subscribe(b"t")
                wire.send(0x32, text(b"t") + b"\x00\x01x")
        with Wire(broker) as wire:
            wire.connect(b"last")
            wire.ping()
        broker.stop()
    assert [record for record in caplog.records if record.exc_info] == []


def test_what_a_client_did_not_acknowledge_comes_again_with_dup(broker: Embedded) -> None:
    with Wire(broker) as wire:
        wire.connect(b"device", clean=False)
        wire.subscribe(b"t")
        for number in range(3):
            say(broker, b"t", b"%d" % number)
        for _ in range(3):
            wire.packet(PUBLISH)
    with Wire(broker) as wire:
        assert session_present(wire.connect(b"device", clean=False))
        again = [wire.packet(PUBLISH) for _ in range(3)]
        assert [(packet.message[1], packet.flags) for packet in again] == [
            (b"%d" % number, 0b1010) for number in range(3)
        ]


def test_filters_that_overlap_bring_a_message_once_per_session(broker: Embedded) -> None:
    with Wire(broker) as wire:
        wire.connect(b"device")
        wire.subscribe(b"a/+")
        wire.subscribe(b"a/#")
        say(broker, b"a/b", b"x")
        assert wire.message()[1] == b"x"
        wire.ping()


def test_a_message_of_qos_2_that_is_sent_twice_is_handed_on_once(broker: Embedded) -> None:
    with Wire(broker) as reader, Wire(broker) as wire:
        reader.connect(b"reader")
        reader.subscribe(b"t")
        wire.connect(b"device")
        for first in (0x34, 0x3C):
            wire.send(first, text(b"t") + b"\x00\x09x")
            assert wire.packet(PUBREC).body[:2] == b"\x00\x09"
        for _ in range(2):
            wire.send(0x62, b"\x00\x09")
            assert wire.packet(PUBCOMP).body[:2] == b"\x00\x09"
        assert reader.message()[:2] == (b"t", b"x")
        reader.ping()


def test_a_subscription_holds_for_what_the_same_client_publishes_right_behind_it(broker: Embedded) -> None:
    with Wire(broker) as wire:
        wire.connect(b"device")
        wire.send(0x82, b"\x00\x01" + text(b"t") + b"\x00")
        wire.send(0x30, text(b"t") + b"x")
        wire.packet(SUBACK)
        assert wire.message()[:2] == (b"t", b"x")


def test_a_wrong_password_ends_nobody_elses_connection(tmp_path: Path) -> None:
    served = EmbeddedBroker(username="me", password="right")  # noqa: S106 - a test's own
    served.start()
    try:
        with Wire(served) as owner, Wire(served) as thief:
            owner.send(0x10, b"\x00\x04MQTT\x04\xc0\x00\x3c" + text(b"device") + text(b"me") + text(b"right"))
            assert not session_present(owner.packet(CONNACK))
            thief.send(0x10, b"\x00\x04MQTT\x04\x02\x00\x3c" + text(b"device"))
            assert thief.packet(CONNACK).body[1] == 5
            assert thief.is_closed()
            owner.ping()
    finally:
        served.stop()
