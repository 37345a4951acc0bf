"""MQTT over WebSocket (RFC 6455): a socket whose bytes travel in binary frames."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
from collections.abc import Sequence

from gateway.core.errors import BrokerError

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BINARY, _CLOSE, _PING, _PONG = 0x2, 0x8, 0x9, 0xA
_FRAME_BYTES = 64 * 1024  # larger frames save nothing
_HEAD_LIMIT_BYTES = 64 * 1024
_SHORT, _TWO_BYTES = 126, 65_536  # lengths below these take one byte, two more, or eight more


class WebSocket:
    """Wraps a connected socket after `handshake`. It is used without blocking, as a plain socket is."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = bytearray()
        self._payload_left = 0  # of the data frame that is being read
        self._frame = b""  # what is left to send of a frame, and of how many bytes it is
        self._framed = 0
        self._closed = False

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self._sock.setsockopt(level, option, value)

    def handshake(self, host: str, path: str, headers: Sequence[tuple[str, str]]) -> None:
        """Ask for the upgrade, on a socket with a time limit. Raises BrokerError."""
        key = base64.b64encode(os.urandom(16))
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key.decode()}",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: mqtt",
            *(f"{name}: {value}" for name, value in headers),
        ]
        self._sock.sendall("\r\n".join([*lines, "", ""]).encode())
        head = self._read_head()
        status = head.split(b"\r\n", 1)[0].decode("latin-1")
        if " 101" not in status:
            raise BrokerError(f"it answers {status!r}; check the path in url, and headers")
        accepted = base64.b64encode(hashlib.sha1(key + _GUID).digest())  # noqa: S324 - as the RFC says
        if accepted.lower() not in head.lower():
            raise BrokerError("its WebSocket handshake is wrong")

    def _read_head(self) -> bytes:
        while b"\r\n\r\n" not in self._raw:
            try:
                data = self._sock.recv(4096)
            except ConnectionError:
                data = b""
            self._raw += data
            if not self._raw.startswith(b"HTTP/"[: len(self._raw)]) or not data:
                raise BrokerError("it does not speak WebSocket; url must name that port, or begin with mqtt")
            if len(self._raw) > _HEAD_LIMIT_BYTES:
                raise BrokerError("its WebSocket handshake has no end")
        head, _, rest = bytes(self._raw).partition(b"\r\n\r\n")
        self._raw = bytearray(rest)
        return head

    # --- as a socket ---

    def recv(self, size: int) -> bytes:
        """The bytes that have arrived, at most about `size`; empty at the end. Raises BlockingIOError."""
        found = self._decode() if self._raw else b""  # what came with the handshake
        if not found and not self._closed:
            data = self._sock.recv(size)
            if not data:
                return b""
            self._raw += data
            found = self._decode()
        if not found and not self._closed:
            raise BlockingIOError
        return found

    def send(self, data: bytes | bytearray) -> int:
        """Send the first bytes of `data` in a frame, or go on with one that was cut short. The caller passes
        the same bytes again after a BlockingIOError."""
        if not self._frame:
            self._framed = min(len(data), _FRAME_BYTES)
            self._frame = _frame(_BINARY, bytes(data[: self._framed]))
        sent = self._sock.send(self._frame)
        self._frame = self._frame[sent:]
        if self._frame:
            raise BlockingIOError
        return self._framed

    def pending(self) -> int:
        """Return the number of bytes that TLS holds and the operating system no longer knows of."""
        pending = getattr(self._sock, "pending", None)
        return len(self._raw) + (pending() if pending is not None else 0)

    def fileno(self) -> int:
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        self._sock.setblocking(flag)

    def close(self) -> None:
        self._sock.close()

    # --- inside ---

    def _decode(self) -> bytes:
        """Take the payload of data frames out of what was read; answer what the frames between ask for."""
        found = bytearray()
        while self._raw:
            if self._payload_left:
                part = self._raw[: self._payload_left]
                found += part
                self._payload_left -= len(part)
                del self._raw[: len(part)]
                continue
            header = _header(self._raw)
            if header is None:
                break
            kind, header_bytes, payload_bytes = header
            if kind >= _CLOSE:
                if len(self._raw) < header_bytes + payload_bytes:
                    break
                self._control(kind, bytes(self._raw[header_bytes : header_bytes + payload_bytes]))
                del self._raw[: header_bytes + payload_bytes]
            else:
                self._payload_left = payload_bytes
                del self._raw[:header_bytes]
        return bytes(found)

    def _control(self, kind: int, payload: bytes) -> None:
        self._closed = self._closed or kind == _CLOSE
        if kind == _PING and not self._frame:  # between two frames; a ping is repeated
            self._sock.send(_frame(_PONG, payload))


def _header(raw: bytearray) -> tuple[int, int, int] | None:
    """Kind, length of the header and of the payload; None until the header is complete."""
    if len(raw) < 2:
        return None
    length = raw[1] & 0x7F
    if length < _SHORT:
        return raw[0] & 0x0F, 2, length
    size = 2 if length == _SHORT else 8
    if len(raw) < 2 + size:
        return None
    return raw[0] & 0x0F, 2 + size, int.from_bytes(raw[2 : 2 + size], "big")


def _frame(kind: int, payload: bytes) -> bytes:
    """A whole frame, masked, as a client must."""
    size, mask = len(payload), os.urandom(4)
    if size < _SHORT:
        length = bytes([0x80 | size])
    elif size < _TWO_BYTES:
        length = bytes([0x80 | _SHORT]) + size.to_bytes(2, "big")
    else:
        length = bytes([0xFF]) + size.to_bytes(8, "big")
    key = (mask * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
    return bytes([0x80 | kind]) + length + mask + masked
