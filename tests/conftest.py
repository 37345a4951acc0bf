"""Fixtures that every test may use: real brokers, and Hypothesis without a stopwatch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn, Protocol

import pytest
from hypothesis import settings

from tests.support.broker_kinds import REASONS, best_broker_kind
from tests.support.brokers import Broker, BrokerSetup, free_port, make_broker


class MosquittoFactory(Protocol):
    """Makes running brokers; see the fixture `mosquitto`."""

    def __call__(
        self,
        config_lines: Sequence[str] = (),
        port: int | None = None,
        persistence: Path | None = None,
        extra_ports: Sequence[int] = (),
    ) -> Broker: ...


settings.register_profile("gateway", deadline=None, print_blob=True)  # a busy machine is no failure
settings.load_profile("gateway")


@pytest.fixture
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MosquittoFactory]:
    """Makes running brokers: `mosquitto(config_lines=(), port=None, persistence=None, extra_ports=())`.

    `persistence` is a folder: the broker keeps its queues there over a restart, and files that
    `config_lines` name must lie in it. Without it the broker forgets. `config_lines` and `extra_ports` are
    those of `brokers.BrokerSetup`. All brokers are gone when the test ends.
    """
    kind = best_broker_kind()
    if kind is None:
        no_broker("; ".join(why_not() for why_not in REASONS.values()))
    yield from broker_factory(kind, tmp_path_factory)


def broker_factory(kind: type[Broker], folders: pytest.TempPathFactory) -> Iterator[MosquittoFactory]:
    """The body of the `mosquitto` fixture, for one kind of broker."""
    with ExitStack() as cleanup:

        def make(
            config_lines: Sequence[str] = (),
            port: int | None = None,
            persistence: Path | None = None,
            extra_ports: Sequence[int] = (),
        ) -> Broker:
            setup = BrokerSetup(
                port=free_port() if port is None else port,
                extra_ports=tuple(extra_ports),
                config_lines=tuple(config_lines),
                shared_dir=folders.mktemp("mosquitto") if persistence is None else persistence,
                persistent=persistence is not None,
            )
            broker = make_broker(kind, setup)
            cleanup.callback(broker.close)
            return broker

        yield make


def no_broker(reason: str) -> NoReturn:
    """Skip, with the reason; in CI a broker must be there, so fail."""
    if os.environ.get("CI"):
        pytest.fail(f"CI needs a Mosquitto: {reason}")
    pytest.skip(reason)
