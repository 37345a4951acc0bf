"""`gateway fleet`: windows over what many gateways have sent, and how these gateways are."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress

from gateway.cli import connecting, fleet_screen
from gateway.cli.settings import DEFAULT_CONFIG
from gateway.core.errors import UnitError
from gateway.core.units import parse_duration_ms
from gateway.host.garbage import collect_seldom

if TYPE_CHECKING:
    from gateway.fleet.board import Board
    from gateway.fleet.job import Input
    from gateway.fleet.listener import FleetListener
    from gateway.fleet.local import Task
    from gateway.fleet.report import FleetReport
    from gateway.mqtt.endpoint import Endpoint
    from gateway.mqtt.link import Link

_BEAM_HERE = "--runner=BundleBasedDirectRunner"
"""Beam's runner in this process that needs no service and downloads none."""
_CONNECT_S = 15.0
_RETAINED_S = 1.0
"""Time for retained statuses: they come at once, one after the other."""

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Work with what many gateways have sent.")


@app.callback()
def _group() -> None:
    """Work with what many gateways have sent."""


@app.command()
def run(
    *,
    config: Annotated[
        Path,
        typer.Option("--config", "-c", help="Configuration file with the routes and windows."),
    ] = DEFAULT_CONFIG,
    events: Annotated[
        list[str],
        typer.Option(
            "--input",
            "-i",
            help="What `gateway receive` or `gateway buffer export` wrote: files, sqlite:///FILE, "
            "postgresql://…, parquet:DIR; several after each other.",
        ),
    ],
    more: Annotated[list[str] | None, typer.Argument(metavar="[EVENTS]...", help="Further inputs.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Output file of results, as JSON lines.")],
    runner: Annotated[
        Literal["local", "beam", "flink"],
        typer.Option("--runner", help="`local`: processes on this machine. beam, flink: engines (extras)."),
    ] = "local",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Number of processes; by default one per core.")
    ] = None,
    gateway: Annotated[
        list[str] | None, typer.Option("--gateway", help="Only events of this gateway; may be repeated.")
    ] = None,
    no_flush: Annotated[
        bool, typer.Option("--no-flush", help="Leave windows open at the end of the input.")
    ] = False,
    engine_option: Annotated[
        list[str] | None,
        typer.Option(
            "--engine-option",
            help="Option of Beam (--runner=FlinkRunner) or Flink (KEY=VALUE); may be repeated.",
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option("--work", help="Folder for what is done so far; by default OUTPUT.work."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Run the windows of a configuration over the events of many gateways.

    Each result is a line of the output with the gateway's id. The input may be in any order and hold events
    twice. A run that was interrupted goes on where it was when it is started again.
    Exits with 1 when events are missing or lines could not be used; the results are written all the same.
    """
    from gateway.fleet import local  # noqa: PLC0415 - `--help` needs none of it

    inputs = _inputs([*events, *(more or ())])
    wanted = frozenset(json.dumps(name, ensure_ascii=False)[1:-1].encode() for name in gateway or ())
    folder = work or output.with_name(output.name + ".work")
    task = local.Task(config, inputs, folder, wanted, flush=not no_flush)
    started_s = time.monotonic()
    count = workers or os.cpu_count() or 1
    if runner == "local":
        collect_seldom()
        with _progress() as progress:
            report = local.run(task, output, count, progress)
    elif runner == "beam":
        report = _by_beam(task, output, engine_option or [_BEAM_HERE])
    else:
        report = _by_flink(task, output, count, engine_option or [])
    took_s = time.monotonic() - started_s
    typer.echo(json.dumps(_fields(report, took_s)) if as_json else _text(report, took_s), err=not as_json)
    if not report.complete:
        raise typer.Exit(1)


@app.command()
def status(
    *,
    url: connecting.Url,
    wait: Annotated[
        str,
        typer.Option("--for", help="How long to wait for audit records: gateways send one a minute."),
    ] = "70s",
    prefix: Annotated[str, typer.Option("--prefix", help="The gateways' topic prefix.")] = "gateway",
    username: connecting.Username = None,
    password_file: connecting.PasswordFile = None,
    ca_file: connecting.CaFile = None,
    cert_file: connecting.CertFile = None,
    key_file: connecting.KeyFile = None,
    protocol: connecting.Protocol = "5",
    page: Annotated[
        Path | None,
        typer.Option("--page", help="Write a web page to this file, again and again until it is stopped."),
    ] = None,
    every: Annotated[str, typer.Option("--every", help="How often --page is written.")] = "10s",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show how each gateway of a fleet is: what has arrived until when, what is open, what is wrong.

    It reads the status and audit records on the cloud broker and ends once each gateway that is online has
    sent one. Exits with 1 when a gateway has an alarm or nothing is known of it, or there is none.
    """
    from gateway.fleet.board import Board  # noqa: PLC0415 - `--help` needs none of it

    endpoint = connecting.endpoint(
        url,
        f"gateway-fleet-{os.getpid()}",
        protocol=protocol,
        username=username,
        password_file=password_file,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )
    board = Board()
    if page is not None:
        _keep_page(board, endpoint, prefix, page, _seconds(every, "--every"))
        return
    problem = _listen(board, endpoint, prefix, _seconds(wait, "--for"))
    now_ms = time.time_ns() // 1_000_000
    states = board.states(now_ms)
    if as_json:
        typer.echo(json.dumps({"time_ms": now_ms, "gateways": [one._asdict() for one in states]}))
    else:
        fleet_screen.show(states, now_ms)
    if problem:
        typer.echo(f"error: {problem}", err=True)
    if problem or not states or any(one.alarms or one.told_ms is None for one in states):
        raise typer.Exit(1)


def _seconds(text: str, option: str) -> float:
    try:
        return parse_duration_ms(text) / 1000
    except UnitError as exc:
        raise typer.BadParameter(str(exc), param_hint=option) from exc


def _listen(board: Board, endpoint: Endpoint, prefix: str, wait_s: float) -> str:
    """Fill the board until every online gateway has sent a record; returns why it could not."""
    with _listening(board, endpoint, prefix) as (listener, _):
        if not listener.subscribed_once.wait(min(wait_s, _CONNECT_S)):
            return f"no connection to {endpoint.place}"
        quiet_until_s = time.monotonic() + _RETAINED_S
        end_s = time.monotonic() + wait_s
        while time.monotonic() < end_s:
            with listener.lock:
                is_done = not board.waits_for and not board.is_empty
            if is_done and time.monotonic() > quiet_until_s:
                break
            listener.heard.clear()
            listener.heard.wait(0.2)
        return f"{listener.unreadable} audit records could not be read" if listener.unreadable else ""


def _keep_page(board: Board, endpoint: Endpoint, prefix: str, path: Path, every_s: float) -> None:
    """Write the page until SIGINT or SIGTERM."""
    from gateway.cli.fleet_page import page  # noqa: PLC0415 - see above
    from gateway.host.files import write_whole  # noqa: PLC0415 - see above

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with _listening(board, endpoint, prefix) as (listener, link):
        listener.subscribed_once.wait(min(every_s, _CONNECT_S))
        pause_s = min(every_s, _RETAINED_S)
        while not stop.wait(pause_s):
            pause_s = every_s
            now_ms = time.time_ns() // 1_000_000
            with listener.lock:
                states = board.states(now_ms)
            problem = (
                "" if link.connected else f"no connection to {endpoint.place}: this is what was known last"
            )
            write_whole(path, page(states, now_ms, every_s, problem).encode())


@contextmanager
def _listening(board: Board, endpoint: Endpoint, prefix: str) -> Iterator[tuple[FleetListener, Link]]:
    from gateway.fleet.listener import FleetListener  # noqa: PLC0415 - see above
    from gateway.mqtt.link import Link  # noqa: PLC0415 - see above

    listener = FleetListener(board, prefix)
    link = Link("fleet", endpoint, listener)
    link.start()
    try:
        yield listener, link
    finally:
        link.stop()


def _by_beam(task: Task, output: Path, options: list[str]) -> FleetReport:
    try:
        from gateway.fleet import beam  # noqa: PLC0415 - an extra
    except ImportError as exc:
        hint = "pip install 'mqtt-edge-gateway[beam]'"
        raise typer.BadParameter(f"Beam is not installed; {hint}", param_hint="--runner") from exc
    return beam.run(task, output, options)


def _by_flink(task: Task, output: Path, workers: int, options: list[str]) -> FleetReport:
    try:
        from gateway.fleet import flink  # noqa: PLC0415 - an extra
    except ImportError as exc:
        hint = "pip install 'mqtt-edge-gateway[flink]', which also needs a Java 17"
        raise typer.BadParameter(f"PyFlink is not installed; {hint}", param_hint="--runner") from exc
    return flink.run(task, output, workers, options)


def _inputs(places: list[str]) -> tuple[Input, ...]:
    from gateway.fleet.job import Input  # noqa: PLC0415 - see above
    from gateway.receiver.sinks.choice import PARQUET  # noqa: PLC0415 - see above
    from gateway.receiver.stored_output import is_table, parquet_files  # noqa: PLC0415 - see above

    found: list[Input] = []
    for place in places:
        if is_table(place):
            found.append(Input(place, has_rows=True))
        elif place.startswith(PARQUET):
            parts = [Input(f"{PARQUET}{one}", has_rows=True) for one in parquet_files(place)]
            if not parts:
                raise typer.BadParameter(f"there are no Parquet files in {place}", param_hint="--input")
            found += parts
        elif Path(place).is_file():
            found.append(Input(place))
        else:
            raise typer.BadParameter(f"there is no file {place}", param_hint="--input")
    return tuple(found)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _done, _total: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("running", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _fields(report: FleetReport, took_s: float) -> dict[str, object]:
    return {
        "complete": report.complete,
        "until_ms": report.until_ms,
        "lines": report.lines,
        "events": report.events,
        "doubled": report.doubled,
        "missing": report.missing,
        "results": report.results,
        "seconds": round(took_s, 3),
        "gateways": [one._asdict() for one in report.gateways],
        "faults": [fault._asdict() for fault in report.faults],
    }


def _text(report: FleetReport, took_s: float) -> str:
    from gateway.fleet.report import NAMED  # noqa: PLC0415 - see above

    streams = sum(one.streams for one in report.gateways)
    rate = report.events / max(took_s, 0.001)
    lines = [
        f"{report.events:,} events of {len(report.gateways):,} gateways, {streams:,} streams: "
        f"{report.results:,} results in {took_s:.1f} s ({rate:,.0f} events/s)"
    ]
    for fault in report.faults[:NAMED]:
        place = fault.place if fault.line is None else f"{fault.place}, line {fault.line}"
        more = f" (and {fault.count - 1:,} more)" if fault.count > 1 else ""
        lines.append(f"  {place}: {fault.reason}{more}")
    lines += [f"  and {len(report.faults) - NAMED:,} other reasons"] * (len(report.faults) > NAMED)
    lines += _gaps(report)[:NAMED]
    until = "" if report.until_ms is None else f" as of {_time(report.until_ms)}"
    verdict = "every number is there" if report.complete else "NOT complete"
    return "\n".join([*lines, f"{verdict}{until}"])


def _gaps(report: FleetReport) -> list[str]:
    gaps = [
        f"  {one.gateway} {stream}: numbers {first} to {last} are missing"
        for one in report.gateways
        for stream, first, last in one.holes
    ]
    lost = [
        f"  {one.gateway}: {one.replaced} streams began anew with number 1, so the buffer was replaced"
        for one in report.gateways
        if one.replaced
    ]
    return lost + gaps


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")
