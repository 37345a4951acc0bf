"""Signed configurations of one gateway: judged when they come, kept with their state on disk."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gateway.config import Config, parse_config
from gateway.config.differences import changed_keys
from gateway.config.origin import ConfigState, JudgedConfig, text_hash
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
    waiting: Trial | None = None  # for its trial: it is rehearsed
    highest: int = 0  # version that was ever judged: an older message that is played again changes nothing
    outcome: str = ""
    last: JudgedConfig | None = None


class SignedConfigs:
    """The good one, the one on trial, and what became of the last; the file of them is always complete.

    `counts` are those of messages, by what became of them.
    """

    def __init__(self, config: Config, path: Path, public_key_pem: bytes) -> None:
        self._config = config
        self._source = path
        self._public_key = public_key_pem
        self._file = config.gateway.data_dir / SIGNED_FILE
        self._lock = threading.Lock()
        self._arrived: Trial | None = None
        self._unusable = ""
        self.counts: Counter[str] = Counter()
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

    @property
    def last(self) -> JudgedConfig | None:
        """The last one that had the right signature and a new version."""
        return self._kept.last

    def to_start(self, *, in_new_process: bool = True) -> Trial | None:
        """Return the one to start with; a trial that failed to come up too often is given up."""
        with self._lock:
            self._wait_again(in_new_process)
            trial = self._kept.trial
            if trial is None or not in_new_process:
                return trial or self._kept.good
            if trial.starts >= _TRIES:
                self._give_up(trial, f"the gateway ended {trial.starts} times while it was on trial")
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
                self.counts[getattr(exc, "reason", "key")] += 1
                self._tell(f"refused: {exc}")
            return
        with self._lock:
            last = JudgedConfig(found.version, text_hash(found.text), ConfigState.REFUSED)
            if found.version <= self._kept.highest:
                self._pass_over_known(last)
                return
            judged = replace(self._kept, highest=found.version)
            problem = self._problem(found.text)
            if problem:
                log.error("remote configuration %d is refused: %s", found.version, problem)
                outcome = f"{found.version} refused: {problem}"
                self._keep(replace(judged, waiting=None, outcome=outcome, last=last))
                self.counts["unusable"] += 1
            else:
                waiting, last = Trial(found.version, found.text), replace(last, state=ConfigState.REHEARSAL)
                outcome = f"{found.version} in rehearsal"
                self._keep(replace(judged, waiting=waiting, outcome=outcome, last=last))
                self._arrived = waiting
                self.counts["accepted"] += 1
            self._unusable = ""

    def take(self) -> Trial | None:
        """Return the one that came, once."""
        with self._lock:
            arrived, self._arrived = self._arrived, None
            return arrived

    def begin(self, trial: Trial) -> Trial:
        """Put the one that was waiting on trial; return it. Raises OSError when that cannot be written."""
        with self._lock:
            begun = replace(trial, starts=1)
            waiting = None if self._waits(trial) else self._kept.waiting
            kept = replace(self._kept, trial=begun, waiting=waiting)
            self._keep(self._said(kept, trial, ConfigState.TRIAL, f"{trial.version} on trial"))
            return begun

    def refuse(self, trial: Trial, problem: str) -> None:
        """Refuse the one that was waiting."""
        with self._lock:
            if self._waits(trial):
                self._refuse(trial, problem)

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
            kept = replace(self._kept, good=replace(trial, starts=0), trial=newer)
            self._keep_if_possible(self._said(kept, trial, ConfigState.IN_USE, f"{trial.version} in use"))
            self.counts["in_use"] += 1

    def drop(self, trial: Trial, problem: str) -> None:
        """Give up one on trial."""
        with self._lock:
            self._give_up(trial, problem)

    def pass_over(self, good: Trial, problem: str) -> None:
        """Say that the good one cannot be used now. It stays the good one: the next start tries it again."""
        with self._lock:
            self._unusable = f"{good.version} cannot be used now: {problem}"

    # --- inside, with the lock held ---

    def _waits(self, trial: Trial) -> bool:
        return self._kept.waiting is not None and self._kept.waiting.version == trial.version

    def _said(self, kept: _Kept, trial: Trial, state: ConfigState, outcome: str) -> _Kept:
        """Return `kept` with what became of `trial`, unless a newer one has come."""
        if kept.last is not None and kept.last.version > trial.version:
            return kept
        return replace(kept, last=JudgedConfig(trial.version, text_hash(trial.text), state), outcome=outcome)

    def _wait_again(self, in_new_process: bool) -> None:
        """Rehearse again what was in rehearsal; refuse it if that ends the process each time."""
        waiting = self._kept.waiting
        if waiting is None:
            return
        if in_new_process:
            if waiting.starts >= _TRIES:
                self._refuse(waiting, f"the gateway ended {waiting.starts} times while it was in rehearsal")
                return
            waiting = replace(waiting, starts=waiting.starts + 1)
            self._keep_if_possible(replace(self._kept, waiting=waiting))
        self._arrived = waiting

    def _refuse(self, trial: Trial, problem: str) -> None:
        log.error("remote configuration %d is refused: %s", trial.version, problem)
        kept = replace(self._kept, waiting=None)
        self._keep_if_possible(
            self._said(kept, trial, ConfigState.REFUSED, f"{trial.version} refused: {problem}")
        )
        self.counts["rehearsal"] += 1

    def _pass_over_known(self, found: JudgedConfig) -> None:
        """Count an older one that is played again. The newest comes with each connection, being retained."""
        last = self._kept.last
        if last is not None and found.version == last.version and found.hash != last.hash:
            log.error("remote configuration %d came with another text: sign it as a newer one", found.version)
            self.counts["same_version"] += 1
        elif found.version < self._kept.highest:
            log.warning(
                "remote configuration %d is older than %d: ignored", found.version, self._kept.highest
            )
            self.counts["older"] += 1

    def _is_on_trial(self, trial: Trial) -> bool:
        return self._kept.trial is not None and self._kept.trial.version == trial.version

    def _give_up(self, trial: Trial, problem: str) -> None:
        if not self._is_on_trial(trial):
            return
        outcome, good = f"{trial.version} taken back: {problem}", self._kept.good
        told = replace(good, before_it=outcome) if good is not None else None
        kept = replace(self._kept, trial=None, good=told)
        self._keep_if_possible(self._said(kept, trial, ConfigState.TAKEN_BACK, outcome))
        self.counts["taken_back"] += 1

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
            good, trial, waiting = (
                Trial(**told[key]) if told.get(key) else None for key in ("good", "trial", "waiting")
            )
            last = _judged(told.get("last"))
            return _Kept(good, trial, waiting, int(told["highest"]), str(told["outcome"]), last)
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


def _judged(told: dict[str, Any] | None) -> JudgedConfig | None:
    return JudgedConfig(**told | {"state": ConfigState(told["state"])}) if told else None
