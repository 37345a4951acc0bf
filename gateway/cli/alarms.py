"""`gateway alarms list|ack|clear`: the alarms and their states.

A running gateway is asked through its control socket; the buffer of a stopped one is opened here.
"""

from __future__ import annotations

import getpass
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.alarms.requests import SHOWS
from gateway.cli.buffer_changes import change, tell
from gateway.cli.buffer_options import AsJson, ConfigFile
from gateway.cli.settings import DEFAULT_CONFIG, load_config
from gateway.core.errors import NotifyError

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Alarms.")

OfWindow = Annotated[
    str | None, typer.Argument(metavar="[WINDOW]", help="Window; `device_silent` for silent devices.")
]
OfKeys = Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="Keys; default: all of them.")]
All = Annotated[bool, typer.Option("--all", help="All alarms of all windows.")]
By = Annotated[str | None, typer.Option("--by", help="Your name; default: your account's.")]
Note = Annotated[str | None, typer.Option("--note", help="A note that is kept with it.")]


@app.command("list")
def list_command(
    config: ConfigFile = DEFAULT_CONFIG,
    state: Annotated[str, typer.Option("--state", help=f"One of {', '.join(SHOWS)}.")] = "on",
    everything: Annotated[bool, typer.Option("--all", help="The same as --state all.")] = False,
    as_json: AsJson = False,
) -> None:
    """List alarms: those that are on, or with --state cleared those that ended."""
    show = "all" if everything else state
    if show not in SHOWS:
        raise typer.BadParameter(f"is one of {', '.join(SHOWS)}", param_hint="--state")
    done = change(config, {"do": "alarms", "show": show}, "reading")
    if as_json:
        tell(done, as_json, "")
        return
    found, numbers = done.result["alarms"], done.result["counts"]
    if found:
        from rich.console import Console  # noqa: PLC0415 - slow to import

        Console().print(_table(found))
    typer.echo(", ".join(f"{number:,} {name}" for name, number in numbers.items()))


@app.command()
def ack(
    window: OfWindow = None,
    keys: OfKeys = None,
    config: ConfigFile = DEFAULT_CONFIG,
    everything: All = False,
    by: By = None,
    note: Note = None,
    as_json: AsJson = False,
) -> None:
    """Acknowledge alarms: somebody has seen them, and they are not sent again while they last."""
    _change(config, "acknowledge", _requests(window, keys, everything, by, note), as_json)


@app.command()
def clear(
    window: OfWindow = None,
    keys: OfKeys = None,
    config: ConfigFile = DEFAULT_CONFIG,
    everything: All = False,
    by: By = None,
    note: Note = None,
    as_json: AsJson = False,
) -> None:
    """End alarms by hand, such as those of a device that is gone. The next alert raises them again."""
    _change(config, "clear", _requests(window, keys, everything, by, note), as_json)


@app.command("test")
def test_command(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Send a test message to each target of `notify`."""
    from gateway.alarms.apprise_sender import AppriseSender  # noqa: PLC0415 - slow to import
    from gateway.alarms.notices import Notice  # noqa: PLC0415

    settings = load_config(config)
    failed = 0
    for target in settings.notify_targets:
        notice = Notice(
            f"{settings.gateway.id}: test", "Notifications of alarms come this way.", is_good=True
        )
        try:
            AppriseSender(target.url).send(notice)
            typer.echo(f"{target.name}: sent")
        except NotifyError as exc:
            failed += 1
            typer.echo(f"{target.name}: {exc}", err=True)
    if not settings.notify_targets:
        raise NotifyError("there is nobody to notify", hint="`notify` in the configuration; see alarms.md")
    if failed:
        raise typer.Exit(1)


def _requests(
    window: str | None, keys: list[str] | None, everything: bool, by: str | None, note: str | None
) -> list[dict[str, Any]]:
    if (window is None) == (not everything):
        raise typer.BadParameter("give a window and its keys, or --all")
    common = {"by": by or getpass.getuser(), "note": note or "", "all": everything}
    named = common if window is None else common | {"window": window}
    return [named | {"key": key} for key in keys] if keys else [named]


def _change(config: Path, action: str, requests: list[dict[str, Any]], as_json: bool) -> None:
    alarms = []
    for request in requests:
        done = change(config, {"do": f"{action}_alarms", **request}, f"asking to {action}")
        alarms += done.result["alarms"]
    did = {"acknowledge": "acknowledged", "clear": "cleared"}[action]
    result = {"changed": len(alarms), "alarms": alarms}
    names = ", ".join(_title(alarm) for alarm in alarms[:5]) + (", …" if len(alarms) > 5 else "")
    tell(done._replace(result=result), as_json, f"{did} {len(alarms):,}: {names}")


def _table(alarms: list[dict[str, Any]]) -> Table:
    from rich.table import Table  # noqa: PLC0415 - slow to import

    table = Table(box=None, pad_edge=False)
    for name in ("alarm", "state", "since", "value"):
        table.add_column(name, overflow="fold")
    for alarm in alarms:
        ended = alarm["ended_ms"]
        since = _moment(alarm["since_ms"]) + (f" – {_moment(ended)}" if ended else "")
        table.add_row(_title(alarm), _state(alarm), since, _value(alarm))
    return table


def _title(alarm: dict[str, Any]) -> str:
    return f"{alarm['window']} {alarm['key']}".rstrip()


def _state(alarm: dict[str, Any]) -> str:
    who = {"acknowledged": alarm["acknowledged_by"], "cleared": alarm["cleared_by"]}.get(alarm["state"])
    return f"{alarm['state']} by {who}" if who else str(alarm["state"])


def _value(alarm: dict[str, Any]) -> str:
    value, limit = alarm["value"], alarm["limit"]
    shown = f"{value:.4g}" if isinstance(value, int | float) else str(value)
    return shown if limit is None else f"{shown} (limit {limit:g})"


def _moment(at_ms: int) -> str:
    at = datetime.fromtimestamp(at_ms / 1000).astimezone()
    is_today = at.date() == datetime.fromtimestamp(time.time()).astimezone().date()
    return at.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M")
