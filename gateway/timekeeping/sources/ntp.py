"""An NTP server as a source of time (RFC 5905): a client that asks seldom, checks answers, obeys refusals.

ntplib reads and writes the packets. The exchange is our own, because ntplib stamps with the system clock,
which anyone may set at any moment; here both stamps are of a clock that never jumps.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from typing import NamedTuple

import ntplib

from gateway.core.clock import uptime_ns
from gateway.timekeeping.estimate import OffsetSample
from gateway.timekeeping.sources.source import Measured, Reference, readable

log = logging.getLogger(__name__)

NTP_PORT = 123
MAX_POLL_S = 1024.0
BURST = 4  # the first questions come close together, as with ntpd's `iburst`
BURST_EVERY_S = 2.0
ANSWER_WITHIN_S = 1.5
MAX_ROOT_DISTANCE_S = 1.5  # RFC 5905's MAXDIST: a server so far from a real clock does not know the time
STEADY_AFTER = 8  # good answers in a row, after which it is asked half as often
_UNIX_EPOCH_S = 2_208_988_800  # 1970, counted from 1900
_ERA_S = 1 << 32
_TRANSMIT, _ORIGIN = slice(40, 48), slice(24, 32)
_SERVER, _UNSYNCHRONISED = 4, 3


class Exchange(NamedTuple):
    """A question and its answer, in seconds: sent and received on our scale, the rest on the server's."""

    sent_s: float
    received_s: float
    server_received_s: float
    server_sent_s: float
    root_distance_s: float

    @property
    def offset_s(self) -> float:
        """Seconds that the server is ahead; half of the round trip is taken for the way back."""
        ahead_s = self.server_received_s - self.sent_s
        return (ahead_s + self.server_sent_s - self.received_s) / 2

    @property
    def uncertainty_s(self) -> float:
        """Half of what was spent on the way, in case it was all spent in one direction, and what the server
        says about itself."""
        delay_s = self.received_s - self.sent_s - (self.server_sent_s - self.server_received_s)
        return max(delay_s, 0.0) / 2 + self.root_distance_s


class NtpSource:
    """Asks one server, every `min_poll_s` to MAX_POLL_S.

    A Kiss-o'-Death is obeyed: RATE doubles the interval for good; DENY and RSTR end the questions.
    """

    def __init__(self, host: str, port: int, min_poll_s: float, reference: Reference) -> None:
        self.name = f"ntp:{host}" if port == NTP_PORT else f"ntp:{host}:{port}"
        self.problem = "no answer yet"
        self.poll_s = self.least_poll_s = min_poll_s
        self.asked = 0
        self._address = (host, port)
        self._reference = reference
        self._socket: socket.socket | None = None
        self._nonce = b""
        self._sent_ns = 0  # on the reference
        self._give_up_s = self._next_s = 0.0  # uptime; `_next_s` is infinite once the server has refused
        self._answered = 0  # in a row

    @property
    def socket_number(self) -> int | None:
        return None if self._socket is None else self._socket.fileno()

    @property
    def due_s(self) -> float:
        return self._next_s if self._socket is None else self._give_up_s

    def turn(self, now_s: float) -> Iterator[Measured]:
        if self._socket is not None:
            yield from self._receive(self._socket, now_s)
        if self._socket is None and now_s >= self._next_s:
            self._ask()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self) -> None:
        """A socket per question: an old answer cannot be taken for a new one, the name is looked up anew."""
        self.asked += 1
        try:
            family, kind, _, _, address = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(family, kind)
            self._socket.setblocking(False)
            self._socket.connect(address)
            question = bytearray(ntplib.NTPPacket(version=4, mode=3).to_data())
            self._nonce = os.urandom(8)  # not our time: only the receiver of the question can answer it
            question[_TRANSMIT] = self._nonce
            self._sent_ns = self._reference.now_ns()
            self._socket.send(question)
        except OSError as exc:
            self._miss(str(exc))
        now_s = uptime_ns() / 1e9  # looking up the name may have taken long
        self._give_up_s = now_s + ANSWER_WITHIN_S
        self._next_s = now_s + (BURST_EVERY_S if self.asked < BURST else self.poll_s)

    def _receive(self, asking: socket.socket, now_s: float) -> Iterator[Measured]:
        ready = readable([asking.fileno()], 0)
        received_ns = self._reference.now_ns()
        if not ready:
            if now_s >= self._give_up_s:
                self._miss("no answer")
            return
        try:
            answer = asking.recv(1024)
        except OSError as exc:
            self._miss(str(exc))
            return
        if answer[_ORIGIN] != self._nonce:
            return  # not an answer to our question
        problem = self._problem_of(answer)
        if problem:
            self._miss(problem)
            return
        self.close()
        yield self._measured(answer, received_ns)

    def _problem_of(self, answer: bytes) -> str:
        """Return why this answer gives no time; obeys a Kiss-o'-Death."""
        packet = _parse(answer)
        if packet is None or packet.mode != _SERVER:
            return "the answer is not from an NTP server"
        if packet.stratum == 0:
            return self._obey(answer[12:16].decode("ascii", "replace"))
        if packet.leap == _UNSYNCHRONISED or packet.stratum > 15 or not packet.tx_timestamp:
            return "the server has no time itself"
        if _root_distance_s(packet) > MAX_ROOT_DISTANCE_S:
            return "the server is too far from a clock"
        return ""

    def _obey(self, code: str) -> str:
        if code == "RATE":
            self.least_poll_s = self.poll_s = min(self.poll_s * 2, max(MAX_POLL_S, self.least_poll_s))
            self._next_s = max(self._next_s, uptime_ns() / 1e9 + self.poll_s)
            self.asked = max(self.asked, BURST)
        elif code in ("DENY", "RSTR"):
            self._next_s = float("inf")
        log.warning("%s sent a Kiss-o'-Death: %s", self.name, code)
        return f"refused: {code}"

    def _measured(self, answer: bytes, received_ns: int) -> Measured:
        packet = ntplib.NTPPacket()
        packet.from_data(answer)
        exchange = Exchange(
            self._sent_ns / 1e9,
            received_ns / 1e9,
            _unix_s(packet.recv_timestamp),
            _unix_s(packet.tx_timestamp),
            _root_distance_s(packet),
        )
        self.problem = ""
        self._answered += 1
        if self._answered % STEADY_AFTER == 0:
            self.poll_s = min(self.poll_s * 2, max(MAX_POLL_S, self.least_poll_s))
        at_s = uptime_ns() / 1e9 - (exchange.received_s - exchange.sent_s) / 2
        fresh_s = 4 * self.poll_s + ANSWER_WITHIN_S
        return Measured(self.name, OffsetSample(at_s, exchange.offset_s, exchange.uncertainty_s, fresh_s))

    def _miss(self, problem: str) -> None:
        self.problem = problem
        self.poll_s = self.least_poll_s
        self._answered = 0
        self.close()


def _parse(answer: bytes) -> ntplib.NTPPacket | None:
    packet = ntplib.NTPPacket()
    try:
        packet.from_data(answer)
    except ntplib.NTPException:
        return None
    return packet


def _root_distance_s(packet: ntplib.NTPPacket) -> float:
    return float(packet.root_delay / 2 + packet.root_dispersion + 2.0**packet.precision)


def _unix_s(stamp_s: float) -> float:
    """The Unix time of an NTP timestamp, whose seconds begin anew in 2036."""
    return stamp_s - _UNIX_EPOCH_S + (_ERA_S if stamp_s < _ERA_S / 2 else 0)
