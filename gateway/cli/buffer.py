"""`gateway buffer stats|audit|list|show|export|verify`: look into a buffer, also of a running gateway."""

from __future__ import annotations

import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from gateway.buffer.event_filter import EventFilter
from gateway.buffer.proof.balance import audit
from gateway.buffer.reader import Reader
from gateway.buffer.repair.damage import looking_into
from gateway.cli.buffer_audit import chosen_streams, history_beside, print_audit
from gateway.cli.buffer_options import (
    AsJson,
    ConfigFile,
    NewerThan,
    OfKind,
    OfStatus,
    OfStream,
    OlderThan,
    buffer_path,
    choice_of,
    progress_bar,
)
from gateway.cli.buffer_table import event_lines, short_lines
from gateway.cli.settings import DEFAULT_CONFIG, load_config
from gateway.core.errors import ControlError, StoreError
from gateway.core.events import Kind, Status
from gateway.core.units import format_duration
from gateway.host.control import SOCKET_FILE, ask
from gateway.receiver.event_lines import event_line
from gateway.wire.frame import wire_events


@contextmanager
def read_buffer(path: Path) -> Iterator[Reader]:
    """A reader of the buffer `path`. Raises DamageError where the file turns out to be damaged."""
    with looking_into(path), closing(Reader(path)) as reader:
        yield reader


