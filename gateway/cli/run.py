"""`gateway run`: the gateway itself, until it is told to stop."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from gateway.app import Gateway
from gateway.config import Config, load_config, warnings_of
from gateway.errors import ConfigError, GatewayError
from gateway.logs import set_up_logging

log = logging.getLogger(__name__)


class Signals:
    """What the process was told: SIGTERM and SIGINT stop it, SIGHUP makes it read its configuration again."""

    def __init__(self) -> None:
        self.stopping = False
        self._told = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, lambda *_: self._told.set())

    def wait(self) -> None:
        """Return when there is something to do."""
        self._told.wait()
        self._told.clear()

    def _stop(self, *_: object) -> None:
        self.stopping = True
        self._told.set()


def run(
    config: Annotated[Path, typer.Option("--config", "-c", help="Configuration file (YAML).")],
) -> None:
    """Run the gateway. SIGTERM or Ctrl-C stops it in order: what it acknowledged is on disk.

    SIGHUP makes it read the configuration and the plugins again: sound ones are taken up at once, with the
    buffer and the state of unchanged windows as they are; of others the problems are logged, and nothing
    changes.
    """
    signals = Signals()
    settings: Config | None = _load(config)
    proven: Config | None = None  # what ran before the current settings
    while settings is not None:
        gateway = Gateway(settings)
        try:
            gateway.start()
        except GatewayError as exc:
            if proven is None:
                raise
            log.error("the new configuration cannot be started, the one before goes on: %s", exc)
            settings, proven = proven, None
            continue
        try:
            proven = settings
            settings = _wait_for_change(config, signals)
        finally:
            gateway.stop()


def _wait_for_change(config: Path, signals: Signals) -> Config | None:
    """The configuration to go on with, or None when it is time to stop."""
    while True:
        signals.wait()
        if signals.stopping:
            return None
        try:
            return _load(config)
        except ConfigError as exc:
            log.error("the configuration is not taken up: %s", "; ".join([str(exc), *exc.problems]))


def _load(config: Path) -> Config:
    settings = load_config(config)
    set_up_logging(settings.log.level, settings.log.format)
    for warning in warnings_of(settings):
        log.warning("%s", warning)
    return settings
