"""Identity of the configuration in use: where it came from, and which one it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

_HASH_CHARS = 12


@dataclass(frozen=True)
class ConfigOrigin:
    """Origin of the configuration in use.

    `hash` is the same on each machine for the same text; `version` is `config.version` of the file, or the
    number of a signed one. `problem` says why something else than the file is in use. `path` is the file.
    `on_trial` is True for a signed one that has not proven itself yet.
    """

    source: Literal["file", "last_good", "signed"] = "file"
    hash: str = ""
    version: str = ""
    problem: str = ""
    path: Path | None = None
    on_trial: bool = False

    @property
    def number(self) -> int:
        """The hash as a number; 0 where there is none."""
        return int(self.hash or "0", 16)

    def describe(self) -> dict[str, str]:
        """Return it as plain values, for status and page."""
        told = {"source": self.source, "hash": self.hash, "version": self.version, "problem": self.problem}
        return {name: value for name, value in told.items() if value}


def text_hash(text: str) -> str:
    """Return the beginning of the SHA-256 of a configuration's text."""
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARS]


class ConfigState(StrEnum):
    """Fate of a remote configuration."""

    REHEARSAL = "rehearsal"
    TRIAL = "trial"
    IN_USE = "in_use"
    REFUSED = "refused"
    TAKEN_BACK = "taken_back"


@dataclass(frozen=True)
class JudgedConfig:
    """A remote configuration with the right signature and a new version, and what became of it."""

    version: int
    hash: str
    state: ConfigState


class RemoteSource(Protocol):
    """Judges remote configurations, and remembers what became of the last."""

    def offer(self, payload: bytes) -> None:
        """Judge one. Raises OSError when it cannot be kept."""

    @property
    def outcome(self) -> str:
        """Say what became of the last; empty where none came."""

    @property
    def last(self) -> JudgedConfig | None:
        """The last one with the right signature and a new version."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Messages since the start, by what became of them."""
