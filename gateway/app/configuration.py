"""The choice of the configuration to run: the file, a signed remote one, or the last good one.

- A file that cannot be used at the start never stops a gateway that ran before: the last good one runs.
- A signed configuration is rehearsed on the last messages, in a process of its own, and refused if it differs
  by more than `config.rehearse` allows. What runs goes on meanwhile.
- Then it is on trial for `config.watch`. If the gateway is worse off then, or does not come up
  twice, the one before it runs again, by itself; its version is never tried anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gateway.app.rehearsal_process import RehearsalProcess, RehearsalRequest
from gateway.app.signed_configs import SignedConfigs, Trial
from gateway.config import Config, parse_config
from gateway.config.document import MAX_FILE_BYTES
from gateway.config.load import data_dir_of, read_config
from gateway.config.origin import ConfigOrigin, JudgedConfig, text_hash
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
    return Loaded(config, text, replace(origin, version=origin.version or config.config.version, path=path))


class Configuration:
    """The configurations of one process, from its start to its end. For the main thread, but for `offer`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signed: SignedConfigs | None = None
        self._watched: _Watch | None = None
        self._rehearsal: tuple[Trial, RehearsalProcess] | None = None
        self._ready_for_trial: Trial | None = None
        self._has_proven = False

    # --- at the start ---

    def first(self) -> Loaded:
        """Return what to start with. Raises ConfigError if the file cannot be used and nothing ran before."""
        return self._on_top_of(self._file_or_last_good())

    def _file_or_last_good(self) -> Loaded:
        try:
            found = load_file(self._path)
            self._signed = self._signed or SignedConfigs.of(found.config, self._path)
        except ConfigError as exc:
            found_before = self._last_good(_all_of(exc))
            if found_before is None:
                raise
            self._accept_as(found_before)
            return found_before
        return found

    def _accept_as(self, last_good: Loaded) -> None:
        """Take signed configurations while the last good one runs: one of them may be the repair."""
        try:
            self._signed = self._signed or SignedConfigs.of(last_good.config, self._path)
        except ConfigError as exc:
            log.error("no signed configuration is taken: %s", exc)

    def instead_of(self, failed: Loaded, error: Exception, proven: Loaded | None) -> Loaded | None:
        """Return what to run where `failed` cannot be started: what ran before, else the last good one of
        this gateway.id; None if there is nothing."""
        if self._is_unproven(failed):
            self._give_up(failed, str(error))
            return self._before_trials()
        if proven is not None:
            return proven
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

    def _on_top_of(self, found: Loaded, *, in_new_process: bool = True) -> Loaded:
        """Return the signed configuration in the place of the file's, where there is one."""
        signed = self._signed
        chosen = signed.to_start(in_new_process=in_new_process) if signed is not None else None
        if signed is None or chosen is None:
            return found
        if found.origin.source == "last_good" and chosen is signed.good:
            return found  # that is the one that ran last, and it says why the file does not
        try:
            return self._signed_loaded(chosen)
        except ConfigError as exc:
            problem = _all_of(exc)
        log.error("the signed configuration %d cannot be used: %s", chosen.version, problem)
        if chosen is not signed.good:
            signed.drop(chosen, problem)
            return self._on_top_of(found)
        signed.pass_over(chosen, problem)
        return found._replace(origin=replace(found.origin, problem=signed.outcome))

    def _signed_loaded(self, trial: Trial) -> Loaded:
        origin = ConfigOrigin("signed", text_hash(trial.text), str(trial.version), trial.before_it)
        loaded = _loaded(self._path, trial.text, origin)
        return loaded._replace(origin=replace(loaded.origin, on_trial=self._is_unproven(loaded)))

    # --- while it runs ---

    def offer(self, payload: bytes) -> None:
        """Judge a remote configuration; on its link's thread. Raises OSError when it cannot be
        kept."""
        if self._signed is None:
            raise OSError("what came before it is not known")
        self._signed.offer(payload)

    def started(self, loaded: Loaded) -> None:
        """The gateway is up with this configuration."""
        if not self._is_unproven(loaded):
            self._watched = None
            self._keep(loaded)
            return
        if self._watched is None:  # its trial began in a process before this one
            trial = self._trial_of(loaded)
            self._watched = _Watch(None, trial is None or trial.was_ready)
        self._watched.begin()

    def reloaded(self, found: Loaded) -> Loaded | None:
        """Return what to run after the file was read anew: a signed configuration stays on top of it. None,
        with the reason in the log, where it cannot be used."""
        try:
            signed = SignedConfigs.of(found.config, self._path)
        except ConfigError as exc:
            log.error("the configuration is not reloaded: %s", exc)
            return None
        self.stop()
        if signed is not None and self._signed is not None:
            signed.counts = self._signed.counts
        self._signed = signed
        return self._on_top_of(found, in_new_process=False)

    def news(self, running: Loaded, status: GatewayStatus) -> Loaded | None:
        """Return a configuration to go on with: a remote one, or the one before a bad one."""
        signed = self._signed
        if signed is None:
            return None
        arrived = signed.take()
        if arrived is not None:
            self._rehearse(signed, arrived, running)
        passed = self._passed(signed)
        if passed is not None:
            return self._begin_trial(signed, passed, running, status)
        trial = self._trial_of(running)
        if trial is None or self._watched is None:
            return None
        return self._judge(signed, trial, running, self._watched, status)

    def has_proven(self) -> bool:
        """Return True once after the end of a trial that was good."""
        found, self._has_proven = self._has_proven, False
        return found

    def stop(self) -> None:
        """End a rehearsal. It begins again with the next start."""
        if self._rehearsal is not None:
            self._rehearsal[1].stop()
            self._rehearsal = None

    def _rehearse(self, signed: SignedConfigs, arrived: Trial, running: Loaded) -> None:
        """Begin to try `arrived` on the last messages; a rehearsal of an older one ends."""
        self.stop()
        rules = running.config.config.rehearse
        if rules is None:
            self._ready_for_trial = arrived
            return
        gateway = running.config.gateway
        request = RehearsalRequest(
            running.text,
            arrived.text,
            str(self._path.parent.absolute()),
            str(gateway.buffer_path.absolute()),
            int(time.time() * 1000) - rules.last,
            rules.timeout / 1000,
            rules.limits,
        )
        rehearsal = RehearsalProcess(request, gateway.data_dir)
        try:
            rehearsal.start()
        except OSError as exc:
            signed.refuse(arrived, f"it cannot be rehearsed: {exc}")
            return
        self._rehearsal = arrived, rehearsal

    def _passed(self, signed: SignedConfigs) -> Trial | None:
        """Return the one that may be put on trial now."""
        if self._rehearsal is not None:
            arrived, rehearsal = self._rehearsal
            result = rehearsal.result()
            if result is None:
                return None
            self._rehearsal = None
            if result.refusal:
                signed.refuse(arrived, result.refusal)
                return None
            log.info(
                "remote configuration %d passed its rehearsal on %d messages",
                *(arrived.version, result.messages),
            )
            self._ready_for_trial = arrived
        passed, self._ready_for_trial = self._ready_for_trial, None
        if passed is None:
            return None
        try:
            return signed.begin(passed)
        except OSError as exc:  # a start that is not counted could be one of a loop
            signed.refuse(passed, f"its state cannot be written: {exc}")
            return None

    def _begin_trial(
        self, signed: SignedConfigs, arrived: Trial, running: Loaded, status: GatewayStatus
    ) -> Loaded:
        # Where another is on trial, what ran before that one stays the way back.
        self._watched = self._watched or _Watch(running, not status.readiness())
        signed.note_ready(self._watched.was_ready)
        log.warning("remote configuration %d is on trial", arrived.version)
        try:
            return self._signed_loaded(arrived)
        except ConfigError as exc:
            signed.drop(arrived, _all_of(exc))
            return self._before_trials()

    def _judge(
        self, signed: SignedConfigs, trial: Trial, running: Loaded, watch: _Watch, status: GatewayStatus
    ) -> Loaded | None:
        is_over = watch.is_over(running.config.config.watch / 1000)
        has_cloud = running.config.cloud is not None
        problems = status.health() or (watch.problems(status, has_cloud=has_cloud) if is_over else [])
        if problems:
            self._give_up(running, "; ".join(problems))
            return self._before_trials()
        if is_over:
            self._watched = None
            signed.confirm(trial)
            log.warning("configuration %d has proven itself", trial.version)
            self._has_proven = True
            self._keep(running)
        return None

    def _before_trials(self) -> Loaded:
        """Return what ran before anything was on trial, with the reason why it runs again."""
        watch, self._watched = self._watched, None
        before = watch.before if watch is not None else None
        if before is None:
            before = self._on_top_of(self._file_or_last_good(), in_new_process=False)
        if before.origin.source == "last_good":
            return before  # its own problem is the one to tell
        return before._replace(origin=replace(before.origin, problem=self.outcome))

    def _is_unproven(self, loaded: Loaded) -> bool:
        """Return True for a signed configuration that is not the good one."""
        good = self._signed.good if self._signed is not None else None
        return loaded.origin.source == "signed" and (
            good is None or str(good.version) != loaded.origin.version
        )

    def _trial_of(self, loaded: Loaded) -> Trial | None:
        """Return the one on trial if that is what is loaded."""
        trial = self._signed.trial if self._signed is not None else None
        is_it = (
            trial is not None and self._is_unproven(loaded) and str(trial.version) == loaded.origin.version
        )
        return trial if is_it else None

    def _give_up(self, loaded: Loaded, problem: str) -> None:
        trial = self._trial_of(loaded)
        log.error("configuration %s is taken back: %s", loaded.origin.version, problem)
        if self._signed is not None and trial is not None:
            self._signed.drop(trial, problem)

    def _keep(self, loaded: Loaded) -> None:
        has_good = self._signed is not None and self._signed.good is not None
        if loaded.origin.source == "last_good" or (loaded.origin.source == "file" and has_good):
            return  # the file only stands in for a signed one that cannot be used now
        try:
            keep_last_good(loaded.config.gateway.data_dir, self._path, loaded.text, MAX_FILE_BYTES)
        except OSError as exc:
            log.warning("this configuration is not kept as the last good one: %s", exc)

    @property
    def outcome(self) -> str:
        """Say what became of the last remote configuration; empty if there was none."""
        return self._signed.outcome if self._signed is not None else ""

    @property
    def last(self) -> JudgedConfig | None:
        """The last remote one with the right signature and a new version."""
        return self._signed.last if self._signed is not None else None

    @property
    def counts(self) -> Mapping[str, int]:
        """Remote ones since the start, by what became of them."""
        return dict(self._signed.counts) if self._signed is not None else {}


def _all_of(error: ConfigError) -> str:
    return "; ".join([str(error), *error.problems])


class _Watch:
    """The time of a trial, with the configuration before it (None if this process did not see that one)."""

    def __init__(self, before: Loaded | None, was_ready: bool) -> None:
        self.before = before
        self.was_ready = was_ready
        self.begin()

    def begin(self) -> None:
        """The gateway is up: from here on it has time to connect."""
        self._since_s = time.monotonic()

    def is_over(self, watch_s: float) -> bool:
        return time.monotonic() - self._since_s >= watch_s

    def problems(self, status: GatewayStatus, *, has_cloud: bool) -> list[str]:
        """Return why the gateway is worse off. It came from far: without a way nothing could mend it."""
        problems = status.readiness() if self.was_ready else []
        if has_cloud and not status.bridge_connected:
            problems.append("it does not reach the cloud any more")
        elif not status.awaits_configurations:
            problems.append("it cannot receive the next configuration")
        return problems
