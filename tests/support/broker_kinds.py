"""Which kinds of broker can serve the tests on this machine, and why the others cannot."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.support.brokers import Broker, ContainerBroker, ProgramBroker, mosquitto_program

ENGINE_SOCKET = Path("/var/run/docker.sock")


def why_no_program() -> str:
    """Why the `mosquitto` program cannot serve, or an empty string when it can."""
    return "" if mosquitto_program() else "there is no `mosquitto` program (apt-get install mosquitto)"


@cache
def why_no_container() -> str:
    """Why containers cannot serve, or an empty string when they can. Pulls a missing image, once."""
    if "DOCKER_HOST" not in os.environ and not ENGINE_SOCKET.exists():
        return f"no Docker engine answers (there is no {ENGINE_SOCKET})"
    # Half a second of a processor, which every worker of the tests would spend.
    from tests.support.docker_engine import why_it_cannot_serve  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the SDK leaves its socket open when nobody answers
        reason = why_it_cannot_serve()
        gc.collect()
    return reason


REASONS: dict[type[Broker], Callable[[], str]] = {
    ContainerBroker: why_no_container,
    ProgramBroker: why_no_program,
}


def best_broker_kind() -> type[Broker] | None:
    """The first kind that can serve on this machine, or None."""
    return next((kind for kind, why_not in REASONS.items() if not why_not()), None)
