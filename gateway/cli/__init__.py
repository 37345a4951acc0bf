"""The `gateway` command. Each module of this package is one command or one group of commands.

Commands are imported when they are called: `gateway check` must not wait for a web server to load.
Exit codes: 0 done, 1 it did not work out, 2 it was called the wrong way.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, ClassVar

import typer

from gateway import __version__
from gateway.cli.lazy import LazyGroup, Listed
from gateway.core.errors import ConfigError, ConfigFileError, GatewayError, plain_reason


class _Commands(LazyGroup):
    listed: ClassVar = {
        "demo": Listed("demo", "demo", "Show the gateway at work, on embedded brokers, in under a minute."),
        "init": Listed("init", "init", "Listen on a broker, and write a configuration for what was heard."),
        "run": Listed("run", "run", "Run the gateway."),
        "top": Listed("top", "top", "Watch a running gateway in the terminal."),
        "check": Listed("check", "check", "Check a configuration file, or print its JSON Schema."),
        "explain": Listed("explain", "app", "Show what the gateway makes of one message."),
        "replay": Listed("replay", "replay", "Run the windows over recorded events, without a broker."),
        "apply": Listed("apply", "apply", "Rehearse a new configuration, take it up, go back if it is bad."),
        "receive": Listed("receive", "receive", "Receive events from gateways: the cloud side."),
        "fleet": Listed("fleet", "app", "Work with what many gateways have sent."),
        "simulate": Listed("simulate", "simulate", "Publish messages like a fleet of devices."),
        "render": Listed("render", "render", "Make the configurations of many sites out of one template."),
        "config": Listed("config", "app", "Sign a configuration for gateways that are out of reach."),
        "support": Listed("support", "app", "Gather what helps to find a fault, without secrets."),
        "buffer": Listed("buffer_commands", "app", "Inspect and change a buffer."),
        "alarms": Listed("alarms", "app", "List, acknowledge and clear alarms."),
        "clock": Listed("clock", "app", "Show the gateway's time, and devices with wrong clocks."),
        "plugin": Listed("plugin", "app", "List, check and create plugins."),
        "keys": Listed("keys", "app", "Make and show the keys that sign audit records."),
        "bench": Listed("bench", "bench", "Measure the message rate of this machine."),
    }


app = typer.Typer(
    cls=_Commands,
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
