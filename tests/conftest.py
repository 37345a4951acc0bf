"""What every test may count on: real brokers, room to run in parallel, and Hypothesis without a stopwatch."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn, Protocol

import pytest
from hypothesis import settings

from tests.support.broker_kinds import REASONS, best_broker_kind
from tests.support.brokers import Broker, BrokerSetup, make_broker
from tests.support.ports import free_port
from tests.support.postgres import postgres_server


class MosquittoFactory(Protocol):
    """Makes running brokers; see the fixture `mosquitto`."""

    def __call__(
        self,
        config_lines: Sequence[str] = (),
        port: int | None = None,
        persistence: Path | None = None,
        extra_ports: Sequence[int] = (),
    ) -> Broker: ...


WORKERS_PER_CORE = 3  # most of a test's time is waiting: for a broker, a disk or a deadline
MOST_WORKERS = 12
SLOW_TIMEOUT_S = 3600
PROOFS = Path(__file__).with_name("proofs")

# A busy machine is no failure, so nothing has a deadline. "small" is for `make test`,
# "large" for `make test-long`.
settings.register_profile("small", deadline=None, print_blob=True, max_examples=40)
settings.register_profile("large", deadline=None, print_blob=True, max_examples=250)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "small"))


def pytest_xdist_auto_num_workers() -> int:
    """Return how many tests run at once with `-n auto`."""
    return min(MOST_WORKERS, WORKERS_PER_CORE * len(os.sched_getaffinity(0)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the long forms more time than a hung test gets, and begin with the proofs, which wait longest."""
    items.sort(key=lambda item: PROOFS not in item.path.parents)  # or the end would be one worker that waits
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_S))


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name bytes that nobody can read after their argument: all workers must see the same names of tests."""
    return argname if isinstance(val, bytes) and not val.isascii() else None


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The umask as it was: commands set theirs, and tests call them in this process."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def log() -> Iterator[None]:
    """The root logger as it was: commands give it a handler, on a stream that ends with the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.setLevel(level)
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)


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


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of the only PostgreSQL server of this run, without a database: `new_database` makes one."""
    with postgres_server() as url:
        yield url


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