def stats(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Count messages by outcome; for a running gateway, also show the drain and the background check."""
    path = buffer_path(config)
    cloud = load_config(config).cloud
    confirms = cloud is not None and cloud.confirm == "receiver"
    with read_buffer(path) as reader:
        counters = reader.counters()
        undated = reader.count_undated()
        unconfirmed = reader.count_unconfirmed() if confirms else None
    numbers: dict[str, Any] = {}
    for (name, label), value in sorted(counters.items()):
        numbers.setdefault(_TITLES.get(name, name), {})[label.lower()] = value
    numbers["waiting_for_the_time"] = undated
    if unconfirmed is not None:
        numbers["not_confirmed_by_a_receiver"] = unconfirmed
    numbers["file_bytes"] = sum(f.stat().st_size for f in path.parent.glob(path.name + "*"))
    drain = _drain(path.with_name(SOCKET_FILE))
    if as_json:
        typer.echo(orjson.dumps(numbers | {"drain": drain}).decode())
        return
    from rich.console import Console  # noqa: PLC0415 - no other command needs rich
    from rich.table import Table  # noqa: PLC0415

    table = Table("what", "which", "count")
    for title, found in numbers.items():
        for label, value in found.items() if isinstance(found, dict) else [("", found)]:
            table.add_row(title, label, f"{value:,}")
    Console().print(table)
    if drain:
        typer.echo(_course(drain))


def audit_command(
    config: ConfigFile = DEFAULT_CONFIG,
    stream: Annotated[
        str | None, typer.Option("--stream", help="Show the streams of this topic or topic filter.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Most streams to show.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Prove that every message and every event is accounted for. Exits 1 when a sum does not balance.

    Shows the streams that have lost, failed or corrupt events, or with --stream those that are asked for.
    """
    wanted = choice_of(None, None, stream, None).stream
    with read_buffer(buffer_path(config)) as reader, progress_bar() as progress:
        task = progress.add_task("counting", total=None)
        found = audit(reader)
        progress.update(task, description="streams", total=found.streams)
        with reader.snapshot():
            streams = chosen_streams(reader, wanted, limit, partial(progress.advance, task))
    past = history_beside(buffer_path(config))
    problems = [*found.problems, *streams.problems, *(past.problems if past else ())]
    if as_json:
        shed = {"shed": [one._asdict() for one in found.shed], "history": past and past._asdict()}
        shown = shed | {
            "per_stream": [one.as_json() for one in streams.shown],
            "incomplete": streams.incomplete,
        }
        typer.echo(orjson.dumps(found._asdict() | {"problems": problems} | shown).decode())
    else:
        print_audit(found, streams, problems, past)
    if problems:
        raise typer.Exit(1)


def list_command(
    config: ConfigFile = DEFAULT_CONFIG,
    status: OfStatus = None,
    kind: OfKind = None,
    stream: OfStream = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Annotated[int, typer.Option(min=1, help="Most events to show.")] = 20,
    short: Annotated[bool, typer.Option("--short", help="Cut topics so that lines have 80 columns.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the oldest events that the options select, without their payloads."""
    choice = choice_of(status, kind, stream, older_than, newer_than)
    rows = []
    with read_buffer(buffer_path(config)) as reader:
        for number, (buffer_id, state, retries) in enumerate(_all(reader, choice)):
            if number == limit:
                break
            rows.append(_row(reader, buffer_id, state, retries))
    if as_json:
        typer.echo(orjson.dumps(rows).decode())
        return
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    typer.echo("\n".join(short_lines(rows) if short else event_lines(rows, columns)))


def show(
    event_id: Annotated[str, typer.Argument(help="The event's id.")], config: ConfigFile = DEFAULT_CONFIG
) -> None:
    """Print one event in full, as JSON."""
    try:
        wanted = EventFilter(event_ids=(uuid.UUID(event_id),))
    except ValueError as exc:
        raise typer.BadParameter(f"{event_id!r} is not a UUID", param_hint="EVENT_ID") from exc
    settings = load_config(config)
    with read_buffer(buffer_path(config)) as reader:
        found = reader.chosen(wanted, limit=1)
        if not found:
            raise StoreError(f"there is no event {event_id} in this buffer")
        event = wire_events(reader.columns(reader.by_ids([found[0][0]])))[0]
        refusal = reader.refusals([found[0][0]]).get(found[0][0])
    line = orjson.loads(event_line(settings.gateway.id, event))
    line |= {"status": Status(found[0][1]).name.lower(), "retry_count": found[0][2], "refusal": refusal}
    typer.echo(orjson.dumps(line, option=orjson.OPT_INDENT_2).decode())


def export(
    config: ConfigFile = DEFAULT_CONFIG,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Output file; default: standard output.")
    ] = None,
    status: OfStatus = None,
    kind: OfKind = None,
    stream: OfStream = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
) -> None:
    """Write events as JSON lines, in the form that `gateway receive` writes. Corrupt ones are left out."""
    gateway_id = load_config(config).gateway.id
    choice = choice_of(status, kind, stream, older_than, newer_than)
    written = left_out = 0
    with (
        read_buffer(buffer_path(config)) as reader,
        output.open("wb") if output else sys.stdout.buffer as file,
        progress_bar() as progress,
    ):
        task = progress.add_task("exporting", total=None)
        for ids in _id_chunks(reader, choice):
            events, corrupt = reader.without_corrupt(reader.by_ids(ids))
            file.writelines(event_line(gateway_id, event) for event in wire_events(reader.columns(events)))
            written, left_out = written + len(events.ids), left_out + len(corrupt)
            progress.update(task, completed=written)
    typer.echo(f"{written:,} events written, {left_out:,} corrupt ones left out", err=True)


def verify(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Check the checksum of every event. Exits 1 when one is wrong."""
    checked, wrong = 0, []
    with read_buffer(buffer_path(config)) as reader, progress_bar() as progress:
        task = progress.add_task("verifying", total=sum(reader.count_by_status().values()))
        for ids in _id_chunks(reader, EventFilter()):
            _, corrupt = reader.without_corrupt(reader.by_ids(ids))
            checked += len(ids)
            wrong += corrupt
            progress.update(task, completed=checked)
    if as_json:
        typer.echo(orjson.dumps({"checked": checked, "corrupt": wrong}).decode())
    else:
        typer.echo(f"{checked:,} events checked, {len(wrong):,} have a wrong checksum")
    if wrong:
        raise typer.Exit(1)


def _drain(socket: Path) -> Mapping[str, Any] | None:
    """Return the forecast of a running gateway; None where none runs, or it does not answer."""
    try:
        return ask(socket, {"do": "forecast"}, lambda _done, _total: None) if socket.exists() else None
    except ControlError as exc:
        typer.echo(f"the state of the drain is unknown: {exc}", err=True)
        return None


def _course(drain: Mapping[str, Any]) -> str:
    parts = [f"{_STATES[drain['state']]}: {drain['waiting']:,} events wait"]
    if drain["state"] != "local":
        parts.append(f"the cloud took {drain['drain_per_s']:,.0f} a second over the last minute")
    if drain["empty_in_s"] is not None:
        parts.append(f"gone in {format_duration(drain['empty_in_s'])}")
    if drain["full_in_s"] is not None:
        parts.append(f"room for {format_duration(drain['full_in_s'])}")
    return f"{', '.join(parts)}\nverified in the background: {drain['verified_share']:.0%} of the buffer"


def _all(reader: Reader, choice: EventFilter) -> Iterator[tuple[int, int, int]]:
    after_id = 0
    while chunk := reader.chosen(choice, after_id):
        yield from chunk
        after_id = chunk[-1][0]


def _id_chunks(reader: Reader, choice: EventFilter) -> Iterator[list[int]]:
    after_id = 0
    while chunk := reader.chosen(choice, after_id):
        yield [buffer_id for buffer_id, _, _ in chunk]
        after_id = chunk[-1][0]


def _row(reader: Reader, buffer_id: int, status: int, retries: int) -> dict[str, Any]:
    events = reader.by_ids([buffer_id])
    return {
        "event_id": str(uuid.UUID(bytes=events.event_ids)),
        "stream": reader.names(events.stream_ids)[0],
        "sequence_num": events.sequence_nums[0],
        "event_time_ms": events.event_times_ms[0],
        "ingest_time_ms": events.ingest_times_ms[0],
        "status": Status(status).name.lower(),
        "kind": Kind(events.kinds[0]).name.lower(),
        "retry_count": retries,
        "refusal": reader.refusals([buffer_id]).get(buffer_id),
        "stored_bytes": len(events.stored[0]),
    }


_TITLES = {"outcome": "messages", "status": "events", "appended": "appended", "evicted": "evicted"}
_STATES = {
    "local": "no cloud",
    "live": "live",
    "draining": "draining",
    "growing": "growing, though the cloud is there",
    "outage": "no connection to the cloud",
}
