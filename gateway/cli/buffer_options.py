"""Shared parts of the `gateway buffer` commands: options, the choice of events, progress bars."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self
from uuid import UUID

import typer

from gateway.buffer.event_filter import EventFilter
from gateway.cli.settings import load_config
from gateway.core.errors import StoreError, TopicError, UnitError
from gateway.core.events import Kind, Status
from gateway.core.topics import check_filter
from gateway.core.units import parse_duration_ms

if TYPE_CHECKING:
    from rich.progress import Progress

StatusName = Enum("StatusName", {s.name.lower(): s.name.lower() for s in Status}, type=str)  # type: ignore[misc]
KindName = Enum("KindName", {k.name.lower(): k.name.lower() for k in Kind}, type=str)  # type: ignore[misc]

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="Configuration file (YAML).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OfStatus = Annotated[StatusName | None, typer.Option("--status", help="Only events with this status.")]
OfKind = Annotated[KindName | None, typer.Option("--kind", help="Only events of this kind.")]
OfStream = Annotated[str | None, typer.Option("--stream", help="Only events of this topic or topic filter.")]
OlderThan = Annotated[
    str | None, typer.Option("--older-than", help="Only events that arrived longer ago, such as 2h.")
]
NewerThan = Annotated[
    str | None, typer.Option("--newer-than", help="Only events that arrived since then, such as 2h.")
]


FromTime = Annotated[
    str | None,
    typer.Option("--from", help="Only events that arrived since: 2026-05-01T10:00, or how long ago, as 2h."),
]
ToTime = Annotated[
    str | None,
    typer.Option("--to", help="Only events that arrived before: 2026-05-01T11:00, or how long ago, as 1h."),
]


def moment_ms(text: str | None, option: str) -> int | None:
    """A moment in ms since the epoch: a date and time, local where it names no zone, or how long ago. Raises
    typer.BadParameter."""
    if text is None:
        return None
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        return _ago(text, round(datetime.now(UTC).timestamp() * 1000), option)


def choice_of(
    status: Enum | None,
    kind: Enum | None,
    stream: str | None,
    older_than: str | None,
    newer_than: str | None = None,
    event_ids: Sequence[str] = (),
) -> EventFilter:
    """The events that the options mean. Raises typer.BadParameter."""
    now_ms = round(datetime.now(UTC).timestamp() * 1000)
    if stream is not None:
        try:
            check_filter(stream)
        except TopicError as exc:
            raise typer.BadParameter(str(exc), param_hint="--stream") from exc
    return EventFilter(
        None if status is None else Status[status.name.upper()],
        stream,
        None if kind is None else Kind[kind.name.upper()],
        _ago(newer_than, now_ms, "--newer-than"),
        _ago(older_than, now_ms, "--older-than"),
        tuple(map(_event_id, event_ids)) or None,
    )


def _ago(duration: str | None, now_ms: int, option: str) -> int | None:
    if duration is None:
        return None
    try:
        return now_ms - parse_duration_ms(duration)
    except UnitError as exc:
        raise typer.BadParameter(f"{exc}; {exc.hint}", param_hint=option) from exc


def _event_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as exc:
        raise typer.BadParameter(f"{text!r} is not a UUID", param_hint="EVENT_ID") from exc


class _NoBar:
    """Stands in for a progress bar where there is no terminal, and loads nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add_task(self, description: str, total: float | None = None) -> Any:
        return 0

    def update(self, task: int, **what: object) -> None:
        pass

    def advance(self, task: int) -> None:
        pass


def progress_bar() -> Progress | _NoBar:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        return _NoBar()
    from rich.console import Console  # noqa: PLC0415 - a tenth of a second that scripts do not need
    from rich.progress import Progress  # noqa: PLC0415

    return Progress(console=Console(stderr=True), transient=True)


def buffer_path(config: Path) -> Path:
    """Return the path of a configuration's buffer. Raises StoreError when there is none."""
    path = load_config(config).gateway.buffer_path
    if not path.exists():
        raise StoreError(f"there is no buffer at {path}", hint="has the gateway ever run with this data_dir?")
    return path
