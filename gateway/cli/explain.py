"""`gateway explain`: what becomes of one message, from its route to the windows that it falls into."""

from __future__ import annotations

import json
import re
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from typer.core import TyperCommand

from gateway.buffer.reader import Reader
from gateway.cli.buffer_options import buffer_path
from gateway.cli.settings import DEFAULT_CONFIG
from gateway.config import Config, load_config
from gateway.core.sequence_sets import Run
from gateway.core.timestamps import timestamp_reader
from gateway.decode.routes import RouteTable
from gateway.pipeline.aggregate_story import AggregateStory, StoryError, Used, tell_story
from gateway.pipeline.explanation import Explanation, WindowShare, clock_text, explain, type_name
from gateway.pipeline.plugins_loader import load_plugins
from gateway.pipeline.replay import Replay
from gateway.windows.engine import WindowEngine

_SHOWN = 10
_NEGATIVE = re.compile(r"-[.,]?\d")


class Explainer:
    """Explains messages by one configuration. Raises PluginError when a plugin cannot be loaded."""

    def __init__(self, config: Config) -> None:
        self.specs = config.window_specs()
        self.routes = RouteTable(config.route_specs())
        self._loaded = load_plugins(self.specs, config.plugins.directory)

    def __call__(self, topic: str, payload: bytes, arrival_ms: int) -> Explanation:
        return explain(self.routes, self._engine, self.specs, topic, payload, arrival_ms)

    def _engine(self) -> WindowEngine:
        return WindowEngine(self.specs, self._loaded.plugins, self._loaded.fingerprints)


class _WithNumbers(TyperCommand):
    """A command among whose arguments may be negative numbers, which are no options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        numbers = [] if "--" in args else [one for one in args if _NEGATIVE.match(one)]
        rest = [one for one in args if one not in numbers]
        return super().parse_args(ctx, [*rest, "--", *numbers] if numbers else rest)


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command("explain", cls=_WithNumbers)
def explain_message(
    topic: Annotated[str | None, typer.Argument(help="Topic of the message.")] = None,
    payload: Annotated[
        str | None, typer.Argument(help="Its payload; @FILE for the bytes of a file, - for stdin.")
    ] = None,
    aggregate: Annotated[
        str | None,
        typer.Option("--aggregate", help="Explain a result in the buffer instead: the id of its event."),
    ] = None,
    config: Annotated[
        Path, typer.Option("--config", "-c", help="Configuration file (YAML).")
    ] = DEFAULT_CONFIG,
    arrival: Annotated[
        str | None,
        typer.Option("--time", help="Arrival time, such as 2026-05-01T12:00:00Z. Default: now."),
    ] = None,
    base64: Annotated[bool, typer.Option("--base64", help="The payload is base64 of the bytes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show what the gateway makes of one message: route, fields, event time and why, windows and keys.

    Exits with 0 when it gives readings, 1 when it does not.

    With --aggregate it shows what a result of a window was made of: its readings, the late ones, its
    corrections, the sequence numbers of its sources, and whether the cloud has all of them. Exits with 1 when
    it has not.
    """
    if aggregate is not None:
        _explain_aggregate(load_config(config), config, aggregate, as_json=as_json)
        return
    if topic is None or payload is None:
        raise typer.BadParameter("give a topic and a payload, or --aggregate", param_hint="TOPIC PAYLOAD")
    said = Explainer(load_config(config))(topic, _bytes(payload, base64=base64), _arrival_ms(arrival))
    typer.echo(json.dumps(said.as_json(), indent=2) if as_json else "\n".join(told(said)))
    if said.decoded is None or not said.decoded.samples:
        raise typer.Exit(1)


def _explain_aggregate(settings: Config, config: Path, event_id: str, *, as_json: bool) -> None:
    """Print the story of one result. Raises GatewayError, typer.BadParameter or typer.Exit."""
    try:
        wanted = UUID(event_id)
    except ValueError as exc:
        raise typer.BadParameter(f"{event_id!r} is not a UUID", param_hint="--aggregate") from exc

    def parts(window: str) -> tuple[Replay, WindowEngine]:
        specs = [spec for spec in settings.window_specs() if spec.name == window]
        if not specs:
            raise StoryError(f"this configuration has no window {window!r}")
        loaded = load_plugins(specs, settings.plugins.directory)
        engine = WindowEngine(specs, loaded.plugins, loaded.fingerprints)
        return Replay(RouteTable(settings.route_specs()), engine), engine

    with closing(Reader(buffer_path(config))) as reader:
        story = tell_story(reader, wanted, parts)
    fields = story.fields()
    typer.echo(json.dumps(fields, indent=2) if as_json else "\n".join(story_lines(story)))
    if not fields["cloud_has_all"]:
        raise typer.Exit(1)


