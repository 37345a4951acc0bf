"""`gateway apply`: rehearses a new configuration on the last hour and lets a running gateway take it up.

If the gateway is worse off with it, the old one comes back by itself.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.buffer.lock import LOCK_FILE
from gateway.cli.buffer_options import buffer_path
from gateway.cli.replay import open_recording, with_progress
from gateway.cli.settings import DEFAULT_CONFIG, load_config
from gateway.cli.what_if import what_if_text
from gateway.config.differences import changed_keys
from gateway.config.load import read_config
from gateway.config.origin import text_hash
from gateway.core.errors import ControlError, GatewayError, UnitError
from gateway.core.units import parse_duration_ms
from gateway.host.control import SOCKET_FILE, ask
from gateway.host.files import replace_file

if TYPE_CHECKING:
    from gateway.config import Config

_TAKEN_UP_WITHIN_S = 60.0  # a large buffer takes its time to open
_LOOK_EVERY_S = 0.5
_BAD_FOR_S = 10.0
"""A problem that lasts this long is the configuration's: connections need some seconds after a reload."""
_BAD_SHARE = 0.1
"""Share of readings on which plugins may fail, before that counts as a problem."""
_FIXED = ("gateway.id", "gateway.data_dir")


class ApplyError(GatewayError):
    """Raised when a configuration is not applied."""


def apply(
    new: Annotated[Path, typer.Argument(help="The new configuration (YAML).", metavar="NEW.yaml")],
    config: Annotated[
        Path,
        typer.Option("--config", "-c", help="Configuration file of the running gateway; it is replaced."),
    ] = DEFAULT_CONFIG,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    last: Annotated[str, typer.Option("--last", help="How much of the past to rehearse on.")] = "1h",
    watch: Annotated[str, typer.Option("--watch", help="How long to watch the gateway afterwards.")] = "1m",
) -> None:
    """Replace the configuration of a running gateway, after a rehearsal, and undo that if it turns bad.

    It runs the old and the new windows over the last hour in the buffer and prints the differences. If you
    agree, it replaces the configuration file and has the gateway read it. While it watches, the old file
    comes back if the gateway does not start with the new one, is not ready for ten seconds because of a
    problem that it did not have before, or if plugins fail on more than a tenth of the readings. Nothing is
    lost either way: the buffer and the state of unchanged windows stay. The earlier file is kept beside it
    as FILE.before.
    """
    watch_s = _seconds(watch, "--watch")
    _seconds(last, "--last")
    gateway = RunningGateway.of(config)
    with _candidate(new, config) as candidate:
        settings = load_config(candidate)
        changed = _changed(gateway.settings, settings)
        typer.echo(f"changed: {', '.join(changed) or 'nothing'}")
        if changed:
            _rehearse(config, gateway.settings, settings, last)
        if not yes:
            typer.confirm("Apply it?", abort=True)
        kept = config.with_name(config.name + ".before")
        shutil.copy2(config, kept)
        _put(candidate, config)
    try:
        problem = gateway.take_up(config) or gateway.watch(watch_s)
    except KeyboardInterrupt:
        problem = "it was interrupted"
    if problem:
        _go_back(gateway, kept, config, problem)
    typer.echo(f"applied; the earlier configuration is {kept}")


@dataclass(frozen=True)
class Health:
    """State of a running gateway, as it reports it."""

    started_ms: int
    configuration: str
    problems: tuple[str, ...]
    readings: int
    plugin_errors: int

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Health:
        """Read the answer of the control socket. Raises ApplyError for one of another version."""
        try:
            problems = tuple(answer["problems"])
            return cls(
                answer["started_ms"],
                answer["configuration"],
                problems,
                answer["readings"],
                answer["plugin_errors"],
            )
        except KeyError as exc:
            raise ApplyError("the gateway runs an earlier version", hint="restart it first") from exc

    def runs(self, config: Path) -> bool:
        """Return True if it runs with what stands in the file."""
        return self.configuration == text_hash(read_config(config))


