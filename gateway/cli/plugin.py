"""`gateway plugin`: list window plugins and decoders, check one, start a new one."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml

from gateway.cli.settings import DEFAULT_CONFIG, load_config
from gateway.core.errors import ConfigError, PluginError
from gateway.pipeline.decoder_plugins import FoundDecoder, decoder_file, find_decoders, try_out
from gateway.pipeline.encoder_plugins import FoundEncoder, encoder_file, find_encoders, try_encoder
from gateway.pipeline.plugins_loader import FoundPlugin, find_plugins, load_window_plugin, plugin_file
from gateway.windows.spec import WindowSpec

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List, check and create window plugins and decoders."
)

Folder = Annotated[
    Path, typer.Option("--plugins", "-p", help="Folder of plugin files, in addition to installed plugins.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DEFAULT_FOLDER = Path("plugins")
_COLUMNS = 80

TEMPLATE = '''"""{name}: what it computes, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.windows.plugin import Reading


class Plugin:
    """Keep nothing about readings here: one object serves all keys. What is known is in the accumulator.

    An accumulator is plain JSON: None, numbers, text, lists, dicts. docs/plugins.md has the whole contract.
    """

    def setup(self, options: Mapping[str, Any]) -> None:
        """Called once with the window's options, and `fields`; raise ValueError for what cannot be used."""
        unknown = set(options) - {{"fields"}}
        if unknown:
            raise ValueError(f"no such option: {{', '.join(unknown)}}")

    def create_accumulator(self) -> list[float]:
        """No readings yet."""
        return [0, 0.0]

    def add_input(self, acc: list[float], reading: Reading) -> list[float]:
        """One more reading: reading.value, .time_ms, .fields, .topic. It may change and return `acc`."""
        acc[0] += 1
        acc[1] += reading.value
        return acc

    def merge_accumulators(self, accumulators: Sequence[list[float]]) -> list[float]:
        """All readings of several accumulators, in time order; these must not be changed."""
        return [sum(acc[0] for acc in accumulators), sum(acc[1] for acc in accumulators)]

    def extract_output(self, acc: list[float]) -> dict[str, Any] | None:
        """The result, as JSON; None says nothing. `acc` must not be changed: more readings may come."""
        count, total = acc
        return {{"count": count, "mean": total / count}} if count else None
'''


DECODER_TEMPLATE = '''"""{name}: which payloads it reads, in one sentence."""

from __future__ import annotations

import struct


class Decoder:
    """One object reads all messages of a route, from one thread. Keep nothing about messages here."""

    # How a document is read where the route does not say, as in a route of the configuration; all optional.
    fields: dict[str, str] = {{}}
    readings: str | None = None  # where the list is, when a payload holds several readings
    timestamp_path: str | None = None
    timestamp_format = "iso"

    def decode(self, payload: bytes) -> object:
        """What JSON could hold: a dict, a list, text, numbers, booleans, None. Never invent a 0 for what is
        absent: leave it out. Whatever is raised here means that the payload cannot be read: it is kept and
        bridged as it is, and counted."""
        temperature, humidity = struct.unpack(">hB", payload)
        return {{"temperature": temperature / 10, "humidity": humidity}}
