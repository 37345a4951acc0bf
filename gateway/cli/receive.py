"""`gateway receive`: the cloud side's reference consumer, and its proof that nothing is missing."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import socket
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from gateway.cli import connecting
from gateway.cli.receive_report import (
    evidence_fields,
    evidence_text,
    incomplete_fields,
    incomplete_lines,
    merged_fields,
    merged_lines,
    summary,
    summary_text,
    unreadable_text,
    verdict_fields,
    verdict_text,
)
from gateway.core.errors import TopicError, UnitError
from gateway.core.units import parse_duration_ms
from gateway.host.logs import set_up_logging
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.link import Link
from gateway.receiver.completeness import Completeness, judge
from gateway.receiver.device_names import DeviceNames
from gateway.receiver.evidence import Evidence, Examination, proof_fields, prove, read_records
from gateway.receiver.incomplete import Incomplete, incomplete_results
from gateway.receiver.ledger import Ledger
from gateway.receiver.session import Receiver
from gateway.receiver.sharing import Heir
from gateway.receiver.sinks.choice import beside, is_shared, is_there, place_of, shared_sink_of, sink_of
from gateway.receiver.sinks.sink import OutputError, Sink, rebuild, reread, resume
from gateway.receiver.stored_output import events_of_output
from gateway.wire.signatures import KeyFileError, PublicKeys

if TYPE_CHECKING:
    from gateway.fleet.merging import PartMerger

log = logging.getLogger(__name__)

_PROGRESS_EVERY_S = 60.0
_GIVE_UP_S = 5.0  # how much longer --once waits for a broker that is not there


def receive(
    *,
    url: Annotated[
        str | None,
        typer.Option("--url", help="The broker: mqtt://host:1883 or mqtts://host:8883."),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="Output: a file of JSON lines, sqlite:///FILE, parquet:DIR, or postgresql://USER@HOST/DATABASE.",
        ),
    ],
    verify: Annotated[
        bool,
        typer.Option("--verify", help="At the end, compare the output with the gateways' audit records."),
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", help="With --verify: the gateway's public keys; also check what it has signed."
        ),
    ] = None,
    prove_event: Annotated[
        str | None,
        typer.Option("--prove", help="Print the proof of the event with this id, as JSON; needs --key."),
    ] = None,
    max_age: Annotated[
        str,
        typer.Option("--max-age", help="Oldest age of the last audit record for --verify to say complete."),
    ] = "3m",
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Read the output, and ask gateways with cloud.confirm: receiver once for what it misses.",
        ),
    ] = False,
    share: Annotated[
        str | None,
        typer.Option(
            "--share",
            metavar="GROUP",
            help="One of several receivers that share the work and a PostgreSQL output.",
        ),
    ] = None,
    merge: Annotated[
        Path | None,
        typer.Option(
            "--merge",
            metavar="FILE",
            help="Configuration with windows that merge partial results; they become results in the output.",
        ),
    ] = None,
    route: Annotated[
        list[str] | None,
        typer.Option(
            "--route",
            metavar="TOPIC",
            help="Topic with the level {device}, for the column of that name. May be repeated.",
        ),
    ] = None,
    gateway: Annotated[str, typer.Option("--gateway", help="Only this gateway's events.")] = "+",
    prefix: Annotated[str, typer.Option("--prefix", help="The gateways' topic prefix.")] = "gateway",
    once: Annotated[bool, typer.Option("--once", help="Stop when nothing has arrived for --idle.")] = False,
    idle: Annotated[str, typer.Option("--idle", help="How long --once waits for further events.")] = "5s",
    client_id: Annotated[
        str | None,
        typer.Option("--client-id", help="MQTT client id; its session keeps events between runs."),
    ] = None,
    protocol: connecting.Protocol = "5",
    username: connecting.Username = None,
    password_file: connecting.PasswordFile = None,
    ca_file: connecting.CaFile = None,
    cert_file: connecting.CertFile = None,
    key_file: connecting.KeyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Receive what gateways send to a cloud broker: every event once, as a JSON line or a row.

    Stop it with Ctrl-C; the next run continues where it was, with the same output.
    A message that cannot be read is kept in FILE.rejected, or in the table gateway_rejected.
    Exits with 0, or with 1 when it could not connect or not write, or when --verify finds
    something missing, still open or not as it was signed, or when a topic could not be read.
    """
    set_up_logging("info", "text")
    keys = None if key is None else _public_keys(key)
    if prove_event is not None:
        _prove(_sink(output, share, route), output, prove_event, keys)
        return
    idle_s = _seconds(idle, "--idle") if once else None
    max_age_s = _seconds(max_age, "--max-age")
    _check_share(share, protocol, client_id)
    merger = None if merge is None else _merger(merge, output, prefix, share)
    report: dict[str, object] = {}
    problem = ""
    if url is not None:
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
        receiver, ledger, name, problem = _receive(
            endpoint, _sink(output, share, route), prefix, gateway, idle_s, repair=repair, merger=merger
        )
        report = summary(receiver, ledger) | merged_fields(merger)
        if not as_json:
            typer.echo("\n".join([summary_text(receiver, ledger, name), *merged_lines(merger)]))
    elif repair:
        raise typer.BadParameter("is needed to --repair: the broker carries the request", param_hint="--url")
    elif not verify:
        raise typer.BadParameter("is needed, unless only to --verify", param_hint="--url")
    elif not is_there(output):
        raise typer.BadParameter(f"there is no {output} to verify", param_hint="--output")
    is_whole = True
    if verify:
        verdict, incomplete, evidence = _verify(_sink(output, share, route), output, max_age_s, keys)
        is_whole = verdict.complete and (evidence is None or evidence.sound)
        fields = verdict_fields(verdict) | incomplete_fields(incomplete)
        report["verify"] = fields if evidence is None else fields | {"evidence": evidence_fields(evidence)}
        if not as_json:
            typer.echo("\n".join([verdict_text(verdict), *incomplete_lines(incomplete)]))
            if evidence is not None:
                typer.echo(evidence_text(evidence))
    if as_json:
        typer.echo(json.dumps(report))
    if problem:
        typer.echo(f"error: {problem}", err=True)
    if problem or not is_whole:
        raise typer.Exit(1)


