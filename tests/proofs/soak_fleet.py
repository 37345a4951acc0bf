"""A fleet that publishes at a steady rate, from a process of its own."""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gateway.lab.load import WINDOW, connected, encode_publish

TURN_S = 0.02
HALLS = 20


class Fleet:
    """A running fleet. `acknowledged` counts what the broker has taken, `behind_s` how late the fleet is."""

    def __init__(self) -> None:
        shared = multiprocessing.get_context("spawn")
        self.count = shared.Value("q", 0)
        self.late_s = shared.Value("d", 0.0)
        self.process: Any = None

    @property
    def acknowledged(self) -> int:
        return int(self.count.value)

    @property
    def behind_s(self) -> float:
        return float(self.late_s.value)

    @property
    def running(self) -> bool:
        return bool(self.process.is_alive())


@contextmanager
def publishing_fleet(
    port: int,
    devices: int,
    rate_per_s: int,
    seconds: float,
    topics: Sequence[str] = ("sensors/h{hall}/d{device}",),
) -> Iterator[Fleet]:
    """`rate_per_s * seconds` readings of `devices` devices and on `topics` in turn; it ends by itself."""
    fleet = Fleet()
    arguments = port, devices, rate_per_s, round(rate_per_s * seconds), fleet.count, fleet.late_s, topics
    fleet.process = multiprocessing.get_context("spawn").Process(target=_publish, args=arguments)
    fleet.process.start()
    try:
        yield fleet
    finally:
        fleet.process.kill()
        fleet.process.join()


def _publish(
    port: int, devices: int, rate_per_s: int, readings: int, count: Any, late_s: Any, topics: Sequence[str]
) -> None:
    """Keep to the schedule; when the broker is slow to acknowledge, wait for it and catch up later."""
    with connected("127.0.0.1", port, "fleet", clean=True) as sock:
        started_s, sent, acked_bytes = time.monotonic(), 0, 0
        while count.value < readings:
            due = min(readings, round((time.monotonic() - started_s) * rate_per_s))
            room = WINDOW - (sent - count.value)
            if due > sent and room > 0:
                numbers = range(sent, min(due, sent + room))
                sock.sendall(b"".join(_packet(number, devices, topics) for number in numbers))
                sent = numbers.stop
            late_s.value = (due - sent) / rate_per_s
            acked_bytes += _acks(sock)
            count.value = acked_bytes // 4


def _packet(number: int, devices: int, topics: Sequence[str]) -> bytes:
    device = number % devices
    now_ms = time.time_ns() // 1_000_000
    payload = b'{"n":%d,"t":%d,"v":%.2f,"unit":"C","battery":%d}' % (
        *(number, now_ms, 20 + device % 10 + number % 97 / 97),
        100 - number % 60,
    )
    topic = topics[number % len(topics)].format(hall=device % HALLS, device=device)
    return encode_publish(topic, payload, number % 65_535 + 1)


def _acks(sock: socket.socket) -> int:
    """How many bytes of acknowledgements came within a turn; four each."""
    sock.settimeout(TURN_S)
    try:
        got = sock.recv(65536)
    except TimeoutError:
        return 0
    if not got:
        raise ConnectionError("the broker has closed the fleet's connection")
    return len(got)
