"""A simulated fleet of devices: what they publish, and when, as one deterministic sequence.

Devices take turns, so each reports at the same interval. Their values vary slowly. Their clocks are off by
a constant and drift; that is the time they write into their payloads. On the way, messages may be delayed
a little (disorder), a lot (late), sent twice (duplicates), or held back together (an outage of the network,
after which everything arrives at once). The same parameters give the same sequence.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from gateway.lab.device_payloads import PRESETS, DevicePayload

_DISORDER_MS = 2_000  # how long a message in disorder is held back at most
_LATE_MS = (10_000, 60_000)
_DUPLICATE_MS = 1_000
_DRIFT_PPM = 50.0  # a cheap quartz
_PERIOD_MS = (60_000, 600_000)  # of a value's slow wave


class Publication(NamedTuple):
    """A message of the fleet. Times are ms since the epoch.

    `event_time_ms` is the time in the payload, by the device's clock; where the payload has none, it is
    when the reading was taken.
    """

    topic: str
    payload: bytes
    event_time_ms: int
    send_at_ms: int


@dataclass(frozen=True)
class Outage:
    """A stretch in which nothing gets through, from the start of the simulation."""

    from_ms: int
    length_ms: int


@dataclass(frozen=True)
class FleetSpec:
    """Settings of a simulated fleet. Fractions are of the messages; `count` bounds the readings, None is
    endless."""

    devices: int = 100
    rate_per_s: float = 500.0
    preset: str = "tasmota"
    count: int | None = None
    skew_ms: int = 0
    disorder: float = 0.0
    late: float = 0.0
    duplicates: float = 0.0
    outage: Outage | None = None
    seed: int = 1


def simulate(spec: FleetSpec, start_ms: int) -> Iterator[Publication]:
    """Yield the messages of the fleet, in the order of sending. `start_ms` is when it begins.

    What is still held back when the last reading has been taken is sent then.
    """
    randomness = random.Random(spec.seed)
    devices = [_Device(number, spec.skew_ms, randomness) for number in range(spec.devices)]
    last_ms = math.inf if spec.count is None else _taken_ms(spec, start_ms, max(spec.count - 1, 0))
    waiting: list[tuple[int, int, Publication]] = []
    for number in range(spec.count) if spec.count is not None else _forever():
        taken_ms = _taken_ms(spec, start_ms, number)
        while waiting and waiting[0][0] <= taken_ms:
            yield heapq.heappop(waiting)[2]
        turn, device = divmod(number, len(devices))
        reading = devices[device].read(turn, taken_ms, start_ms, randomness)
        topic, payload, event_time_ms = PRESETS[spec.preset](reading)
        for copy, delay_ms in enumerate(_delays(spec, randomness)):
            send_at_ms = int(min(_after_outage(spec.outage, taken_ms + delay_ms, start_ms), last_ms))
            publication = Publication(topic, payload, event_time_ms, send_at_ms)
            heapq.heappush(waiting, (send_at_ms, number * 2 + copy, publication))
    while waiting:
        yield heapq.heappop(waiting)[2]


def _taken_ms(spec: FleetSpec, start_ms: int, number: int) -> int:
    return start_ms + round(number * 1000 / spec.rate_per_s)


def _forever() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def _delays(spec: FleetSpec, randomness: random.Random) -> Iterator[int]:
    """Yield the delay of each copy of a message."""
    chance, delay_ms = randomness.random(), 0
    if chance < spec.late:
        delay_ms = randomness.randint(*_LATE_MS)
    elif chance < spec.late + spec.disorder:
        delay_ms = randomness.randint(1, _DISORDER_MS)
    yield delay_ms
    if randomness.random() < spec.duplicates:
        yield delay_ms + randomness.randint(0, _DUPLICATE_MS)


def _after_outage(outage: Outage | None, time_ms: int, start_ms: int) -> int:
    if outage is None:
        return time_ms
    since_ms = time_ms - start_ms - outage.from_ms
    return time_ms + outage.length_ms - since_ms if 0 <= since_ms < outage.length_ms else time_ms


class _Device:
    """A device with a clock that is off, and three values on slow waves."""

    def __init__(self, number: int, skew_ms: int, randomness: random.Random) -> None:
        self._name = f"sensor-{number:03}"
        self._offset_ms = randomness.uniform(-skew_ms, skew_ms)
        self._drift = randomness.uniform(-_DRIFT_PPM, _DRIFT_PPM) * 1e-6 if skew_ms else 0.0
        self._period_ms = randomness.uniform(*_PERIOD_MS)
        self._phase = randomness.uniform(0, math.tau)
        self._base = (randomness.gauss(21, 2), randomness.gauss(45, 5), randomness.gauss(1005, 3))

    def read(self, turn: int, time_ms: int, start_ms: int, randomness: random.Random) -> DevicePayload:
        elapsed_ms = time_ms - start_ms
        wave = math.sin(self._phase + math.tau * elapsed_ms / self._period_ms)
        temperature, humidity, pressure = self._base
        return DevicePayload(
            self._name,
            turn,
            time_ms + round(self._offset_ms + self._drift * elapsed_ms),
            round(temperature + 3 * wave + randomness.gauss(0, 0.1), 1),
            round(humidity - 5 * wave + randomness.gauss(0, 0.3), 1),
            round(pressure + wave + randomness.gauss(0, 0.1), 1),
        )