def _check_share(group: str | None, protocol: str, client_id: str | None) -> None:
    problem = ""
    if group is None:
        return
    if not group or set(group) & set("/+#"):
        problem = "is a name without / + #"
    elif protocol != "5":
        problem = "needs --protocol 5: shared subscriptions are new there"
    elif client_id is not None:
        problem = "gives each member a client id of its own: leave out --client-id"
    if problem:
        raise typer.BadParameter(problem, param_hint="--share")


def _sink(output: str, share: str | None, routes: Sequence[str] | None) -> Sink:
    try:
        devices = DeviceNames(routes or ())
    except (TopicError, ValueError) as exc:
        raise typer.BadParameter(str(exc), param_hint="--route") from exc
    try:
        return sink_of(output, devices) if share is None else shared_sink_of(output, share, devices)
    except OutputError as exc:
        raise typer.BadParameter(f"{exc}; {exc.hint}", param_hint="--output") from exc


def _merger(path: Path, output: str, prefix: str, share: str | None) -> PartMerger:
    """Return what merges partial results, by the windows of a configuration."""
    if share is not None:
        hint = "does not go with --share: let one more receiver, of no group, merge into an output of its own"
        raise typer.BadParameter(hint, param_hint="--merge")
    from gateway.fleet.merging import merger_of  # noqa: PLC0415 - half a second of models, and few need it

    return merger_of(path, prefix, Path(f"{beside(output)}.merged"), lambda: int(time.time() * 1000))


def _receive(
    endpoint: Endpoint,
    sink: Sink,
    prefix: str,
    gateway: str,
    idle_s: float | None,
    *,
    repair: bool = False,
    merger: PartMerger | None = None,
) -> tuple[Receiver, Ledger, str, str]:
    """Receive until told to stop; what was received, the sink's name, and what went wrong."""
    try:
        ledger = rebuild(sink) if repair else resume(sink)
        name = sink.name
        group = sink if is_shared(sink) else None
        receiver = Receiver(prefix, gateway, sink, ledger, shared=group, merging=merger)
        receiver.resume()
        if repair:
            _ask_for_missing(receiver)
        heir = None
        if group is not None:
            member = group.join()
            heir = Heir(group, receiver, lambda number: _as_member(endpoint, group.group, number))
            endpoint = _as_member(endpoint, group.group, member)
            log.info("member %d of %s", member, group.group)
        link = Link("receive", endpoint, receiver)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: receiver.done.set())
        link.start()
        problem = _wait(receiver, link, idle_s, heir)
        if heir is not None:
            heir.stop()
        link.stop()
        receiver.finish()
        if receiver.unreadable and not problem:
            problem = unreadable_text(receiver.unreadable)
    except OSError as exc:
        typer.echo(f"Cannot use {sink.name}: {exc.strerror or exc}", err=True)
        raise typer.Exit(1) from exc
    finally:
        sink.close()
        if merger is not None:
            merger.close()
    return receiver, ledger, name, problem


