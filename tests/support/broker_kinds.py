"""Which kinds of broker can serve the tests on this machine, and why the others cannot."""

from __future__ import annotations

import contextlib
import gc
import socket
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

from docker.client import DockerClient
from docker.errors import DockerException, ImageNotFound

from tests.support.brokers import (
    IMAGE,
    Broker,
    BrokerFailedError,
    BrokerSetup,
    ContainerBroker,
    ProgramBroker,
    make_broker,
    mosquitto_program,
)
from tests.support.ports import free_port

ENGINE_TIMEOUT_S = 20  # of silence, for each answer of the engine, a pull's progress included


def why_no_program() -> str:
    """Why the `mosquitto` program cannot serve, or an empty string when it can."""
    return "" if mosquitto_program() else "there is no `mosquitto` program (apt-get install mosquitto)"


@cache
def why_no_container() -> str:
    """Why containers cannot serve, or an empty string when they can. Pulls a missing image, once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the SDK leaves its socket open when nobody answers
        reason = _ask_engine()
        gc.collect()
    return reason


def _ask_engine() -> str:
    try:
        engine = DockerClient.from_env(timeout=ENGINE_TIMEOUT_S)
    except DockerException as error:
        return f"no Docker engine answers ({_first_line(error)})"
    with contextlib.closing(engine):
        try:
            engine.images.get(IMAGE)
        except ImageNotFound:
            return _pull(engine) or _probe()
    return _probe()


def _pull(engine: DockerClient) -> str:
    try:
        engine.images.pull(IMAGE)
    except (DockerException, OSError) as error:  # OSError: requests' timeouts
        return f"the Docker engine has no image {IMAGE} and cannot pull it ({_first_line(error)})"
    return ""


def _probe() -> str:
    """An engine elsewhere answers too, but neither sees our folders nor publishes on our loopback."""
    with tempfile.TemporaryDirectory() as folder:
        setup = BrokerSetup(free_port(), (), (), Path(folder), persistent=False)
        try:
            broker = make_broker(ContainerBroker, setup)
        except (BrokerFailedError, DockerException, OSError) as error:
            return f"the Docker engine cannot run {IMAGE} here ({_first_line(error)})"
        with contextlib.closing(broker), socket.socket() as probe:
            if probe.connect_ex((broker.host, broker.port)) != 0:
                return "the Docker engine publishes its ports elsewhere, not on this machine's loopback"
    return ""


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


REASONS: dict[type[Broker], Callable[[], str]] = {
    ContainerBroker: why_no_container,
    ProgramBroker: why_no_program,
}


def best_broker_kind() -> type[Broker] | None:
    """The first kind that can serve on this machine, or None."""
    return next((kind for kind, why_not in REASONS.items() if not why_not()), None)
