"""The choice of the configuration to run: the file, a signed remote one, or the last good one.

- A file that cannot be used at the start never stops a gateway that ran before: the last good one runs.
- A signed configuration is on trial for `config.watch`. If the gateway is worse off then, or does not come up
  twice, the one before it runs again, by itself; its version is never tried anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gateway.app.signed_configs import SignedConfigs, Trial
from gateway.config import Config, parse_config
from gateway.config.document import MAX_FILE_BYTES
from gateway.config.load import data_dir_of, read_config
from gateway.config.origin import ConfigOrigin, text_hash
from gateway.core.errors import ConfigError
from gateway.host.files import read_regular
from gateway.host.last_good import keep_last_good, last_good
from gateway.status.gateway_status import GatewayStatus

log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """A configuration that is sound, with its text."""

    config: Config
    text: str
    origin: ConfigOrigin


def load_file(path: Path) -> Loaded:
    """Read and check the configuration file. Raises ConfigError."""
    text = read_config(path)
    return _loaded(path, text, ConfigOrigin("file", text_hash(text)))


def _loaded(path: Path, text: str, origin: ConfigOrigin) -> Loaded:
    config = parse_config(text, path.parent, path.name)
    return Loaded(config, text, replace(origin, version=origin.version or config.config.version))


class Configuration:
    """The configurations of one process, from its start to its end. For the main thread, but for `offer`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signed: SignedConfigs | None = None
        self._watched: _Watch | None = None

    # --- at the start ---

    def first(self) -> Loaded:
        """Return what to start with. Raises ConfigError if the file cannot be used and nothing ran before."""
        try:
            found = load_file(self._path)
        except ConfigError as exc:
            problem = "; ".join([str(exc), *exc.problems])
            kept = self._last_good(problem)
            if kept is None:
                raise
            return kept
        self._signed = SignedConfigs.of(found.config, self._path)
        return self._on_top_of(found)

    def instead_of(self, failed: Loaded, error: Exception, proven: Loaded | None) -> Loaded | None:
        """Return what to run where `failed` cannot be started: what ran before, else the last good one of
        this gateway.id; None if there is nothing."""
        gave_up = self._is_trial(failed) and self._give_up_trial(str(error))
        if proven is not None:
            return proven._replace(origin=replace(proven.origin, problem=self.outcome)) if gave_up else proven
        if gave_up:
            return self._on_top_of(load_file(self._path))
        if failed.origin.source == "last_good":
            return None
        return self._last_good(f"it cannot be started: {error}", failed)

    def _last_good(self, problem: str, failed: Loaded | None = None) -> Loaded | None:
        for folder in self._data_dirs():
            text = last_good(folder, self._path, MAX_FILE_BYTES)
            if text is None or (failed is not None and text == failed.text):
                continue
            told = f"{self._path.name} is not in use: {problem}"
            try:
                kept = _loaded(self._path, text, ConfigOrigin("last_good", text_hash(text), problem=told))
            except ConfigError as exc:
                log.error("the last good configuration cannot be used either: %s", exc)
                continue
            if failed is not None and kept.config.gateway.id != failed.config.gateway.id:
                continue  # under the id before, a copied data directory would make two gateways of one
            log.error("%s; the last good configuration, in %s, runs instead", told, folder)
            return kept
        return None

    def _data_dirs(self) -> Iterator[Path]:
        """Yield where the data may be: what the file says, if that can be read; else the usual places."""
        base = self._path.parent.absolute()
        named = None
        with suppress(OSError):
            named = data_dir_of(read_regular(self._path, MAX_FILE_BYTES).decode(errors="replace"), base)
        yield from dict.fromkeys(each for each in (named, base / "data", Path.cwd()) if each is not None)

    def _on_top_of(self, found: Loaded) -> Loaded:
        """Return the signed configuration in the place of the file's, where there is one."""
        signed = self._signed
        trial = signed.to_start() if signed is not None else None
        if signed is None or trial is None:
            return found
        try:
            return self._signed_loaded(trial)
        except ConfigError as exc:
            problem = "; ".join([str(exc), *exc.problems])
            signed.drop(trial, problem)
            log.error("the signed configuration %d cannot be used, the file runs: %s", trial.version, problem)
            return found

    def _signed_loaded(self, trial: Trial) -> Loaded:
        origin = ConfigOrigin("signed", text_hash(trial.text), str(trial.version), trial.before_it)
        return _loaded(self._path, trial.text, origin)

    # --- while it runs ---

    def offer(self, payload: bytes) -> None:
        """Judge a remote configuration; on its link's thread. Raises OSError when it cannot be
        kept."""
        if self._signed is not None:
            self._signed.offer(payload)

    def started(self, loaded: Loaded) -> None:
        """The gateway is up with this configuration."""
        if not self._is_trial(loaded):
            self._keep(loaded)

    def reloaded(self, found: Loaded) -> Loaded:
        """Return what to run after the file was read anew: a signed configuration stays on top of it."""
        self._signed = SignedConfigs.of(found.config, self._path)
        return self._on_top_of(found)

    def news(self, running: Loaded, status: GatewayStatus) -> Loaded | None:
        """Return a configuration to go on with: a remote one, or the one before a bad one."""
        signed = self._signed
        if signed is None:
            return None
        arrived = signed.take()
        if arrived is not None:
            self._watched = _Watch(running, status.bridge_connected, not status.readiness())
            log.warning("remote configuration %d is on trial", arrived.version)
            return self._signed_loaded(arrived)
        if signed.trial is None or not self._is_trial(running):
            return None
        watch = self._watched or _Watch(running, was_connected=False, was_ready=False)
        self._watched = watch
        return self._judge(signed, signed.trial, running, watch, status)

    def _judge(
        self, signed: SignedConfigs, trial: Trial, running: Loaded, watch: _Watch, status: GatewayStatus
    ) -> Loaded | None:
        problems = status.health() or watch.problems(running.config.config.watch / 1000, status)
        if problems:
            self._watched = None
            self._give_up_trial("; ".join(problems))
            before = watch.before if watch.before is not running else self._on_top_of(load_file(self._path))
            return before._replace(origin=replace(before.origin, problem=signed.outcome))
        if watch.is_over(running.config.config.watch / 1000):
            self._watched = None
            signed.confirm()
            log.warning("configuration %d has proven itself", trial.version)
            self._keep(running)
        return None

    def _is_trial(self, loaded: Loaded) -> bool:
        trial = self._signed.trial if self._signed is not None else None
        return loaded.origin.source == "signed" and trial is not None and trial.text == loaded.text

    def _give_up_trial(self, problem: str) -> bool:
        signed = self._signed
        if signed is None or signed.trial is None:
            return False
        log.error("configuration %d is taken back: %s", signed.trial.version, problem)
        signed.drop(signed.trial, problem)
        return True

    def _keep(self, loaded: Loaded) -> None:
        if loaded.origin.source == "last_good":
            return
        try:
            keep_last_good(loaded.config.gateway.data_dir, self._path, loaded.text, MAX_FILE_BYTES)
        except OSError as exc:
            log.warning("this configuration is not kept as the last good one: %s", exc)

    @property
    def outcome(self) -> str:
        """Say what became of the last remote configuration; empty if there was none."""
        return self._signed.outcome if self._signed is not None else ""


class _Watch:
    """State of the gateway before a new configuration, to compare with."""

    def __init__(self, before: Loaded, was_connected: bool, was_ready: bool) -> None:
        self.before = before
        self._was_connected = was_connected
        self._was_ready = was_ready
        self._since_s = time.monotonic()

    def is_over(self, watch_s: float) -> bool:
        return time.monotonic() - self._since_s >= watch_s

    def problems(self, watch_s: float, status: GatewayStatus) -> list[str]:
        """Return why the gateway is worse off at the end of the watch."""
        if not self.is_over(watch_s):
            return []
        problems = status.readiness() if self._was_ready else []
        if self._was_connected and not status.bridge_connected:
            problems.append("it does not reach the cloud any more")
        return problems
