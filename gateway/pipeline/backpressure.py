"""Measures the pressure on the gateway, and passes it on to devices, acknowledgements and intake."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Protocol

import orjson

from gateway.buffer.writer import Writer
from gateway.core.clock import Clock
from gateway.flow.admission import Admission
from gateway.flow.capacity import Action, CapacityCheck, Load, Signal, ack_delay_s
from gateway.host.machine import ProcessLoad

log = logging.getLogger(__name__)

CHECK_EVERY_S = 1.0


class PressureSource(Protocol):
    """The source of messages, as far as flow control is concerned: `gateway.local.ingest.Ingest`."""

    ack_delay_s: float

    @property
    def unacknowledged(self) -> int: ...

    @property
    def window(self) -> int: ...

    @property
    def read(self) -> tuple[int, int]: ...


class Backpressure:
    """Once a second: look, decide, tell. `check` runs on the writer's thread; `signal` is read by any."""

    def __init__(
        self,
        clock: Clock,
        memory_bytes: int,
        buffer_bytes: int,
        admission: Admission,
        source: PressureSource,
        announce: Callable[[bytes], None],
    ) -> None:
        """`source` is slowed down, `announce` gets the payload of each new signal, the first one at once."""
        self.signal = Signal()
        self.load = Load()
        self._admission = admission
        self._clock = clock
        self._memory_bytes = memory_bytes
        self._buffer_bytes = buffer_bytes
        self._machine = ProcessLoad()
        self._capacity = CapacityCheck()
        self._source = source
        self._announce = announce
        self._checked_s = clock.monotonic_s()
        self._taken_in = 0
        self._read = (0, 0)
        self._rate_per_s = 0.0
        announce(backpressure_payload(self.signal))

    def describe(self) -> dict[str, object]:
        """Return what was decided and why, as plain values; from any thread."""
        return pressure_values(self.signal, self.load)

    def check(self, writer: Writer, used_bytes: Callable[[], int]) -> None:
        """Weigh the load, if it is time, and let everyone know."""
        now_s = self._clock.monotonic_s()
        elapsed_s = now_s - self._checked_s
        if elapsed_s < CHECK_EVERY_S:
            return
        self._checked_s = now_s
        self._note_rate(writer.metrics.grouped_events, elapsed_s)
        self.load = self._measure(writer, used_bytes())
        before, self.signal = self.signal, self._capacity.check_capacity(self.load, elapsed_s)
        self._admission.follow(self.signal)
        self._source.ack_delay_s = ack_delay_s(self.signal.level, self._source.window, self._rate_per_s)
        if _says_more(before, self.signal):
            self._announce(backpressure_payload(self.signal))
        if before.action is not self.signal.action:
            log.warning("backpressure: %s (%s)", self.signal.action.value, ", ".join(self.signal.reasons))

    def _note_rate(self, taken_in: int, elapsed_s: float) -> None:
        rate = (taken_in - self._taken_in) / elapsed_s
        self._taken_in = taken_in
        self._rate_per_s += 0.3 * (rate - self._rate_per_s)

    def _measure(self, writer: Writer, used_bytes: int) -> Load:
        return Load(
            cpu=self._machine.cpu(),
            queue=writer.fill,
            window=self._window_fill(),
            intake=self._intake(),
            buffer=used_bytes / self._buffer_bytes,
            memory=self._machine.memory_bytes() / self._memory_bytes,
            commit_s=writer.metrics.last_commit_s,
        )

    def _window_fill(self) -> float:
        return min(1.0, self._source.unacknowledged / self._source.window)

    def _intake(self) -> float:
        """The share of the messages that had to wait until they were read."""
        (messages, waited), before = self._source.read, self._read
        self._read = (messages, waited)
        return (waited - before[1]) / (messages - before[0]) if messages > before[0] else 0.0


def pressure_values(signal: Signal, load: Load) -> dict[str, object]:
    """Return a signal and what it was decided from, as plain values."""
    return {**_told(signal), "level": signal.level, "load": asdict(load)}


def _says_more(before: Signal, now: Signal) -> bool:
    """Return True if devices should be told: a new action, or a change of a tenth of the range."""
    if before.action is not now.action or before.priority_threshold is not now.priority_threshold:
        return True
    return int(before.level * 10) != int(now.level * 10)


def backpressure_payload(signal: Signal) -> bytes:
    """The retained message on `…/backpressure`; design 4.6."""
    return orjson.dumps(_told(signal))


def _told(signal: Signal) -> dict[str, object]:
    told: dict[str, object] = {"action": signal.action.value}
    if signal.action is not Action.NONE:
        told |= {"delay_ms": signal.delay_ms, "sample_rate": signal.sample_rate}
    if signal.priority_threshold is not None:
        told["priority_threshold"] = signal.priority_threshold.name.lower()
    return told | {"reasons": list(signal.reasons)}
