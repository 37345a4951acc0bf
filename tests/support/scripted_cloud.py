"""A cloud broker that answers publishes as a test says: for what a real one cannot be made to do."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from gateway.core.events import WireEvent
from gateway.wire.frame import decode_batch

CONNACK = b"\x20\x03\x00\x00\x00"  # MQTT 5: no session, success, no properties


class Publish(NamedTuple):
    """One PUBLISH of MQTT 5 at QoS 1."""

    topic: str
    packet_id: int
    payload: bytes

    @property
    def events(self) -> list[WireEvent]:
        """What a batch frame holds."""
        return decode_batch(self.payload).events if "/up/batch/" in self.topic else []


Answer = Callable[[Publish], bytes]


def puback(publish: Publish, code: int = 0, packet_id: int | None = None) -> bytes:
    number = publish.packet_id if packet_id is None else packet_id
    return b"\x40\x04" + struct.pack("!HBB", number, code, 0)


def disconnect(code: int) -> bytes:
    return bytes([0xE0, 2, code, 0])


class ScriptedCloud:
    """Takes connections on 127.0.0.1:`port`; each publish gets what `answer` makes of it.

    An answer with a zero code for its own packet id takes the message: its events are in `events`, in order.
    A DISCONNECT among the answers ends the connection.
    """

    def __init__(self, answer: Answer, connack: bytes = CONNACK) -> None:
        self.answer = answer
        self.events: list[WireEvent] = []
        self.publishes: list[Publish] = []
        self.connections = 0
        self.most_unanswered = 0
        self._connack = connack
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"

    @contextmanager
    def running(self) -> Iterator[ScriptedCloud]:
        thread = threading.Thread(target=self._accept, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            for each in self._sockets:
                each.close()
            thread.join(5)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                self._sockets.append(accepted)
                self.connections += 1
                threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), connection, connection.makefile("rb") as stream:
            while True:
                kind, body = _packet(stream.read)
                if kind >> 4 == 1:
                    connection.sendall(self._connack)
                elif kind >> 4 == 12:
                    connection.sendall(b"\xd0\x00")
                elif kind >> 4 == 3:
                    answers = self._answers(_publish(body))
                    connection.sendall(answers)
                    if b"\xe0" in answers[:1]:
                        return

    def _answers(self, publish: Publish) -> bytes:
        if publish.topic.endswith("/status"):
            return puback(publish)
        self.publishes.append(publish)
        answers = self.answer(publish)
        if puback(publish) in answers:
            self.events += publish.events
        return answers


def _packet(read: Callable[[int], bytes]) -> tuple[int, bytes]:
    first = read(1)
    if not first:
        raise EOFError
    size = shift = 0
    while True:
        digit = read(1)[0]
        size |= (digit & 127) << shift
        shift += 7
        if not digit & 128:
            break
    return first[0], read(size)


def _publish(body: bytes) -> Publish:
    (name_bytes,) = struct.unpack_from("!H", body)
    topic, at = body[2 : 2 + name_bytes].decode(), 2 + name_bytes
    (packet_id,) = struct.unpack_from("!H", body, at)
    size = shift = 0
    at += 2
    while True:
        size |= (body[at] & 127) << shift
        shift += 7
        at += 1
        if not body[at - 1] & 128:
            break
    return Publish(topic, packet_id, body[at + size :])
