"""`gateway check`: is this configuration sound, and what would the gateway do with it?"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.settings import DEFAULT_CONFIG
from gateway.config import Config, json_schema, load_config, warnings_of
from gateway.config.cloud_presets import preset_lines
from gateway.config.document import Problem, read_document
from gateway.config.earlier_versions import EarlierVersion, earlier_version, version_names
from gateway.config.models import Cloud
from gateway.config.problems import describe
from gateway.core.errors import BrokerError, ConfigError, ConfigFileError, PluginError
from gateway.core.units import format_bytes, format_duration
from gateway.local.subscriptions import MEMORY_FILE, Memory, session_name
from gateway.mqtt.mosquitto_child import embedded_program
from gateway.pipeline.plugins_loader import find_plugins, load_window_plugin
from gateway.windows.spec import WindowSpec

ConfigPath = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file (YAML).")]
Schema = Annotated[bool, typer.Option("--schema", help="Print the JSON Schema for editors instead.")]
Samples = Annotated[
    Path | None,
    typer.Option(
        "--against", help="Recorded messages, as for replay: show the readings that each of them gives."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


ForVersion = Annotated[
    str | None,
    typer.Option(
        "--for-version", help="Also judge the file for a released version, before going back to it: 0.1.0."
    ),
]


def check(
    config: ConfigPath = None,
    schema: Schema = False,
    against: Samples = None,
    for_version: ForVersion = None,
    as_json: AsJson = False,
) -> None:
    """Check a configuration file: every problem at once, each with its line.

    With --against it also tells which fields and parts of keys none of the recorded messages has. With
    --for-version it names what an earlier version does not know, and what the buffer needs for it.

    Exits with 0 when it is valid, 1 when it has problems, 2 when it cannot be read.
    """
    if schema:
        typer.echo(json.dumps(json_schema(), indent=2))
        return
    if config is None and DEFAULT_CONFIG.exists():
        config = DEFAULT_CONFIG
    if config is None:
        typer.echo("Give a configuration file: gateway check -c gateway.yaml", err=True)
        raise typer.Exit(2)
    try:
        checked = load_config(config, inspect=_parts_are_there)
    except ConfigFileError as exc:
        typer.echo(f"error: {exc}", err=True)
        raise typer.Exit(2) from exc
    except ConfigError as exc:
        _report(exc, as_json)
        raise typer.Exit(1) from exc
    if for_version is not None:
        _judge_for(for_version, config, checked, as_json=as_json)
        return
    if against is not None:
        _show_samples(checked, against, as_json=as_json)
        return
    typer.echo(_as_json(checked) if as_json else "\n".join(summary(checked)))


def _judge_for(name: str, path: Path, config: Config, *, as_json: bool) -> None:
    """Say what an earlier version does not know of a sound file. Exits with 1 when there is something."""
    version = earlier_version(name)
    if version is None:
        known = ", ".join(version_names())
        told = f"version {name} is not known here, only {known}; a newer one checks the file itself"
        raise typer.BadParameter(told, param_hint="--for-version")
    document = read_document(path.read_text(encoding="utf-8-sig"), os.environ)
    shipped = set(find_plugins(None))
    own = frozenset(set(find_plugins(config.plugins.directory)) - shipped)
    problems = [describe(document, one, str(path)) for one in version.problems(document.data, own)]
    buffer = _buffer_for(version, config.gateway.buffer_path)
    if as_json:
        facts = {"ok": not problems, "version": name, "problems": problems, "buffer": buffer}
        typer.echo(json.dumps(facts, indent=2))
    else:
        typer.echo("\n".join([*problems, buffer]))
        if not problems:
            typer.echo(f"{config.gateway.id}: version {name} can use this configuration")
    if problems:
        raise typer.Exit(1)


def _buffer_for(version: EarlierVersion, path: Path) -> str:
    """Say what the buffer needs before that version can open it."""
    from gateway.buffer.migration import SCHEMA_VERSION, copy_path  # noqa: PLC0415 - loads the database

    if version.buffer_schema == SCHEMA_VERSION or not path.exists():
        return f"buffer: version {version.name} can use it as it is"
    copy = copy_path(path, version.buffer_schema)
    why = f"version {version.name} has buffers of version {version.buffer_schema}, this is {SCHEMA_VERSION}"
    if copy.exists():
        return f"buffer: {why}; put {copy} in its place (docs/operations.md#upgrade)"
    return f"buffer: {why}, and no copy of it is here: let it drain, move it away, and start with a new one"


def _show_samples(config: Config, samples: Path, *, as_json: bool) -> None:
    from gateway.cli.against import Against  # noqa: PLC0415 - runs the windows, which a plain check does not

    try:
        found = Against(config, samples)
    except OSError as exc:
        typer.echo(f"error: {samples}: {exc.strerror}", err=True)
        raise typer.Exit(2) from exc
    if as_json:
        given = [said.as_json() for said in found.explanations]
        warnings = [*warnings_of(config), *found.warnings()]
        typer.echo(json.dumps({"ok": True, "warnings": warnings, "samples": given}, indent=2))
        return
    for line in (*found.lines(), *(f"warning: {warning}" for warning in warnings_of(config))):
        typer.echo(line)


def _parts_are_there(config: Config) -> Iterator[Problem]:
    """Load the plugin of each window with its options, as the gateway would, and find the broker."""
    try:
        embedded_program(config.local.broker)
    except BrokerError as exc:
        if config.local.embedded:
            yield Problem(("local", "broker"), f"{exc}; {exc.hint}")
    found = find_plugins(config.plugins.directory)
    for position, spec in enumerate(config.window_specs()):
        try:
            load_window_plugin(spec, found)
        except PluginError as exc:
            yield Problem(
                ("windows", position, "options" if spec.options else "plugin"), f"{exc}; {exc.hint}"
            )


def _report(error: ConfigError, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"ok": False, "problems": error.problems}, indent=2))
        return
    for problem in error.problems:
        typer.echo(problem, err=True)
    typer.echo(f"{error}; {error.hint}", err=True)


def _as_json(config: Config) -> str:
    """Return all values in the units of the code (ms, bytes), with masked secrets and all routes of
    presets."""
    values = config.model_dump(mode="json")
    values["routes"] = [route.model_dump(mode="json") for route in config.all_routes]
    return json.dumps({"ok": True, "warnings": warnings_of(config), "config": values}, indent=2)


def summary(config: Config) -> Iterator[str]:
    """Yield a summary of what the gateway would do, one line at a time."""
    local = config.local
    yield f"{config.gateway.id}: the configuration is sound"
    yield f"devices  {_local_broker(config)} (MQTT {local.protocol})"
    if not local.embedded or embedded_program(local.broker):
        yield f"  session {_since(config)}"
    windows = config.window_specs()
    shown: set[str] = set()
    for route, preset in ((route, entry.preset) for entry in config.routes for route in entry.routes):
        fields = ", ".join(route.fields) or "all fields"
        origin = f" (preset {preset})" if preset else ""
        yield f"  route  {route.name}: {route.topic} as {route.decoder}, {fields}{origin}"
        for window in windows:
            if window.route == route.name:
                shown.add(window.name)
                yield f"    {_window_line(window)}"
    for route in config.birth_routes:
        yield f"  route  {route.name}: {route.topic}, for the names and types in it"
    for window in windows:
        if window.name not in shown:
            yield f"  topics {window.topic}"
            yield f"    {_window_line(window)}"
    buffer = config.buffer
    yield f"buffer   {config.gateway.data_dir}, {format_bytes(buffer.max_size)}, {buffer.synchronous} sync"
    yield f"cloud    {_cloud_line(config.cloud)}"
    if config.cloud and config.cloud.preset:
        yield from (f"  {config.cloud.preset}: {line}" for line in preset_lines(config.cloud.preset))
    yield f"http     {config.http.listen if config.http else 'off'}"
    for warning in warnings_of(config):
        yield f"warning: {warning}"


def _local_broker(config: Config) -> str:
    local = config.local
    if not local.embedded:
        return local.url
    program = embedded_program(local.broker)
    kind = f"{program}, data in {config.gateway.data_dir / 'mosquitto'}" if program else "amqtt, in memory"
    return f"embedded broker on {local.listen}: {kind}"


def _since(config: Config) -> str:
    """Say since when the broker keeps messages for this gateway."""
    known = Memory.read(Path(config.gateway.data_dir) / MEMORY_FILE)
    if known.since_ms is None or known.session != session_name(config.local.client_id, config.local.url):
        return "none yet: what the broker acknowledges before the first start of the gateway is not kept"
    since = datetime.fromtimestamp(known.since_ms / 1000, UTC).isoformat(timespec="seconds")
    return f"{config.local.client_id}, subscribed since {since}: what came before is not here"


def _window_line(window: WindowSpec) -> str:
    fields, key = ", ".join(window.fields), window.key or "everything together"
    return f"window {window.name}: {window.plugin} of {fields} by {key}, {_span(window)}{_silence(window)}"


def _silence(window: WindowSpec) -> str:
    """Say when silent sources no longer hold up results."""
    if window.type in ("count", "global"):
        return ""
    if window.idle_timeout_ms is None:
        return ", waits for silent sources for ever"
    least = format_duration(window.idle_timeout_ms / 1000)
    return f", silent sources are left out after {least}" + (" or more (auto)" if window.idle_learns else "")


def _span(window: WindowSpec) -> str:
    sizes = {"size": window.size_ms, "slide": window.slide_ms, "gap": window.gap_ms}
    sizes["every"] = window.trigger_every_ms
    spans = [f"{name} {format_duration(ms / 1000)}" for name, ms in sizes.items() if ms is not None]
    counts = [f"of {count} readings" for count in (window.count, window.trigger_count) if count is not None]
    calendar = [f"every {window.every} of {window.timezone}"] if window.every else []
    return " ".join([window.type, *calendar, *spans, *counts])


def _cloud_line(cloud: Cloud | None) -> str:
    if cloud is None:
        return "none: events stay here"
    links = "1 connection" if cloud.connections == 1 else f"{cloud.connections} connections"
    if cloud.one_connection:
        links = f"1 connection for everything, client id {cloud.client_id}"
    urls = cloud.url if isinstance(cloud.url, str) else ", then ".join(cloud.url)
    return f"{urls} (MQTT {cloud.protocol}), format {cloud.format}, {links}"
