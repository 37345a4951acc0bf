"""A socket that reads ahead and writes in one go, between paho and the operating system.

paho reads a packet in three `recv` calls and writes every acknowledgement with a `send` of its own. With
thousands of small packets per second these system calls are most of the cost; here they are one each per
turn of the loop (docs/performance.md).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import sys
from fcntl import ioctl
from struct import unpack
from termios import TIOCOUTQ

from gateway.mqtt.liveness import Traffic
from gateway.mqtt.websocket import WebSocket

_READ_BYTES = 256 * 1024
_TLS_RECORD_LIMIT_BYTES = 16 * 1024
_TLS_RECORD_BYTES = 22  # header, type and tag of a record of TLS 1.3 (RFC 8446, section 5.2)
_ACKNOWLEDGED = slice(120, 128)  # `tcpi_bytes_acked` in Linux's `struct tcp_info`
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class BufferedSocket:
    """Wraps a connected, non-blocking socket with the methods that paho calls. For one thread.

    `fill` reads what has arrived, `flush` sends what was written; paho's own `recv` and `send` only touch
    the buffers. The write buffer is bounded by what one turn of the loop may write.
    """

    def __init__(self, sock: socket.socket | WebSocket) -> None:
        self._sock = sock
        self.first_bytes = b""  # what came first, to tell what kind of peer it is
        self._inbox = b""
        self._read = 0
        self._outbox = bytearray()
        self._closed_by_peer = False
        self._record_bytes = _TLS_RECORD_BYTES if isinstance(sock, ssl.SSLSocket) else 0
        self._sent_bytes = 0
        self._received_bytes = 0

    # --- for the loop ---

    def fill(self) -> None:
        """Read what the operating system holds. Raises OSError when the connection broke."""
        if self._read < len(self._inbox):
            return
        try:
            data = self._sock.recv(_READ_BYTES)
        except _WOULD_BLOCK:
            return
        self._closed_by_peer = not data
        self.first_bytes = self.first_bytes or data[:16]
        self._received_bytes += len(data)
        self._inbox, self._read = data, 0

    def flush(self) -> None:
        """Send what was written, as far as the peer takes it. Raises OSError when the connection broke."""
        while self._outbox:
            try:
                sent = self._sock.send(self._outbox)
            except _WOULD_BLOCK:
                return
            self._sent_bytes += sent + self._record_bytes * -(-sent // _TLS_RECORD_LIMIT_BYTES)
            del self._outbox[:sent]

    def confirm_at_once(self) -> None:
        """Let the system confirm at once (TCP) what has come, where it can; good until the next `fill`.

        Servers hold back a small packet, such as a PUBACK, until the one before it is confirmed (Nagle's
        algorithm), and systems take up to 40 ms for that.
        """
        with contextlib.suppress(OSError, AttributeError):  # it is gone, or this is no Linux
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    @property
    def ahead(self) -> tuple[bytes, int]:
        """Buffer of bytes read ahead, and the position of the first one not taken yet."""
        return self._inbox, self._read

    def skip_to(self, at: int) -> None:
        """The bytes of `ahead` before `at` have been taken."""
        self._read = at

    @property
    def readable(self) -> bool:
        """True if `recv` has something to give: bytes, or the end of the stream."""
        return self._read < len(self._inbox) or self._closed_by_peer

    @property
    def wire_bytes(self) -> int:
        """Bytes given to the operating system so far, with the records of TLS, and those that wait for it.
        Without TCP's own headers and the TLS handshake."""
        return self._sent_bytes + len(self._outbox)

    @property
    def unsent_bytes(self) -> int:
        return len(self._outbox)

    @property
    def traffic(self) -> Traffic:
        """Bytes received and acknowledged so far, and those still queued. Where the system does not tell
        what the peer has acknowledged, nothing counts as queued."""
        try:
            with socket.socket(fileno=os.dup(self.fileno())) as raw:
                info = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.stop)
        except (OSError, AttributeError):
            return Traffic(self._received_bytes)
        queued = unpack("i", ioctl(self.fileno(), TIOCOUTQ, bytes(4)))[0] + len(self._outbox)
        return Traffic(self._received_bytes, int.from_bytes(info[_ACKNOWLEDGED], sys.byteorder), queued)

    # --- for paho ---

    def recv(self, size: int) -> bytes:
        if self._read >= len(self._inbox):
            if self._closed_by_peer:
                return b""
            raise BlockingIOError
        data = self._inbox[self._read : self._read + size]
        self._read += len(data)
        return data

    def send(self, data: bytes) -> int:
        self._outbox += data
        return len(data)

    def pending(self) -> int:
        return 0 if type(self._sock) is socket.socket else self._sock.pending()  # type: ignore[union-attr]

    def fileno(self) -> int:
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        self._sock.setblocking(flag)

    def close(self) -> None:
        """Send what the peer still takes, then close: paho closes right behind its DISCONNECT."""
        with contextlib.suppress(OSError):
            self.flush()
        self._sock.close()


class Readiness:
    """Waits until one connection has something to do, or `wakeup` is written to. `poll`, because `select`
    fails in a process with more than 1,024 descriptors."""

    def __init__(self, connection: BufferedSocket, wakeup: socket.socket) -> None:
        self._connection = connection
        self._wakeup = wakeup
        self._watched = 0
        self._poll = select.poll()
        self._poll.register(wakeup, select.POLLIN)

    def wait(self, wait_s: float, *, reading: bool) -> bool:
        """Wait for `wait_s` at most; return whether something to read was there already."""
        self._watch(reading)
        if reading and self._connection.pending():
            wait_s = 0.0
        ready = dict(self._poll.poll(0))
        data_waited = bool(ready.get(self._connection.fileno(), 0) & select.POLLIN)
        if not ready and wait_s > 0:
            ready = dict(self._poll.poll(wait_s * 1000))
        if self._wakeup.fileno() in ready:
            self._wakeup.recv(4096)
        return data_waited

    def _watch(self, reading: bool) -> None:
        wanted = reading * select.POLLIN | bool(self._connection.unsent_bytes) * select.POLLOUT
        if wanted != self._watched:
            if self._watched:
                self._poll.unregister(self._connection)
            if wanted:
                self._poll.register(self._connection, wanted)
            self._watched = wanted
