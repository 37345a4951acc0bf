"""`gateway run`: the gateway itself, until it is told to stop."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from gateway.app import Gateway, run_until
from gateway.config import load_config, warnings_of
from gateway.logs import set_up_logging

log = logging.getLogger(__name__)


def run(
    config: Annotated[Path, typer.Option("--config", "-c", help="Configuration file (YAML).")],
) -> None:
    """Run the gateway. SIGTERM or Ctrl-C stops it in order: what it acknowledged is on disk."""
    settings = load_config(config)
    set_up_logging(settings.log.level, settings.log.format)
    for warning in warnings_of(settings):
        log.warning("%s", warning)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_until(Gateway(settings), stop)
