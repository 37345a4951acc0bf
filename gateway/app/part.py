"""The parts that make up the running gateway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.core.threads import HasThread
from gateway.mqtt.link import Link
from gateway.status.gateway_status import GatewayStatus


class Part:
    """A part of the graph. The constructor stores; `start` acts and `stop` undoes it, on the main thread.

    `stop` is also called when it was never started, because the start of another part failed.

    A part names everything that has a thread: health and metrics are made of it.
    """

    def claim(self) -> None:
        """Take what only one process can have, before any part starts: a start that fails must not take
        the broker's session from the gateway that runs. Raises GatewayError."""

    def start(self, status: GatewayStatus) -> None:
        """Begin to work; `status` is what the whole gateway says of itself. Raises GatewayError."""

    def stop(self) -> None:
        """Let go of everything, after the parts that were started later have done so."""

    @property
    def links(self) -> Sequence[Link]:
        """The MQTT connections."""
        return ()

    @property
    def workers(self) -> Sequence[HasThread]:
        """Everything that has a thread of its own."""
        return self.links


class Startable(HasThread, Protocol):
    """Something on a thread of its own that needs nothing to start."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class WorkerPart(Part):
    """A worker that needs no other part to start: the timekeeper, upkeep, the embedded broker."""

    def __init__(self, worker: Startable) -> None:
        self._worker = worker

    def start(self, status: GatewayStatus) -> None:
        self._worker.start()

    def stop(self) -> None:
        self._worker.stop()

    @property
    def workers(self) -> Sequence[HasThread]:
        return (self._worker,)
