"""What a centre sees of its sites: the records on its own broker, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gateway.core.clock import SteadyClock
from gateway.fleet.board import Board
from gateway.fleet.listener import FleetListener
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.link import Link
from tests.support.gateways import HOST, wait_until


class Centre:
    """Listens as `gateway fleet status` does."""

    def __init__(self, port: int) -> None:
        self._board = Board()
        self._listener = FleetListener(self._board, "gateway")
        self._clock = SteadyClock()
        self._link = Link("centre", Endpoint(HOST, port, "centre"), self._listener)

    @contextmanager
    def listening(self) -> Iterator[None]:
        self._link.start()
        try:
            wait_until(self._listener.subscribed_once.is_set, "the centre listens")
            yield
        finally:
            self._link.stop()

    def alarms(self, site: str) -> tuple[str, ...]:
        """Alarms of a site, as `gateway fleet status` prints them; none while nothing is known of it."""
        with self._listener.lock:
            states = self._board.states(self._clock.now_ms())
        return next((state.alarms for state in states if state.gateway == site), ())

    def is_online(self, site: str) -> bool:
        with self._listener.lock:
            states = self._board.states(self._clock.now_ms())
        return any(state.gateway == site and state.state == "online" for state in states)

    def config(self, site: str) -> dict[str, Any]:
        """The part `config` of a site's status."""
        with self._listener.lock:
            states = self._board.states(self._clock.now_ms())
        more = next((state.more for state in states if state.gateway == site), {})
        return dict(more.get("config", {}))

    def judged(self, site: str) -> tuple[str, str]:
        """Version of a site's last remote configuration, and what became of it."""
        config = self.config(site)
        return config.get("remote_version", ""), config.get("remote_state", "")
