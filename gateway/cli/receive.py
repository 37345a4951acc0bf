"""`gateway receive`: the cloud side's reference consumer."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import time
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gateway.cli import connecting
from gateway.errors import UnitError
from gateway.logs import set_up_logging
from gateway.mqtt.connection import Link
from gateway.mqtt.receiver import EventFile, Receiver
from gateway.receiving import Gap, Ledger
from gateway.units import parse_duration_ms

_GIVE_UP_S = 5.0  # how much longer --once waits for a broker that is not there
_SHOWN_GAPS = 10
_LISTED_GAPS = 1000  # in the JSON summary; `missing` counts all


def receive(
    *,
    url: connecting.Url,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to append events to, one per line.")],
    gateway: Annotated[str, typer.Option("--gateway", help="Only this gateway's events.")] = "+",
    prefix: Annotated[str, typer.Option("--prefix", help="The gateways' topic prefix.")] = "gateway",
    once: Annotated[bool, typer.Option("--once", help="Stop when nothing has come for --idle.")] = False,
    idle: Annotated[str, typer.Option("--idle", help="How long --once waits for more.")] = "5s",
    client_id: Annotated[
        str | None,
        typer.Option("--client-id", help="MQTT client id; its session keeps what comes meanwhile."),
    ] = None,
    protocol: connecting.Protocol = "5",
    username: connecting.Username = None,
    password_file: connecting.PasswordFile = None,
    ca_file: connecting.CaFile = None,
    cert_file: connecting.CertFile = None,
    key_file: connecting.KeyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Receive what gateways send to a cloud broker: every event once, as a JSON line.

    Stop it with Ctrl-C; the next run continues where it was, with the same file.
    A frame that cannot be read is kept in FILE.rejected.
    Exits with 0, or with 1 when it could not connect or not write.
    """
    endpoint = connecting.endpoint(
        url,
        client_id or default_client_id(output),
        protocol=protocol,
        username=username,
        password_file=password_file,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
        persistent=True,
    )
    idle_s = _seconds(idle) if once else None
    set_up_logging("warning", "text")
    ledger, file = Ledger(), EventFile(output)
    _read_earlier(file, ledger)
    receiver = Receiver(prefix, gateway, file, ledger)
    link = Link("receive", endpoint, receiver)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: receiver.done.set())
    link.start()
    problem = _wait(receiver, link, idle_s)
    link.stop()
    file.close()
    typer.echo(json.dumps(_summary(receiver, ledger)) if as_json else _text(receiver, ledger, output))
    if problem:
        typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(1)


def _seconds(text: str) -> float:
    try:
        return parse_duration_ms(text) / 1000
    except UnitError as exc:
        raise typer.BadParameter(f"{exc}; {exc.hint}", param_hint="--idle") from exc


def _read_earlier(file: EventFile, ledger: Ledger) -> None:
    try:
        for known in file.open():
            ledger.take(known)
    except OSError as exc:
        typer.echo(f"Cannot use {file.path}: {exc.strerror or exc}", err=True)
        raise typer.Exit(1) from exc


def default_client_id(output: Path) -> str:
    """The same for the same file on the same machine, so that a restart finds its session again."""
    place = f"{socket.gethostname()}:{output.resolve()}"
    return f"gateway-receive-{hashlib.sha256(place.encode()).hexdigest()[:8]}"


def _wait(receiver: Receiver, link: Link, idle_s: float | None) -> str:
    """Until it is told to stop, cannot go on, or was idle for long enough; returns what went wrong."""
    console = Console(stderr=True)
    with console.status("connecting …") as status:
        while not receiver.done.wait(0.2):
            quiet_s = time.monotonic() - receiver.last_arrival_s
            status.update(f"{receiver.written:,} events" if link.connected else "waiting for the broker …")
            if idle_s is not None and link.connected and quiet_s > idle_s:
                return ""
            if idle_s is not None and quiet_s > idle_s + _GIVE_UP_S:
                return f"no connection to the broker: {link.metrics.last_error}"
    return f"cannot go on: {receiver.failure}" if receiver.failure else ""


def _summary(receiver: Receiver, ledger: Ledger) -> dict[str, object]:
    return {
        "messages": receiver.messages,
        "events": receiver.written,
        "events_in_file": ledger.events,
        "duplicates": ledger.duplicates,
        "reordered": ledger.reordered,
        "renumbered": ledger.renumbered,
        "rejected": receiver.rejected,
        "gateways": ledger.gateways,
        "streams": ledger.streams,
        "missing": sum(gap.last - gap.first + 1 for gap in ledger.gaps()),
        "gaps": [gap._asdict() for gap in islice(ledger.gaps(), _LISTED_GAPS)],
    }


def _text(receiver: Receiver, ledger: Ledger, output: Path) -> str:
    gaps = list(ledger.gaps())
    missing = sum(gap.last - gap.first + 1 for gap in gaps)
    lines = [
        f"received    {receiver.written:,} new events in {receiver.messages:,} messages",
        f"file        {output} holds {ledger.events:,} events "
        f"({ledger.streams:,} streams, gateways: {ledger.gateways:,})",
        f"duplicates  {ledger.duplicates:,} left out, {ledger.reordered:,} events out of order",
        f"gaps        {missing:,} sequence numbers missing" if gaps else "gaps        none",
        *(f"            {_gap(gap)}" for gap in gaps[:_SHOWN_GAPS]),
    ]
    if len(gaps) > _SHOWN_GAPS:
        lines.append(f"            and {len(gaps) - _SHOWN_GAPS:,} more gaps")
    if ledger.renumbered:
        lines.append(f"renumbered  {ledger.renumbered:,} streams count anew: a gateway lost its buffer")
    if receiver.rejected:
        lines.append(f"rejected    {receiver.rejected:,} messages, kept in {output}.rejected")
    return "\n".join(lines)


def _gap(gap: Gap) -> str:
    span = f"{gap.first}" if gap.first == gap.last else f"{gap.first}–{gap.last}"
    return f"{gap.gateway_id} {gap.stream} {span}"