'''


ENCODER_TEMPLATE = '''"""{name}: which messages it makes, in one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from gateway.core.events import WireEvent
from gateway.wire.uplink_topics import UplinkTopics


class Encoder:
    """One object for each connection to the cloud, called from one thread."""

    def encode(
        self, events: Sequence[WireEvent], topics: UplinkTopics
    ) -> Iterator[tuple[str, bytes, Sequence[int]]]:
        """Give the topic and payload of each message, and the positions of its events. Each event belongs
        into exactly one, those of a stream in their order. Whatever is raised here, the event that it is
        about is found, and kept as failed; the others go on."""
        by_device: dict[str, list[int]] = {{}}
        for position, event in enumerate(events):
            by_device.setdefault(topics.device(event.stream), []).append(position)
        for device, positions in by_device.items():
            rows = [[events[at].event_time_ms, events[at].payload.decode()] for at in positions]
            yield f"plants/{{device}}", json.dumps(rows).encode(), positions
'''

TEMPLATES = {"window": TEMPLATE, "decoder": DECODER_TEMPLATE, "encoder": ENCODER_TEMPLATE}


@app.command("list")
def list_plugins(plugins: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """List all plugins that windows can name, and where each comes from."""
    folder = plugins if plugins.is_dir() else None
    found = find_plugins(folder).values()
    others: list[FoundDecoder | FoundEncoder] = [
        *find_decoders(folder).values(),
        *find_encoders(folder).values(),
    ]
    if as_json:
        facts = [*map(_facts, found), *map(_facts_of_other, others)]
        typer.echo(json.dumps(facts, indent=2))
        return
    everything: list[FoundPlugin | FoundDecoder | FoundEncoder] = [*found, *others]
    width = max((len(shown.name) for shown in everything), default=0)
    for shown in everything:
        kind = "" if isinstance(shown, FoundPlugin) else f"{_kind(shown)}: "
        indent = " " * (width + 2)
        text = textwrap.fill(kind + shown.summary, _COLUMNS, initial_indent=indent, subsequent_indent=indent)
        typer.echo(f"{shown.name:{width}}  {text.lstrip()}")
        typer.echo(f"{indent}{shown.origin}")


def _kind(found: FoundDecoder | FoundEncoder) -> str:
    return "decoder" if isinstance(found, FoundDecoder) else "encoder"


def _facts_of_other(found: FoundDecoder | FoundEncoder) -> dict[str, str]:
    return {"name": found.name, "origin": found.origin, "summary": found.summary, "kind": _kind(found)}


def _facts(plugin: FoundPlugin) -> dict[str, str]:
    return {"name": plugin.name, "origin": plugin.origin, "summary": plugin.summary, "code": plugin.code}


@app.command()
def check(
    plugin: Annotated[str, typer.Argument(help="Name of a plugin, or a file.")],
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="An option of the plugin, as name=value.")
    ] = None,
    field: Annotated[
        list[str] | None, typer.Option("--field", "-f", help="A field of the window; `value` by default.")
    ] = None,
    window: Annotated[
        str | None,
        typer.Option("--window", "-w", help="Take options and fields from this window of --config."),
    ] = None,
    config: Annotated[
        Path, typer.Option("--config", "-c", help="Configuration file (YAML).")
    ] = DEFAULT_CONFIG,
    plugins: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Check that a plugin keeps the contract, for example that merging gives the same as adding. A decoder
    is given random payloads, an encoder some events.

    Options and fields are those of --window, or else of the one window in gateway.yaml that uses the plugin;
    what you give here comes on top. Exits with 0 when it does, 1 when it does not.
    """
    found = find_plugins(plugins if plugins.is_dir() else None)
    name = plugin
    decoder = _decoder(plugin, plugins)
    if decoder is not None and name not in found:
        read = try_out(decoder.decoder())
        facts = {"ok": True, "origin": decoder.origin, "random_payloads_read": read}
        typer.echo(json.dumps(facts) if as_json else f"{decoder.name} is a decoder ({decoder.origin})")
        return
    encoder = _encoder(plugin, plugins)
    if encoder is not None and name not in found:
        count = try_encoder(encoder.encoder())
        facts = {"ok": True, "origin": encoder.origin, "messages": count}
        typer.echo(json.dumps(facts) if as_json else f"{encoder.name} is an encoder ({encoder.origin})")
        return
    if plugin.endswith(".py"):
        name = Path(plugin).stem
        found = {name: plugin_file(Path(plugin))}
    options, fields = _of_window(config, window, name)
    options |= _options(option or [])
    spec = WindowSpec("check", "tumbling", name, options, tuple(field or fields), size_ms=1)
    try:
        load_window_plugin(spec, found)
    except PluginError as exc:
        if not as_json:
            raise
        typer.echo(json.dumps({"ok": False, "problem": str(exc), "hint": exc.hint}, indent=2))
        raise typer.Exit(1) from exc
    origin = found[name].origin
    typer.echo(
        json.dumps({"ok": True, "origin": origin}) if as_json else f"{name} keeps the contract ({origin})"
    )


def _decoder(plugin: str, plugins: Path) -> FoundDecoder | None:
    """The decoder of that name or file, if it is one."""
    if plugin.endswith(".py"):
        path = Path(plugin)
        return (
            decoder_file(path) if plugin_file(path).is_for_payloads and encoder_file(path) is None else None
        )
    return find_decoders(plugins if plugins.is_dir() else None).get(plugin)


def _encoder(plugin: str, plugins: Path) -> FoundEncoder | None:
    """The encoder of that name or file, if it is one."""
    if plugin.endswith(".py"):
        return encoder_file(Path(plugin))
    return find_encoders(plugins if plugins.is_dir() else None).get(plugin)


def _of_window(config: Path, window: str | None, plugin: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return options and fields of a window in the configuration: the named one, or the only one with that
    plugin, if there is a configuration."""
    if window is None and not config.exists():
        return {}, ("value",)
    try:
        specs = load_config(config).window_specs()
    except ConfigError:
        if window is not None:
            raise
        return {}, ("value",)
    found = [spec for spec in specs if spec.name == window or (window is None and spec.plugin == plugin)]
    if window is not None and not found:
        names = ", ".join(spec.name for spec in specs)
        raise typer.BadParameter(f"{config} has no window {window}; there is {names}", param_hint="--window")
    if window is not None and found[0].plugin != plugin:
        raise typer.BadParameter(f"the window {window} uses {found[0].plugin}", param_hint="--window")
    if len(found) != 1:
        return {}, ("value",)
    return dict(found[0].options), found[0].fields


def _options(pairs: list[str]) -> dict[str, Any]:
    """name=value as in a configuration file: values are YAML."""
    options = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise typer.BadParameter(f"{pair!r}: write name=value")
        options[name] = yaml.safe_load(value)
    return options


@app.command()
def new(
    name: Annotated[
        str,
        typer.Argument(help="Name of the plugin and its file, for `plugin:` or `decoder:`."),
    ],
    plugins: Folder = DEFAULT_FOLDER,
    kind: Annotated[
        Literal["window", "decoder", "encoder"],
        typer.Option("--kind", help="For windows, to decode payloads, or to make messages for the cloud."),
    ] = "window",
) -> None:
    """Write a working plugin to start from, with comments on what to change."""
    if not name.isidentifier() or name.startswith("_"):
        raise typer.BadParameter(
            f"{name!r}: letters, digits and underscores, not beginning with a digit or _"
        )
    path = plugins / f"{name}.py"
    plugins.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATES[kind].format(name=name))
    except FileExistsError as exc:
        raise PluginError(f"{path} exists already", hint="choose another name") from exc
    typer.echo(f"{path} is written. Check it with: gateway plugin check {path}")
