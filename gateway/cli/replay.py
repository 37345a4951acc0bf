"""`gateway replay`: the windows of a configuration over a file of recorded events."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer
from rich.console import Console
from rich.progress import Progress

from gateway.cli.settings import DEFAULT_CONFIG, load_config
from gateway.decode.routes import RouteTable
from gateway.pipeline.plugins_loader import load_plugins
from gateway.pipeline.replay import Recorded, Replay, line_of, read_events
from gateway.windows.counters import Counters
from gateway.windows.engine import WindowEngine

if TYPE_CHECKING:
    from gateway.config import Config

PROGRESS_LINES = 5_000
"""Lines between two moves of the progress bar: often enough to look alive, too seldom to cost anything."""


def replay(
    events: Annotated[
        Path, typer.Option("--input", "-i", help="Events, one JSON object a line: topic, payload, time_ms.")
    ],
    config: Annotated[
        Path, typer.Option("--config", "-c", help="Configuration file (YAML).")
    ] = DEFAULT_CONFIG,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Output file of results, as JSON lines.")
    ] = None,
    no_flush: Annotated[
        bool, typer.Option("--no-flush", help="Leave windows open at the end of the input.")
    ] = False,
) -> None:
    """Run the windows over a file of events in event time, without a broker.

    Lines of the input are {"topic": ..., "payload": ..., "time_ms": ...} in the order of arrival. Each result
    is a line of the output, and so is each reading that came too late.
    """
    settings = load_config(config)
    engine = make_engine(settings)
    run = Replay(RouteTable(settings.route_specs()), engine)
    try:
        with events.open("rb") as source, _sink(output) as sink:
            results = _copy(run, source, events, sink, flush=not no_flush)
    except OSError as exc:
        typer.echo(f"error: {exc.filename or events}: {exc.strerror}", err=True)
        raise typer.Exit(2) from exc
    _report(run, results, engine)


def make_engine(settings: Config) -> WindowEngine:
    """The windows of a configuration with their plugins. Raises PluginError."""
    specs = settings.window_specs()
    loaded = load_plugins(specs, settings.plugins.directory)
    return WindowEngine(specs, loaded.plugins, loaded.fingerprints)


def _copy(run: Replay, source: BinaryIO, path: Path, sink: BinaryIO, *, flush: bool) -> int:
    results = 0
    for event in _with_progress(source, path):
        for emission in run.feed(event):
            results += _write(sink, line_of(emission))
    for emission in run.finish() if flush else ():
        results += _write(sink, line_of(emission))
    return results


def _write(sink: BinaryIO, line: bytes | None) -> bool:
    if line is not None:
        sink.write(line)
    return line is not None


def _sink(output: Path | None) -> AbstractContextManager[BinaryIO]:
    return _stdout() if output is None else output.open("wb")


@contextmanager
def _stdout() -> Iterator[BinaryIO]:
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


def _with_progress(source: BinaryIO, path: Path) -> Iterator[Recorded]:
    console = Console(stderr=True)
    read = read_events(iter(source.readline, b""), str(path))
    if not console.is_terminal:
        yield from read
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(f"replaying {path.name}", total=path.stat().st_size)
        for number, event in enumerate(read):
            if number % PROGRESS_LINES == 0:
                bar.update(task, completed=source.tell())
            yield event


def _report(run: Replay, results: int, engine: WindowEngine) -> None:
    old = f", {run.old} with old readings" if run.old else ""
    typer.echo(f"{run.events} events, {results} results; {run.undecoded} payloads not decoded{old}", err=True)
    for name, counters in engine.counters.items():
        typer.echo(f"  {name}: {_story(counters)}", err=True)


def _story(counters: Counters) -> str:
    parts = [f"{counters.events} readings", f"{counters.emitted} results"]
    for name in ("misses", "key_misses", "late_dropped", "plugin_errors", "keys_rejected", "future_skew"):
        if getattr(counters, name):
            parts.append(f"{getattr(counters, name)} {name.replace('_', ' ')}")
    return ", ".join(parts)
