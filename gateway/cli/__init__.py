"""The `gateway` command. Each module of this package is one command or one group of commands.

Commands are imported when they are called: `gateway check` must not wait for a web server to load.
Exit codes: 0 done, 1 it did not work out, 2 it was called the wrong way.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from gateway import __version__
from gateway.core.errors import ConfigError, ConfigFileError, GatewayError, plain_reason

# command → (module, function or Typer app, one line for the list)
COMMANDS = {
    "demo": ("demo", "demo", "Show the gateway at work, on embedded brokers, in under a minute."),
    "run": ("run", "run", "Run the gateway."),
    "top": ("top", "top", "Watch a running gateway in the terminal."),
    "check": ("check", "check", "Check a configuration file, or print its JSON Schema."),
    "explain": ("explain", "explain_message", "Show what the gateway makes of one message."),
    "replay": ("replay", "replay", "Run the windows over recorded events, without a broker."),
    "receive": ("receive", "receive", "Receive events from gateways: the cloud side."),
    "simulate": ("simulate", "simulate", "Publish messages like a fleet of devices."),
    "buffer": ("buffer", "app", "Inspect and change a buffer."),
    "clock": ("clock", "app", "Show the gateway's time, and devices with wrong clocks."),
    "plugin": ("plugin", "app", "List, check and create plugins."),
    "bench": ("bench", "bench", "Measure the message rate of this machine."),
}


class _LazyGroup(TyperGroup):
    """Imports a command's module only when that command is called."""

    def list_commands(self, ctx: object) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: object, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in COMMANDS.items()])

    def get_command(self, ctx: object, cmd_name: str) -> object:  # type: ignore[override]
        if cmd_name not in COMMANDS:
            near = get_close_matches(cmd_name, COMMANDS, n=1)
            if near:
                raise typer.BadParameter(f"there is no command {cmd_name!r}; did you mean {near[0]!r}?")
            return None
        module, attribute, summary = COMMANDS[cmd_name]
        found = getattr(importlib.import_module(f"gateway.cli.{module}"), attribute)
        if not isinstance(found, typer.Typer):
            single = typer.Typer(add_completion=False, rich_markup_mode=None)
            single.command(name=cmd_name)(found)
            found = single
        command = get_command(found)
        command.name, command.short_help = cmd_name, summary
        return command


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="An MQTT edge gateway that keeps every event: durable buffer, event-time windows, cloud bridge.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Take the options that belong to no command."""


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except ConfigError as exc:
        _complain(exc, exc.problems)
        sys.exit(2 if isinstance(exc, ConfigFileError) else 1)
    except GatewayError as exc:
        _complain(exc)
        sys.exit(1)
    except OSError as exc:
        if exc.filename is None:
            raise  # not about a file from the command line: a bug, which needs its traceback
        typer.echo(f"error: {exc.filename}: {plain_reason(exc)}", err=True)
        sys.exit(1)


def _complain(error: GatewayError, problems: Sequence[str] = ()) -> None:
    from rich.console import Console  # noqa: PLC0415 - only errors need colours here

    console = Console(stderr=True)
    console.print(f"error: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
    for line in [*problems, *([error.hint] if error.hint else ())]:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
