"""A broker for one connection, whose every answer is written in the test: for what a real one will not do."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

CONNACK = b"\x20\x02\x00\x00"


class AskedBroker:
    """A broker for one connection. Calling it gives the next packet that it was sent, behind the CONNECT."""

    def __init__(self, greeting: bytes, connack: bytes) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self._greeting = connack + greeting
        self._packets: queue.Queue[bytes] = queue.Queue()
        self._accepted: socket.socket | None = None

    def __call__(self) -> bytes:
        return self._packets.get(timeout=60)

    def answer(self, packet: bytes) -> None:
        assert self._accepted is not None
        self._accepted.sendall(packet)

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            self._accepted, _ = self.listener.accept()
            with self._accepted, self._accepted.makefile("rb") as stream:
                _short_packet(stream)
                self.answer(self._greeting)
                while packet := _short_packet(stream):
                    self._packets.put(packet)


def _short_packet(stream: BinaryIO) -> bytes:
    """A packet of less than 128 bytes; empty at the end."""
    head = stream.read(2)
    return head + stream.read(head[1]) if head else b""


@contextmanager
def asked_broker(greeting: bytes = b"", connack: bytes = CONNACK) -> Iterator[tuple[int, AskedBroker]]:
    """The port of a broker that sends `greeting` behind its CONNACK, and the broker."""
    broker = AskedBroker(greeting, connack)
    thread = threading.Thread(target=broker.serve, daemon=True)
    thread.start()
    with broker.listener:
        yield broker.listener.getsockname()[1], broker
    thread.join(5)
