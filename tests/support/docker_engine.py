"""The Docker engine of this machine, and if it can run a broker for the tests."""

from __future__ import annotations

import contextlib
import socket
import tempfile
from pathlib import Path

from docker.client import DockerClient
from docker.errors import DockerException, ImageNotFound

from tests.support.brokers import IMAGE, BrokerFailedError, BrokerSetup, ContainerBroker, make_broker
from tests.support.ports import free_port

ENGINE_TIMEOUT_S = 20  # of silence, for each answer of the engine, a pull's progress included


def why_it_cannot_serve() -> str:
    """Why containers cannot serve, or an empty string when they can. Pulls a missing image."""
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
