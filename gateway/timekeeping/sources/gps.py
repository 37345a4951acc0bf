"""A GPS receiver as a source of time, through gpsd's JSON protocol (TCP 2947).

A TPV report says what time it was at the last fix; it comes over a serial line, some 0.1 s late and never the
same, so a GPS without a pulse is worse than most NTP servers. With a pulse per second (PPS) gpsd compares the
pulse with the system clock and says both, in nanoseconds: then GPS is the best source there is.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Iterator
from typing import Any

import orjson

from gateway.core.clock import uptime_ns
from gateway.core.timestamps import timestamp_reader
from gateway.timekeeping.discipline import GPS
from gateway.timekeeping.estimate import OffsetSample
from gateway.timekeeping.sources.source import Measured, Reference

GPSD_PORT = 2947
_WATCH = b'?WATCH={"enable":true,"json":true,"pps":true};\n'
_CONNECT_WITHIN_S = 2.0
_RETRY_EVERY_S = 10.0
_SILENT_AFTER_S = 15.0
_SERIAL_S = 0.2  # how late a report may be: 4800 baud need so long for a cycle of sentences
_PULSE_S = 1e-4  # an interrupt's latency on a busy machine
_STALE_READ_S = 0.1
_MAX_LINE_BYTES = 64 * 1024
_FIX_2D = 2
_read_iso = timestamp_reader("iso")


class GpsSource:
    """A connection to gpsd, made again when it is lost. Only reports with a fix count."""

    def __init__(self, host: str, port: int, reference: Reference) -> None:
        self.name = GPS
        self.problem = "not connected yet"
        self.satellites = 0
        self._address = (host, port)
        self._reference = reference
        self._socket: socket.socket | None = None
        self._rest = b""
        self._next_s = 0.0
        self._turned_s = 0.0

    @property
    def socket_number(self) -> int | None:
        return None if self._socket is None else self._socket.fileno()

    @property
    def due_s(self) -> float:
        return self._next_s

    def turn(self, now_s: float) -> Iterator[Measured]:
        if self._socket is not None:
            yield from self._read(self._socket, now_s)
        if now_s >= self._next_s:
            self._connect()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> None:
        """Connect anew, also after a long silence: a half-open connection looks like that."""
        self.close()
        self._rest = b""
        try:
            self._socket = socket.create_connection(self._address, _CONNECT_WITHIN_S)
            self._socket.sendall(_WATCH)
            self._socket.setblocking(False)
            self.problem = self.problem or "gpsd says nothing"
        except OSError as exc:
            self._lose(str(exc))
        wait_s = _RETRY_EVERY_S if self._socket is None else _SILENT_AFTER_S
        self._turned_s = uptime_ns() / 1e9
        self._next_s = self._turned_s + wait_s

    def _read(self, connection: socket.socket, now_s: float) -> Iterator[Measured]:
        late, self._turned_s = now_s - self._turned_s > 1 + _STALE_READ_S, now_s
        try:
            read = connection.recv(65536)
        except BlockingIOError:
            return
        except OSError as exc:
            self._lose(str(exc))
            return
        if not read or len(self._rest) > _MAX_LINE_BYTES:
            self._lose("gpsd closed the connection")
            return
        *lines, self._rest = (self._rest + read).split(b"\n")
        if late:
            return  # it may have waited in the socket while this thread looked up a name
        for line in lines:
            yield from self.report(line, now_s)

    def report(self, line: bytes, now_s: float) -> Iterator[Measured]:
        """Yield what one line of gpsd says about the time; anything else in it is passed over."""
        # A sentence without a time, or with something else where a number should be, says nothing.
        with contextlib.suppress(orjson.JSONDecodeError, TypeError, ValueError, KeyError):
            said = orjson.loads(line)
            if type(said) is not dict:
                return
            match said.get("class"):
                case "TPV":
                    yield from self._fix(said, now_s)
                case "PPS":
                    yield self._pulse(said, now_s)
                case "SKY":
                    self.satellites = sum(1 for one in said.get("satellites", ()) if one.get("used"))

    def _fix(self, said: dict[str, Any], now_s: float) -> Iterator[Measured]:
        if said.get("mode", 0) < _FIX_2D or "time" not in said:
            self.problem = "no fix"
            self._next_s = now_s + _SILENT_AFTER_S
            return
        time_ms = _read_iso(said["time"])
        if time_ms is None:
            return
        offset_s = time_ms / 1000 - self._reference.now_ns() / 1e9
        # It is between 0 and _SERIAL_S late: put it in the middle.
        yield self._measured(now_s, offset_s + _SERIAL_S / 2, _SERIAL_S / 2 + float(said.get("ept", 0.005)))

    def _pulse(self, said: dict[str, Any], now_s: float) -> Measured:
        """gpsd compares with the system clock, so what that is ahead of the reference has to be added."""
        ahead_s = said["real_sec"] - said["clock_sec"] + (said["real_nsec"] - said["clock_nsec"]) / 1e9
        precision_s = 2.0 ** min(0, int(said.get("precision", -20)))
        return self._measured(now_s, ahead_s + self._reference.wall_offset_s(), _PULSE_S + precision_s)

    def _measured(self, now_s: float, offset_s: float, uncertainty_s: float) -> Measured:
        if not math.isfinite(offset_s + uncertainty_s):
            raise ValueError("gpsd sent an invalid number")
        self.problem = ""
        self._next_s = now_s + _SILENT_AFTER_S
        return Measured(self.name, OffsetSample(now_s, offset_s, uncertainty_s))

    def _lose(self, problem: str) -> None:
        self.problem = problem
        self._next_s = uptime_ns() / 1e9 + _RETRY_EVERY_S
        self.close()