def story_lines(story: AggregateStory) -> Iterator[str]:
    """The story of a result for people."""
    told = story.payload
    yield f"window   {told['window']} of {told['key']}"
    yield f"         {clock_text(told['start_ms'])} to {clock_text(told['end_ms'])}"
    if story.bounds is not None:
        yield f"replaced by the session {' to '.join(map(clock_text, story.bounds))}, of which is told here"
    for one in story.revisions:
        what = f"{one.kind}, revision {one.revision}: {one.count:,} readings"
        yield f"result   {what}, {one.status} ({one.event_id})"
    late = sum(one.late for one in story.used)
    yield f"readings {len(story.used):,} found, {late:,} of them late"
    for name, some in (("late", [one for one in story.used if one.late]), ("dropped", story.dropped)):
        yield from (f"{name:<8} {_reading_line(one)}" for one in some[:_SHOWN])
        if len(some) > _SHOWN:
            yield f"         and {len(some) - _SHOWN:,} more"
    if story.missing:
        yield f"missing  {story.missing:,} readings are no longer in the buffer"
    for topic, runs in story.sources().items():
        more = " …" if len(runs) > _SHOWN else ""
        yield f"source   {topic}: {', '.join(map(_run_text, runs[:_SHOWN]))}{more}"
    waiting = ", ".join(f"{count:,} {status}" for status, count in story.not_delivered().items())
    if waiting:
        yield f"cloud    not all of them are there: {waiting}"
    else:
        yield f"cloud    has {'those that are left' if story.missing else 'all of them'}"


def _reading_line(one: Used) -> str:
    behind_s = (one.arrival_ms - one.time_ms) / 1000
    return f"{one.value:g} of {clock_text(one.time_ms)}, {one.topic} {one.sequence_num}, {behind_s:.1f} s old"


def _run_text(run: Run) -> str:
    if run.first == run.last:
        return str(run.first)
    return f"{run.first}–{run.last}" + (f" every {run.step}" if run.step > 1 else "")


def _bytes(payload: str, *, base64: bool) -> bytes:
    if payload == "-":
        content = sys.stdin.buffer.read()
    else:
        content = Path(payload[1:]).read_bytes() if payload.startswith("@") else payload.encode()
    if not base64:
        return content
    try:
        return b64decode(content, validate=True)
    except ValueError as exc:
        raise typer.BadParameter(f"the payload is not base64: {exc}") from exc


def _arrival_ms(text: str | None) -> int:
    if text is None:
        return time.time_ns() // 1_000_000
    found = timestamp_reader("iso or unix_ms or unix")(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no time; write 2026-05-01T12:00:00Z")
    return found


def told(said: Explanation) -> Iterator[str]:
    """An explanation for people."""
    yield f"topic    {said.topic}"
    decoded = said.decoded
    if decoded is None:
        yield f"route    none: {said.time_reason}, so the message is rejected"
        return
    levels = ", ".join(f"{name}={value}" for name, value in said.levels.items())
    yield f"route    {said.route}{f' ({levels})' if levels else ''}"
    if decoded.problem:
        yield f"problem  {decoded.problem}: kept and bridged as bytes, in no window"
    for sample in decoded.samples:
        yield f"reading  {clock_text(sample.time_ms)}"
        for name, value in sample.fields.items():
            unit = f" {said.units[name]}" if name in said.units else ""
            yield f"  {name} = {json.dumps(value, ensure_ascii=False)}{unit} ({type_name(value)})"
    if decoded.filtered:
        yield f"filtered {decoded.filtered} readings, by `where`"
    for name in decoded.misses:
        near = said.near.get(name)
        yield f"miss     {name}{f': did you mean {near}?' if near else ''}"
    if said.came and (decoded.misses or not decoded.samples):
        yield f"came     {', '.join(said.came)}"
    for note in decoded.notes:
        yield f"note     {note}"
    yield f"time     {clock_text(decoded.event_time_ms)}: {said.time_reason}"
    yield from (f"window   {_share(share)}" for share in said.windows)
    if not said.windows:
        yield "window   none"


def _share(share: WindowShare) -> str:
    if share.key is None:
        return f"{share.window}: {share.note}"
    bounds = (
        f", {clock_text(share.start_ms)} to {clock_text(share.end_ms)}"
        if share.start_ms is not None and share.end_ms is not None
        else ""
    )
    return f"{share.window} of {share.key}{bounds}: {json.dumps(share.result, ensure_ascii=False)}"
