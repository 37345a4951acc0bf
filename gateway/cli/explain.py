"""`gateway explain`: what becomes of one message, from its route to the windows that it falls into."""

from __future__ import annotations

import json
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.settings import DEFAULT_CONFIG
from gateway.config import Config, load_config
from gateway.core.timestamps import timestamp_reader
from gateway.decode.routes import RouteTable
from gateway.pipeline.explanation import Explanation, WindowShare, clock_text, explain, type_name
from gateway.pipeline.plugins_loader import load_plugins
from gateway.windows.engine import WindowEngine


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


def explain_message(
    topic: Annotated[str, typer.Argument(help="Topic of the message.")],
    payload: Annotated[str, typer.Argument(help="Its payload; @FILE for the bytes of a file, - for stdin.")],
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
    """
    said = Explainer(load_config(config))(topic, _bytes(payload, base64=base64), _arrival_ms(arrival))
    typer.echo(json.dumps(said.as_json(), indent=2) if as_json else "\n".join(told(said)))
    if said.decoded is None or not said.decoded.samples:
        raise typer.Exit(1)


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
            yield f"  {name} = {json.dumps(value, ensure_ascii=False)} ({type_name(value)})"
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
