"""Signed configurations of one gateway: judged when they come, kept with their state on disk."""

from __future__ import annotations

import json
import logging
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gateway.config import Config, parse_config
from gateway.config.differences import changed_keys
from gateway.core.errors import ConfigError, DecodeError
from gateway.host.files import replace_file
from gateway.wire.signatures import KeyFileError
from gateway.wire.signed_config import read_signed_config

log = logging.getLogger(__name__)

SIGNED_FILE = "signed-config.json"
_TRIES = 2  # starts of a configuration on trial; a third would be a loop
_OWN = ("gateway.id", "gateway.data_dir", "gateway.topic_prefix", "config")


@dataclass(frozen=True)
class Trial:
    """A signed configuration. `before_it` says what became of one that came after it."""

    version: int
    text: str
    starts: int = 0
    before_it: str = ""


@dataclass
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
        self._kept = self._read()

    @classmethod
    def of(cls, config: Config, path: Path) -> SignedConfigs | None:
        """Return those of a gateway whose file accepts them. Raises ConfigError without a readable key."""
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
    def outcome(self) -> str:
        """Say what became of the last that came; empty where none came."""
        return self._kept.outcome

    def to_start(self) -> Trial | None:
        """Return the one to start with; a trial that failed to come up too often is given up."""
        with self._lock:
            trial = self._kept.trial
            if trial is not None and trial.starts >= _TRIES:
                self._give_up(trial, f"the gateway ended {trial.starts} times while it was on trial")
                trial = None
            if trial is None:
                return self._kept.good
            self._kept.trial = replace(trial, starts=trial.starts + 1)
            self._write()
            return self._kept.trial

    def offer(self, payload: bytes) -> None:
        """Judge a message; what is right waits to be taken. Raises OSError when it cannot be written."""
        try:
            found = read_signed_config(payload, self._config.gateway.id, self._public_key)
        except (DecodeError, KeyFileError) as exc:
            log.error("a remote configuration is refused: %s %s", exc, exc.hint)
            with self._lock:
                self._kept.outcome = f"refused: {exc}"
            return
        with self._lock:
            if found.version <= self._kept.highest:
                return  # known, or played again
            self._kept.highest = found.version
            problem = self._problem(found.text)
            if problem:
                self._kept.outcome = f"{found.version} refused: {problem}"
                log.error("remote configuration %d is refused: %s", found.version, problem)
            else:
                self._kept.trial = self._arrived = Trial(found.version, found.text, starts=1)
                self._kept.outcome = f"{found.version} on trial"
            self._write()

    def take(self) -> Trial | None:
        """Return the one that came, once."""
        with self._lock:
            arrived, self._arrived = self._arrived, None
            return arrived

    def confirm(self) -> None:
        """The one on trial is good."""
        with self._lock:
            trial = self._kept.trial
            if trial is not None:
                self._kept.good, self._kept.trial = replace(trial, starts=0), None
                self._kept.outcome = f"{trial.version} in use"
                self._write_if_possible()

    def drop(self, trial: Trial, problem: str) -> None:
        """Give up a configuration that cannot be used."""
        with self._lock:
            self._give_up(trial, problem)

    # --- inside, with the lock held ---

    def _give_up(self, trial: Trial, problem: str) -> None:
        kept = self._kept
        kept.outcome = f"{trial.version} taken back: {problem}"
        if kept.trial is not None and kept.trial.version == trial.version:
            kept.trial = None
        elif kept.good is not None and kept.good.version == trial.version:
            kept.good = None
        if kept.good is not None:
            kept.good = replace(kept.good, before_it=kept.outcome)
        self._write_if_possible()

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
        with suppress(OSError, ValueError, TypeError, KeyError):
            told: dict[str, Any] = json.loads(self._file.read_bytes())
            good, trial = (Trial(**told[key]) if told.get(key) else None for key in ("good", "trial"))
            return _Kept(good, trial, int(told["highest"]), str(told["outcome"]))
        return _Kept()

    def _write(self) -> None:
        new = self._file.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(json.dumps(asdict(self._kept)))
        replace_file(new, self._file)

    def _write_if_possible(self) -> None:
        try:
            self._write()
        except OSError as exc:
            log.error("the state of signed configurations cannot be written: %s", exc)
