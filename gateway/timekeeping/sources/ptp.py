"""PTP as a source of time: linuxptp's `ptp4l` through its management socket, or a PTP clock device.

The socket tells whether there is a master at all, and how far the system clock is from it; the message format
is that of IEEE 1588, 15.4. A device (`/dev/ptp0`) only shows what its clock shows: it is for setups in which
something else keeps that clock right, and it counts in TAI.

After the master has died ptp4l goes on saying `gmPresent`; so the port's state is what is trusted.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gateway.timekeeping.estimate import OffsetSample
from gateway.timekeeping.sources.source import Measured, Reference, readable

POLL_EVERY_S = 2.0
ANSWER_WITHIN_S = 1.0
TAI_AHEAD_S = 37  # since 2017; no leap second has been announced since
DEVICE_S = 1e-5

UNCALIBRATED, SLAVE = 8, 9
# Software timestamps of a busy machine; hardware is far below what milliseconds can show. A ptp4l that only
# watches (`free_running`) never gets beyond UNCALIBRATED.
_UNCERTAINTY_S = {UNCALIBRATED: 1e-3, SLAVE: 5e-5}
_PORT_DATA_SET, _TIME_STATUS_NP = 0x2004, 0xC000
_HEADER = struct.Struct(">BBHBBHqI10sHBb10sBBBBHHH")
_MANAGEMENT, _VERSION, _GET, _RESPONSE, _TLV = 0x0D, 0x02, 0, 2, 1
_EVERY_PORT = b"\xff" * 10
_STATES = (
    "",
    "INITIALIZING",
    "FAULTY",
    "DISABLED",
    "LISTENING",
    "PRE_MASTER",
    "MASTER",
    "PASSIVE",
    "UNCALIBRATED",
    "SLAVE",
)


class Answer(NamedTuple):
    """A management response: which data set, and its bytes."""

    data_set: int
    data: bytes


def question(data_set: int, sequence: int) -> bytes:
    """A management message that asks all ports for a data set."""
    length = _HEADER.size
    return _HEADER.pack(
        _MANAGEMENT, _VERSION, length, 0, 0, 0, 0, 0, b"\0" * 10, sequence & 0xFFFF, 4, 0x7F,
        _EVERY_PORT, 0, 0, _GET, 0, _TLV, 2, data_set,
    )  # fmt: skip


def parse(message: bytes) -> Answer | None:
    """The answer in a message; None when it is something else, an error among it."""
    if len(message) < _HEADER.size:
        return None
    kind, *_, action, _, tlv, _, data_set = _HEADER.unpack_from(message)
    if kind & 0x0F != _MANAGEMENT or action & 0x0F != _RESPONSE or tlv != _TLV:
        return None
    return Answer(data_set, message[_HEADER.size :])


class PtpDaemonSource:
    """Asks ptp4l for the state of its ports and how far the system clock is from the master."""

    def __init__(self, path: Path, reference: Reference) -> None:
        self.name = "ptp"
        self.problem = "no answer yet"
        self.port_state = ""
        self._path = path
        self._own_path = path.with_name(f"{path.name}.gateway-{os.getpid()}")
        self._reference = reference
        self._socket: socket.socket | None = None
        self._sequence = 0
        self._next_s = 0.0
        self._ingress_ns = 0
        self._uncertainty_s = 0.0

    @property
    def socket_number(self) -> int | None:
        return None if self._socket is None else self._socket.fileno()

    @property
    def due_s(self) -> float:
        return self._next_s

    def turn(self, now_s: float) -> Iterator[Measured]:
        if self._socket is not None:
            yield from self._receive(self._socket, now_s)
        if now_s >= self._next_s:
            self._next_s = now_s + POLL_EVERY_S
            self._ask()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._own_path.unlink(missing_ok=True)

    def _ask(self) -> None:
        self._sequence += 1
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
                # ptp4l answers to a file only. Beside its own one both can reach it, in containers too.
                self._own_path.unlink(missing_ok=True)
                self._socket.bind(str(self._own_path))
                self._socket.connect(str(self._path))
            # The port's state first: what comes after it is judged by it.
            self._socket.send(question(_PORT_DATA_SET, self._sequence))
            self._socket.send(question(_TIME_STATUS_NP, self._sequence))
        except OSError as exc:
            self.problem, self.port_state = f"{self._path}: {exc.strerror or exc}", ""
            self.close()

    def _receive(self, connection: socket.socket, now_s: float) -> Iterator[Measured]:
        while readable([connection.fileno()], 0):
            try:
                answer = parse(connection.recv(2048))
            except OSError as exc:
                self.problem, self.port_state = str(exc), ""
                self.close()
                return
            if answer is not None:
                yield from self.understand(answer, now_s)

    def understand(self, answer: Answer, now_s: float) -> Iterator[Measured]:
        """Yield the content of an answer: the port's state, or the offset."""
        if answer.data_set == _PORT_DATA_SET and len(answer.data) > 10:
            state = answer.data[10]
            self.port_state = _STATES[state] if state < len(_STATES) else str(state)
            self.problem = "" if state in _UNCERTAINTY_S else f"the port is {self.port_state}"
            self._uncertainty_s = _UNCERTAINTY_S.get(state, 0.0)
        elif answer.data_set == _TIME_STATUS_NP and len(answer.data) >= 16 and not self.problem:
            master_offset_ns, ingress_ns = struct.unpack_from(">qq", answer.data)
            if ingress_ns != self._ingress_ns:  # else no message of the master has come since
                self._ingress_ns = ingress_ns
                offset_s = self._reference.wall_offset_s() - master_offset_ns / 1e9
                yield Measured(self.name, OffsetSample(now_s, offset_s, self._uncertainty_s))


class PtpDeviceSource:
    """Reads a PTP hardware clock, which counts in TAI."""

    def __init__(self, path: Path, reference: Reference) -> None:
        self.name = f"ptp:{path.name}"
        self.problem = "not read yet"
        self.socket_number: int | None = None
        self._path = path
        self._reference = reference
        self._file: int | None = None
        self._next_s = 0.0

    @property
    def due_s(self) -> float:
        return self._next_s

    def turn(self, now_s: float) -> Iterator[Measured]:
        if now_s < self._next_s:
            return
        self._next_s = now_s + POLL_EVERY_S
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_RDONLY)
            offset_s, wait_s = self._compare(clock_of(self._file))
        except OSError as exc:
            self.problem = f"{self._path}: {exc.strerror or exc}"
            self.close()
            return
        self.problem = ""
        yield Measured(self.name, OffsetSample(now_s, offset_s, DEVICE_S + wait_s / 2))

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _compare(self, clock: int) -> tuple[float, float]:
        """Return how far the device is ahead of the reference, and how long reading it took."""
        before_ns = self._reference.now_ns()
        shown_ns = time.clock_gettime_ns(clock) - TAI_AHEAD_S * 10**9
        after_ns = self._reference.now_ns()
        return (shown_ns - (before_ns + after_ns) // 2) / 1e9, (after_ns - before_ns) / 1e9


def clock_of(file: int) -> int:
    """The clock id of an open clock device: FD_TO_CLOCKID of the kernel's `posix-timers`."""
    return ~file << 3 | 3


def ptp_source(path: Path, reference: Reference) -> PtpDaemonSource | PtpDeviceSource:
    """The source for `/dev/ptp…` or for ptp4l's socket."""
    is_device = str(path).startswith("/dev/")
    return PtpDeviceSource(path, reference) if is_device else PtpDaemonSource(path, reference)