def _ask_for_missing(receiver: Receiver) -> None:
    deaf = receiver.confirming.ask_for_all()
    log.info("%d events are missing by what the gateways claim; asking for them", receiver.confirming.wanted)
    if deaf:
        log.warning(
            "cannot ask %s: without cloud.confirm: receiver a gateway takes no requests",
            ", ".join(deaf),
        )


def _verify(
    sink: Sink, output: str, max_age_s: float, keys: PublicKeys | None
) -> tuple[Completeness, list[Incomplete], Evidence | None]:
    """Compare with the audit records: with all of them, or with those that one of `keys` has signed."""
    not_before_ms = int((time.time() - max_age_s) * 1000)
    try:
        if keys is None:
            ledger = reread(sink)
            verdict = judge(ledger, not_before_ms)
            return verdict, _incomplete(verdict, output, ledger), None
        sink.open()
        records = read_records(sink.records(), keys)
        sink.close()
        ledger = reread(sink, records.ledger())
        verdict = judge(ledger, not_before_ms)
        examination = Examination(records)
        for stored in events_of_output(output):
            examination.take(stored)
        return verdict, _incomplete(verdict, output, ledger), examination.verdict()
    except OSError as exc:
        typer.echo(f"Cannot use {sink.name}: {exc.strerror or exc}", err=True)
        raise typer.Exit(1) from exc
    finally:
        sink.close()


def _incomplete(verdict: Completeness, output: str, ledger: Ledger) -> list[Incomplete]:
    """Find the results with holes, if anything is not here."""
    if verdict.complete and not verdict.declared:
        return []
    return incomplete_results(events_of_output(output), ledger)


def _prove(sink: Sink, output: str, event_id: str, keys: PublicKeys | None) -> None:
    """Print the proof of one event. Raises EvidenceError or typer.BadParameter."""
    if keys is None:
        raise typer.BadParameter("is needed to --prove", param_hint="--key")
    try:
        wanted = uuid.UUID(event_id).bytes
    except ValueError as exc:
        raise typer.BadParameter(f"{event_id!r} is not a UUID", param_hint="--prove") from exc
    try:
        sink.open()
        records = read_records(sink.records(), keys)
    finally:
        sink.close()
    proof = prove(wanted, records, lambda: events_of_output(output))
    typer.echo(json.dumps(proof_fields(proof), indent=1))


def _public_keys(path: Path) -> PublicKeys:
    try:
        return PublicKeys(path.read_bytes())
    except OSError as exc:
        raise typer.BadParameter(f"{path}: {exc.strerror}", param_hint="--key") from exc
    except KeyFileError as exc:
        raise typer.BadParameter(f"{path}: {exc}; {exc.hint}", param_hint="--key") from exc


def _seconds(text: str, option: str) -> float:
    try:
        return parse_duration_ms(text) / 1000
    except UnitError as exc:
        raise typer.BadParameter(f"{exc}; {exc.hint}", param_hint=option) from exc


def default_client_id(output: str) -> str:
    """The same for the same output on the same machine, so that a restart finds its session again."""
    place = f"{socket.gethostname()}:{place_of(output)}"
    return f"gateway-receive-{hashlib.sha256(place.encode()).hexdigest()[:8]}"


def _as_member(endpoint: Endpoint, group: str, number: int) -> Endpoint:
    return replace(endpoint, client_id=f"gateway-receive-{group}-{number}")


def _wait(receiver: Receiver, link: Link, idle_s: float | None, heir: Heir | None) -> str:
    """Run until it is told to stop, cannot continue, or was idle for the given time; returns the error."""
    console = Console(stderr=True)
    told, told_s = 0, time.monotonic()
    with console.status("connecting …") as status:
        while not receiver.done.wait(0.2):
            if heir is not None and link.connected:
                heir.step()
            quiet_s = receiver.quiet_s()
            status.update(f"{receiver.written:,} events" if link.connected else "waiting for the broker …")
            if receiver.written > told and time.monotonic() - told_s >= _PROGRESS_EVERY_S:
                told, told_s = receiver.written, time.monotonic()
                log.info("%d events received so far", told)
            if idle_s is not None and receiver.listening and quiet_s > idle_s:
                return ""
            if idle_s is not None and quiet_s > idle_s + _GIVE_UP_S:
                return f"no connection to the broker: {link.metrics.last_error}"
    return f"cannot continue: {receiver.failure}" if receiver.failure else ""
