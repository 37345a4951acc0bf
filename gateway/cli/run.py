"""`gateway run`: the gateway itself, until it is told to stop."""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Annotated

import typer

from gateway.app.configuration import Configuration, Loaded, load_file
from gateway.app.gateway import Gateway
from gateway.cli.settings import DEFAULT_CONFIG
from gateway.config import Config, warnings_of
from gateway.config.differences import changed_keys
from gateway.core.errors import ConfigError, DamageError, GatewayError
from gateway.host.files import PRIVATE
from gateway.host.garbage import Collections
from gateway.host.logs import set_up_logging
from gateway.host.memory import use_one_heap
from gateway.host.systemd import Service

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
MENDED_ONCE_IN_S = 600.0  # a file that is damaged again so soon is on a disk that must be replaced


class Mending:
    """A damaged buffer is mended by a new start, in the same process; but not again and again."""

    def __init__(self) -> None:
        self._last_s = -math.inf

    def again(self, problem: str) -> None:
        """Go on to a new start. Raises DamageError when the last one was not long ago."""
        now_s = time.monotonic()
        if now_s - self._last_s < MENDED_ONCE_IN_S:
            raise DamageError(
                f"the buffer's file is damaged again: {problem}", hint="check the disk and the memory"
            )
        self._last_s = now_s
        log.error(
            "the buffer's file is damaged, the gateway starts anew to save what is readable: %s", problem
        )


class Signals:
    """Signals sent to the process: SIGTERM and SIGINT stop it, SIGHUP makes it read its configuration
    again."""

    def __init__(self) -> None:
        self.stopping = False
        # Its `put` may interrupt its own `get` (an Event's `set` could wait for its own thread).
        self._told: SimpleQueue[None] = SimpleQueue()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, lambda *_: self._told.put(None))

    def wait(self, timeout_s: float | None) -> bool:
        """Wait up to `timeout_s` for a signal; return True when one arrived."""
        try:
            self._told.get(timeout=timeout_s)
        except Empty:
            return False
        return True

    def _stop(self, *_: object) -> None:
        self.stopping = True
        self._told.put(None)


def run(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="Configuration file (YAML).")
    ] = DEFAULT_CONFIG,
) -> None:
    """Run the gateway. SIGTERM or Ctrl-C stops it in order: what it acknowledged is on disk.

    SIGHUP makes it read the configuration and the plugins again: valid ones take effect at once, with the
    buffer and the state of unchanged windows as they are; of others the problems are logged, and nothing
    changes.
    """
    os.umask(PRIVATE)
    use_one_heap()
    collections = Collections()
    try:
        _run(config, collections)
    finally:
        collections.end()


def _run(config: Path, collections: Collections) -> None:
    signals, service, mending = Signals(), Service(), Mending()
    configuration = Configuration(config)
    settings: Loaded | None = configuration.first()
    proven: Loaded | None = None  # what ran before the current settings
    while settings is not None:
        _announce(settings)
        gateway = Gateway(settings.config, settings.origin, configuration)
        try:
            gateway.start()
        except DamageError as exc:
            mending.again(str(exc))
            continue
        except Exception as exc:  # whatever a new configuration leads to, the one that ran can go on
            instead = configuration.instead_of(settings, exc, proven)
            if instead is None:
                raise
            trace = None if isinstance(exc, GatewayError) else exc
            log.error(
                "the new configuration cannot be started, the old one stays active: %s", exc, exc_info=trace
            )
            settings, proven = instead, None
            continue
        try:
            proven = settings
            configuration.started(settings)
            service.ready()
            collections.begin()
            settings = _next_settings(config, signals, service, gateway, mending, configuration, settings)
        finally:
            if signals.stopping:
                configuration.stop()
            gateway.stop()


def _next_settings(
    config: Path,
    signals: Signals,
    service: Service,
    gateway: Gateway,
    mending: Mending,
    configuration: Configuration,
    running: Loaded,
) -> Loaded | None:
    """Wait for a reason to start anew: the configuration to go on with, or None when it is time to stop."""
    health = _HealthLog()
    while True:
        service.report(gateway.status.progress, gateway.status.readiness())
        told = signals.wait(min(LOOK_EVERY_S, service.report_every_s or LOOK_EVERY_S))
        if signals.stopping:
            service.stopping()
            return None
        if gateway.status.broken:
            mending.again(gateway.status.broken)
            return running
        if gateway.status.displaced:
            log.error("the gateway starts anew with what it held: %s", gateway.status.displaced)
            return running
        health.look(gateway.status.health())
        settings = configuration.news(running, gateway.status)
        if configuration.has_proven():
            gateway.end_trial()
        if settings is None and told:
            found = _load_again(config, running.config)
            settings = configuration.reloaded(found) if found is not None else None
        if settings is not None:
            service.reloading()
            return settings


def _load_again(config: Path, before: Config) -> Loaded | None:
    """Return the file as it is now; None, with the reasons in the log, where it cannot be used."""
    try:
        found = load_file(config)
    except ConfigError as exc:
        log.error("the configuration is not reloaded: %s", "; ".join([str(exc), *exc.problems]))
        return None
    except (Exception, SystemExit):  # a fault of ours, or of a plugin, must not end what runs
        log.exception("the configuration is not reloaded")
        return None
    changed = changed_keys(before, found.config)
    if changed:
        log.info("the configuration is reloaded; changed: %s", ", ".join(changed))
    elif _is_mounted_alone(config):
        log.warning(
            "the configuration has not changed. %s is mounted as a single file: an editor that replaces it"
            " changes nothing here; mount its folder instead",
            config,
        )
    else:
        log.info("the configuration has not changed; plugins and the files that it names are read again")
    return found


def _is_mounted_alone(config: Path) -> bool:
    """Return True if the file stays unchanged when it is replaced outside of this container."""
    try:
        return os.path.ismount(config) or config.stat().st_nlink == 0
    except OSError:
        return False


class _HealthLog:
    """Writes each problem in /healthz to the log, once."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def look(self, problems: list[str]) -> None:
        """Log what is new."""
        for problem in problems:
            if problem not in self._known:
                log.error("only a restart repairs this: %s", problem)
        self._known = {*problems}


def _announce(loaded: Loaded) -> None:
    settings = loaded.config
    set_up_logging(settings.log.level, settings.log.format)
    for warning in warnings_of(settings):
        log.warning("%s", warning)
    if loaded.origin.problem:
        log.error("%s", loaded.origin.problem)
