"""`gateway replay`: the windows of a configuration over recorded events, or over what a gateway stored."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer
from rich.console import Console
from rich.progress import Progress

from gateway.cli.buffer_options import FromTime, ToTime, buffer_path, moment_ms
from gateway.cli.settings import DEFAULT_CONFIG, load_config
from gateway.core.errors import TopicError
from gateway.core.topics import check_filter
from gateway.host.garbage import collect_seldom

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.pipeline.recordings import Recording
    from gateway.pipeline.replay import Recorded, Replay
    from gateway.windows.counters import Counters
    from gateway.windows.engine import WindowEngine

PROGRESS_LINES = 5_000
"""Lines between two moves of the progress bar: often enough to look alive, too seldom to cost anything."""
_POLITE = 5
"""Niceness of a replay out of a buffer: the gateway that runs on it comes first."""


def replay(
    *,
    config: Annotated[
        Path, typer.Option("--config", "-c", help="Configuration file (YAML).")
    ] = DEFAULT_CONFIG,
    events: Annotated[
        str | None,
        typer.Option(
            "--input",
            "-i",
            help="Events: a file, one JSON object a line; or sqlite:///FILE or postgresql://… of `receive`.",
        ),
    ] = None,
    from_buffer: Annotated[
        bool, typer.Option("--from-buffer", help="Take the messages that the gateway's buffer holds.")
    ] = False,
    stream: Annotated[
        str, typer.Option("--stream", help="Only messages on this topic or topic filter.")
    ] = "#",
    since: FromTime = None,
    until: ToTime = None,
    gateway: Annotated[
        str | None,
        typer.Option("--gateway", help="Only messages of this gateway; by default gateway.id."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Output file of results, as JSON lines.")
    ] = None,
    what_if: Annotated[
        Path | None,
        typer.Option("--what-if", help="Another configuration: print what would differ, window by window."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="With --what-if: draw the cost of each setting as SVG.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --what-if: print JSON.")] = False,
    no_flush: Annotated[
        bool, typer.Option("--no-flush", help="Leave windows open at the end of the input.")
    ] = False,
) -> None:
    """Run the windows over recorded events in event time, without a broker.

    The input is what `gateway receive` or `gateway buffer export` wrote, the buffer itself, also of a running
    gateway, or lines {"topic": ..., "payload": ..., "time_ms": ...} in the order of arrival. Each result is a
    line of the output, and so is each reading that came too late. With --what-if it runs two configurations
    and prints their differences instead.
    """
    if what_if is None and (as_json or plot is not None):
        raise typer.BadParameter("is for --what-if", param_hint="--json" if as_json else "--plot")
    if what_if is not None and output is not None:
        raise typer.BadParameter("is not for --what-if, which prints differences", param_hint="--output")
    from gateway.app.rehearsing import make_engine  # noqa: PLC0415 - `--help` needs none of them
    from gateway.decode.routes import RouteTable  # noqa: PLC0415 - see above
    from gateway.pipeline.replay import Replay  # noqa: PLC0415 - see above

    settings = load_config(config)
    recording = open_recording(
        settings, config, events, from_buffer=from_buffer, period=(since, until), stream=stream, of=gateway
    )
    if what_if is not None:
        _compare(settings, load_config(what_if), recording, flush=not no_flush, as_json=as_json, plot=plot)
        return
    engine = make_engine(settings)
    collect_seldom()
    run = Replay(RouteTable(settings.route_specs()), engine)
    try:
        with _sink(output) as sink:
            results = _copy(run, recording, sink, flush=not no_flush)
    except OSError as exc:
        typer.echo(f"error: {exc.filename or events}: {exc.strerror}", err=True)
        raise typer.Exit(2) from exc
    _report(run, results, engine, recording)


def _compare(
    before: Config, after: Config, recording: Recording, *, flush: bool, as_json: bool, plot: Path | None
) -> None:
    from gateway.app.rehearsing import rehearse  # noqa: PLC0415 - see above
    from gateway.cli.what_if import what_if_json, what_if_svg, what_if_text  # noqa: PLC0415 - see above

    found = rehearse(before, after, with_progress(recording), flush=flush)
    typer.echo((what_if_json if as_json else what_if_text)(found.differences, found.messages))
    if plot is not None:
        plot.write_text(what_if_svg(found.differences))


def open_recording(
    settings: Config,
    config: Path,
    events: str | None,
    *,
    from_buffer: bool,
    period: tuple[str | None, str | None],
    stream: str,
    of: str | None,
) -> Recording:
    """Return the recording that the options choose. Raises BadParameter, GatewayError or Exit."""
    from gateway.pipeline.recordings import (  # noqa: PLC0415 - `--help` needs no database
        BufferRecording,
        Selection,
        recording_of,
    )

    if (events is None) is not from_buffer:
        raise typer.BadParameter("give either --input or --from-buffer", param_hint="--input")
    try:
        check_filter(stream)
    except TopicError as exc:
        raise typer.BadParameter(str(exc), param_hint="--stream") from exc
    wanted = Selection(stream=stream, gateway_id=of or settings.gateway.id)
    since_ms, until_ms = moment_ms(period[0], "--from"), moment_ms(period[1], "--to")
    if since_ms is not None:
        wanted = replace(wanted, from_ms=since_ms)
    if until_ms is not None:
        wanted = replace(wanted, to_ms=until_ms)
    if events is None:
        os.nice(_POLITE)  # the gateway beside it comes first
        return BufferRecording(buffer_path(config), wanted)
    try:
        return recording_of(events, wanted)
    except OSError as exc:
        typer.echo(f"error: {exc.filename or events}: {exc.strerror}", err=True)
        raise typer.Exit(2) from exc


def _copy(run: Replay, recording: Recording, sink: BinaryIO, *, flush: bool) -> int:
    from gateway.pipeline.replay import line_of  # noqa: PLC0415 - see above

    results = 0
    for event in with_progress(recording):
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


def with_progress(recording: Recording) -> Iterator[Recorded]:
    """Yield the messages of a recording, with a progress bar on a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from recording.messages()
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("replaying", total=None)
        for number, event in enumerate(recording.messages()):
            if number % PROGRESS_LINES == 0:
                bar.update(task, completed=recording.done, total=recording.total)
            yield event


def _report(run: Replay, results: int, engine: WindowEngine, recording: Recording) -> None:
    left_out = "".join(
        f", {count} {what}"
        for count, what in (
            (run.old, "with old readings"),
            (run.unrouted, "that no route takes"),
            (recording.corrupt, "with a wrong checksum left out"),
        )
        if count
    )
    counts = f"{run.events} events, {results} results; {run.undecoded} payloads not decoded"
    typer.echo(counts + left_out, err=True)
    if recording.others:
        found = ", ".join(f"{name} ({count})" for name, count in recording.others.most_common(10))
        typer.echo(f"  left out, of other gateways: {found}; --gateway chooses one", err=True)
    for name, counters in engine.counters.items():
        typer.echo(f"  {name}: {_story(counters)}", err=True)


def _story(counters: Counters) -> str:
    parts = [f"{counters.events} readings", f"{counters.emitted} results"]
    for name in ("misses", "key_misses", "late_dropped", "plugin_errors", "keys_rejected", "future_skew"):
        if getattr(counters, name):
            parts.append(f"{getattr(counters, name)} {name.replace('_', ' ')}")
    return ", ".join(parts)
