"""Signed configurations of one gateway: judged when they come, kept with their state on disk."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gateway.config import Config, parse_config
from gateway.config.differences import changed_keys
from gateway.core.errors import ConfigError, DecodeError
from gateway.host.files import write_whole
from gateway.wire.signatures import KeyFileError
from gateway.wire.signed_config import read_signed_config

log = logging.getLogger(__name__)

SIGNED_FILE = "signed-config.json"
_TRIES = 2  # starts of a configuration on trial; a third would be a loop
_OWN = ("gateway.id", "gateway.data_dir", "gateway.topic_prefix", "config")


@dataclass(frozen=True)
class Trial:
    """A signed configuration. `before_it` says what became of one that came after it; `was_ready` is how the
    gateway was before it."""

    version: int
    text: str
    starts: int = 0
    before_it: str = ""
    was_ready: bool = True


@dataclass(frozen=True)
class _Kept:
    good: Trial | None = None
    trial: Trial | None = None
    highest: int = 0  # version that was ever judged: an older message that is played again changes nothing
    outcome: str = ""


class SignedConfigs:
    """The good one, the one on trial, and what became of the last; the file of them is always complete."""

    def __init__(self, config: Config, path: Path, public_key_pem: bytes) -> None:
        self._config = config
        self._source = path
        self._public_key = public_key_pem
        self._file = config.gateway.data_dir / SIGNED_FILE
        self._lock = threading.Lock()
        self._arrived: Trial | None = None
        self._unusable = ""
        self._kept = self._read()

    @classmethod
    def of(cls, config: Config, path: Path) -> SignedConfigs | None:
        """Return those of a gateway whose file accepts them. Raises ConfigError if the key or their state
        cannot be read."""
        key_file = config.config.public_key_file
        if not config.config.signed or key_file is None:
            return None
        try:
            return cls(config, path, key_file.read_bytes())
        except OSError as exc:
            raise ConfigError(f"cannot read config.public_key_file: {exc}") from exc

    @property
    def trial(self) -> Trial | None:
        return self._kept.trial

    @property
    def good(self) -> Trial | None:
        return self._kept.good

    @property
    def outcome(self) -> str:
        """Say what became of the last that came; empty where none came."""
        return self._unusable or self._kept.outcome

    def to_start(self) -> Trial | None:
        """Return the one to start with; a trial that failed to come up too often is given up."""
        with self._lock:
            trial = self._kept.trial
            if trial is not None and trial.starts >= _TRIES:
                self._give_up(trial, f"the gateway ended {trial.starts} times while it was on trial")
                trial = None
            if trial is None:
                return self._kept.good
            started = replace(trial, starts=trial.starts + 1)
            try:
                self._keep(replace(self._kept, trial=started))
            except OSError as exc:  # a start that is not counted could be one of a loop
                log.error("configuration %d is tried at a later start: %s", trial.version, exc)
                return self._kept.good
            return started

    def offer(self, payload: bytes) -> None:
        """Judge a message; what is right waits to be taken. Raises OSError when it cannot be written."""
        try:
            found = read_signed_config(payload, self._config.gateway.id, self._public_key)
        except (DecodeError, KeyFileError) as exc:
            log.error("a remote configuration is refused: %s %s", exc, exc.hint)
            with self._lock:
                self._tell(f"refused: {exc}")
            return
        with self._lock:
            if found.version <= self._kept.highest:
                return  # known, or played again
            judged = replace(self._kept, highest=found.version)
            problem = self._problem(found.text)
            if problem:
                log.error("remote configuration %d is refused: %s", found.version, problem)
                self._keep(replace(judged, outcome=f"{found.version} refused: {problem}"))
            else:
                trial = Trial(found.version, found.text, starts=1)
                self._keep(replace(judged, trial=trial, outcome=f"{found.version} on trial"))
                self._arrived = trial
            self._unusable = ""

    def take(self) -> Trial | None:
        """Return the one that came, once."""
        with self._lock:
            arrived, self._arrived = self._arrived, None
            return arrived

    def note_ready(self, was_ready: bool) -> None:
        """Remember, across restarts, how the gateway was before the one on trial."""
        with self._lock:
            trial = self._kept.trial
            if trial is not None:
                self._keep_if_possible(replace(self._kept, trial=replace(trial, was_ready=was_ready)))

    def confirm(self, trial: Trial) -> None:
        """The one on trial is good."""
        with self._lock:
            newer = None if self._is_on_trial(trial) else self._kept.trial
            outcome = f"{trial.version} in use" if newer is None else self._kept.outcome
            good = replace(trial, starts=0)
            self._keep_if_possible(replace(self._kept, good=good, trial=newer, outcome=outcome))

    def drop(self, trial: Trial, problem: str) -> None:
        """Give up one on trial."""
        with self._lock:
            self._give_up(trial, problem)

    def pass_over(self, good: Trial, problem: str) -> None:
        """Say that the good one cannot be used now. It stays the good one: the next start tries it again."""
        with self._lock:
            self._unusable = f"{good.version} cannot be used now: {problem}"

    # --- inside, with the lock held ---

    def _is_on_trial(self, trial: Trial) -> bool:
        return self._kept.trial is not None and self._kept.trial.version == trial.version

    def _give_up(self, trial: Trial, problem: str) -> None:
        if not self._is_on_trial(trial):
            return
        outcome, good = f"{trial.version} taken back: {problem}", self._kept.good
        told = replace(good, before_it=outcome) if good is not None else None
        self._keep_if_possible(replace(self._kept, trial=None, outcome=outcome, good=told))

    def _tell(self, outcome: str) -> None:
        self._kept = replace(self._kept, outcome=outcome)

    def _problem(self, text: str) -> str:
        """Return why this gateway cannot use a text; empty when it can."""
        try:
            found = parse_config(text, self._source.parent, "the signed configuration")
        except ConfigError as exc:
            return "; ".join([str(exc), *exc.problems])
        except Exception as exc:  # whatever it holds must not end the thread
            log.exception("a remote configuration cannot be checked")
            return repr(exc)
        for key in changed_keys(self._config, found):
            if key.startswith(_OWN) and key != "config.version":
                return f"{key} is not as in {self._source.name}: that can only be changed there"
        return ""

    def _read(self) -> _Kept:
        try:
            told: dict[str, Any] = json.loads(self._file.read_bytes())
            good, trial = (Trial(**told[key]) if told.get(key) else None for key in ("good", "trial"))
            return _Kept(good, trial, int(told["highest"]), str(told["outcome"]))
        except FileNotFoundError:
            return _Kept()
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
            raise ConfigError(
                f"cannot read {self._file}: {exc!r}; restore it: without it the gateway would take old"
                " signed configurations again"
            ) from exc

    def _keep(self, kept: _Kept) -> None:
        """Write, then believe: what is not on disk must not be acknowledged when it comes again."""
        write_whole(self._file, json.dumps(asdict(kept)).encode(), mode=0o600)
        self._kept = kept

    def _keep_if_possible(self, kept: _Kept) -> None:
        try:
            self._keep(kept)
        except OSError as exc:
            log.error("the state of signed configurations cannot be written: %s", exc)
            self._kept = kept