class RunningGateway:
    """A gateway that runs with the configuration `settings`."""

    def __init__(self, settings: Config, process: int) -> None:
        self.settings = settings
        self._socket = settings.gateway.data_dir / SOCKET_FILE
        self._process = process
        self._before = Health.of(self._ask())

    @classmethod
    def of(cls, config: Path) -> RunningGateway:
        """Find the gateway that runs on the data directory of a configuration. Raises GatewayError."""
        settings = load_config(config)
        lock = settings.gateway.data_dir / LOCK_FILE
        hint = "start it with the new configuration instead"
        try:
            process = int(lock.read_text().split()[0])
            found = cls(settings, process)
        except (OSError, ValueError, IndexError, ControlError) as exc:
            raise ApplyError(f"no gateway runs with {config}: {exc}", hint=hint) from exc
        if not found._before.runs(config):
            raise ApplyError(
                f"the gateway does not run with {config} as it is now",
                hint="reload it first, or restore the file; a signed one is changed where it came from",
            )
        return found

    def take_up(self, config: Path) -> str:
        """Have it read its configuration; return what went wrong, or nothing once it runs with it."""
        before_ms = self._health_or_none()
        started_ms = self._before.started_ms if before_ms is None else before_ms.started_ms
        os.kill(self._process, signal.SIGHUP)
        deadline_s = time.monotonic() + _TAKEN_UP_WITHIN_S
        while time.monotonic() < deadline_s:
            time.sleep(_LOOK_EVERY_S)
            if not self._lives():
                return "the gateway has ended"
            health = self._health_or_none()
            if health is not None and health.started_ms != started_ms:
                return "" if health.runs(config) else "the gateway could not start with it (see its log)"
        return "the gateway has not taken it up (see its log)"

    def watch(self, watch_s: float) -> str:
        """Look at its health for a while; return the problem that it has not had before, or nothing."""
        first = self._health_or_none()
        deadline_s, good_s = time.monotonic() + watch_s, time.monotonic()
        while time.monotonic() < deadline_s or time.monotonic() - good_s > _LOOK_EVERY_S:
            time.sleep(_LOOK_EVERY_S)
            health = self._health_or_none()
            problem = "the gateway does not answer" if health is None else self._problem(health, first)
            if not problem:
                good_s = time.monotonic()
            elif time.monotonic() - good_s > _BAD_FOR_S:
                return problem
        return ""

    def _problem(self, health: Health, first: Health | None) -> str:
        new = [one for one in health.problems if not _is_known(one, self._before.problems)]
        if new:
            return new[0]
        if first is not None:
            errors = health.plugin_errors - first.plugin_errors
            readings = health.readings - first.readings
            if errors > _BAD_SHARE * max(readings, errors, 1):
                return f"plugins failed on {errors:,} of {max(readings, errors):,} readings"
        return ""

    def _lives(self) -> bool:
        try:
            os.kill(self._process, 0)
        except ProcessLookupError:
            return False
        return True

    def _health_or_none(self) -> Health | None:
        try:
            return Health.of(self._ask())
        except ControlError:
            return None

    def _ask(self) -> Mapping[str, Any]:
        return ask(self._socket, {"do": "health"}, lambda _done, _total: None)


def _is_known(problem: str, before: tuple[str, ...]) -> bool:
    """Return True for a problem of before, whose numbers may differ now."""
    return any(problem.split(":", maxsplit=1)[0] == one.split(":")[0] for one in before)


def _changed(before: Config, after: Config) -> list[str]:
    changed = changed_keys(before, after)
    for name in _FIXED:
        if name in changed:
            raise ApplyError(
                f"{name} cannot change while the gateway runs", hint="stop it, change it, start it"
            )
    return changed


def _rehearse(config: Path, before: Config, after: Config, last: str) -> None:
    from gateway.app.rehearsing import rehearse  # noqa: PLC0415 - `--help` needs none of it

    buffer_path(config)
    recording = open_recording(
        before, config, None, from_buffer=True, period=(last, None), stream="#", of=None
    )
    found = rehearse(before, after, with_progress(recording))
    typer.echo(what_if_text(found.differences, found.messages))
    limits = before.config.rehearse
    for objection in found.objections(limits.limits) if limits is not None else ():
        typer.echo(f"beyond the limits of config.rehearse: {objection}")


@contextmanager
def _candidate(new: Path, config: Path) -> Iterator[Path]:
    """A copy of the new file in the place where it will stand: that is where relative paths begin."""
    candidate = config.with_name(f".{config.name}.new")
    try:
        content = new.read_bytes()
    except OSError as exc:
        raise ApplyError(f"{new}: {exc.strerror}") from exc
    shutil.copy2(config, candidate)  # with its mode
    candidate.write_bytes(content)
    try:
        yield candidate
    finally:
        candidate.unlink(missing_ok=True)


def _put(new: Path, config: Path) -> None:
    """Replace the file; where it is mounted by itself, its content."""
    try:
        replace_file(new, config)
    except OSError:
        config.write_bytes(new.read_bytes())


def _go_back(gateway: RunningGateway, kept: Path, config: Path, problem: str) -> None:
    """Put the old file back. Always raises ApplyError."""
    rejected = config.with_name(config.name + ".rejected")
    shutil.copy2(config, rejected)
    copy = kept.with_name(kept.name + ".copy")
    shutil.copy2(kept, copy)
    _put(copy, config)
    again = "" if problem == "the gateway has ended" else gateway.take_up(config)
    state = (
        f"; it does not run with the old one either: {again}" if again else "; the old one is active again"
    )
    raise ApplyError(
        f"the new configuration is not applied: {problem}{state}", hint=f"it is kept as {rejected}"
    )


def _seconds(text: str, option: str) -> float:
    try:
        return parse_duration_ms(text) / 1000
    except UnitError as exc:
        raise typer.BadParameter(f"{exc}; {exc.hint}", param_hint=option) from exc
