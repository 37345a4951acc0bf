"""A load generator for benchmarks: ready-made PUBLISH packets over a plain socket.

paho's own publish takes longer than the gateway's whole path, so it would measure itself.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

from gateway.mqtt import variable_integers

WINDOW = 2000
_CONNECT_TIMEOUT_S = 5.0


def encode_publish(topic: str, payload: bytes, packet_id: int) -> bytes:
    """A QoS 1 PUBLISH of MQTT 3.1.1."""
    name = topic.encode()
    body = struct.pack("!H", len(name)) + name + struct.pack("!H", packet_id) + payload
    return b"\x32" + variable_integers.encode(len(body)) + body


def publish_all(host: str, port: int, messages: Iterable[tuple[str, bytes]]) -> int:
    """Publish `messages` at QoS 1 as fast as the broker acknowledges them; returns how many there were."""
    packets = [encode_publish(t, p, number % 65535 + 1) for number, (t, p) in enumerate(messages)]
    with connected(host, port, "load", clean=True) as sock:
        sent = acked_bytes = 0
        while acked_bytes // 4 < len(packets):
            room = WINDOW - (sent - acked_bytes // 4)
            if room > WINDOW // 2 and sent < len(packets):
                sock.sendall(b"".join(packets[sent : sent + room]))
                sent = min(sent + room, len(packets))
            acked_bytes += len(sock.recv(65536))
    return len(packets)


def reserve_session(host: str, port: int, client_id: str, topic_filter: str) -> None:
    """Make the broker queue `topic_filter` for `client_id`, as if that client had been there and left."""
    name = topic_filter.encode()
    body = struct.pack("!HH", 1, len(name)) + name + b"\x01"
    with connected(host, port, client_id, clean=False) as sock:
        sock.sendall(b"\x82" + variable_integers.encode(len(body)) + body)
        sock.recv(5)
        sock.sendall(b"\xe0\x00")


def connected(host: str, port: int, client_id: str, *, clean: bool) -> socket.socket:
    """A connection whose CONNACK has been read."""
    sock = socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    name = client_id.encode()
    body = b"\0\4MQTT\4" + (b"\2" if clean else b"\0") + b"\0\0" + struct.pack("!H", len(name)) + name
    sock.sendall(b"\x10" + variable_integers.encode(len(body)) + body)
    sock.recv(4)
    return sock
