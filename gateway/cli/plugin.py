"""`gateway plugin`: list the window plugins, check one, start a new one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from gateway.core.errors import PluginError
from gateway.pipeline.plugins_loader import FoundPlugin, find_plugins, load_window_plugin, plugin_file
from gateway.windows.spec import WindowSpec

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Window plugins: list, check, new.")

Folder = Annotated[
    Path, typer.Option("--plugins", "-p", help="Folder of plugin files, besides those that are installed.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DEFAULT_FOLDER = Path("plugins")

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


@app.command("list")
def list_plugins(plugins: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """All plugins that windows can name, and where each comes from."""
    found = find_plugins(plugins if plugins.is_dir() else None).values()
    if as_json:
        typer.echo(json.dumps([_facts(plugin) for plugin in found], indent=2))
        return
    width = max((len(plugin.name) for plugin in found), default=0)
    for plugin in found:
        typer.echo(f"{plugin.name:{width}}  {plugin.summary}")
        typer.echo(f"{'':{width}}  {plugin.origin}")


def _facts(plugin: FoundPlugin) -> dict[str, str]:
    return {"name": plugin.name, "origin": plugin.origin, "summary": plugin.summary, "code": plugin.code}


@app.command()
def check(
    plugin: Annotated[str, typer.Argument(help="A plugin's name, or a file.")],
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="An option of the plugin, as name=value.")
    ] = None,
    field: Annotated[
        list[str] | None, typer.Option("--field", "-f", help="A field of the window; `value` by default.")
    ] = None,
    plugins: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Check that a plugin keeps the contract: merging gives what adding gives, and so on.

    Exits with 0 when it does, 1 when it does not.
    """
    found = find_plugins(plugins if plugins.is_dir() else None)
    name = plugin
    if plugin.endswith(".py"):
        name = Path(plugin).stem
        found = {name: plugin_file(Path(plugin))}
    spec = WindowSpec("check", "tumbling", name, _options(option or []), tuple(field or ["value"]), size_ms=1)
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
    name: Annotated[str, typer.Argument(help="Its name: that of the file, and of `plugin:` in a window.")],
    plugins: Folder = DEFAULT_FOLDER,
) -> None:
    """Write a plugin to start from: it works, and says where to change what."""
    if not name.isidentifier() or name.startswith("_"):
        raise typer.BadParameter(
            f"{name!r}: letters, digits and underscores, not beginning with a digit or _"
        )
    path = plugins / f"{name}.py"
    plugins.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.format(name=name))
    except FileExistsError as exc:
        raise PluginError(f"{path} exists already", hint="choose another name") from exc
    typer.echo(f"{path} is written. Check it with: gateway plugin check {path}")
