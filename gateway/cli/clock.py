"""`gateway clock`: what time the running gateway believes it is, why, and whose clocks differ from it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.settings import DEFAULT_CONFIG, load_config
from gateway.core.errors import GatewayError, plain_reason
from gateway.core.printable import printable
from gateway.core.units import format_duration

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The gateway's time, and its devices' clocks."
)

ConfigPath = Annotated[Path, typer.Option("--config", "-c", help="Configuration of the running gateway.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ANSWER_WITHIN_S = 5.0


@app.command()
def status(config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Sources, offset, drift, uncertainty and state of the gateway's own time.

    Exits with 1 when the time is not certain, so that a check can use it.
    """
    found = ask(config, "/clock")
    typer.echo(json.dumps(found, indent=2) if as_json else "\n".join(describe(found)))
    if not found["certain"]:
        raise typer.Exit(1)


@app.command()
def devices(
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Most devices to show.")] = 20,
) -> None:
    """List devices with wrong clocks: by how much and since when, the worst first."""
    found = ask(config, "/clock/devices")
    found["devices"] = found["devices"][:limit]
    typer.echo(json.dumps(found, indent=2) if as_json else "\n".join(describe_devices(found)))


def ask(config: Path, path: str) -> dict[str, Any]:
    """Return the answer of the running gateway's HTTP server. Raises GatewayError."""
    http = load_config(config).http
    if http is None:
        raise GatewayError("the gateway has no HTTP server to ask", hint="`http: off` switches it off")
    host = "127.0.0.1" if http.listen.host in ("0.0.0.0", "::") else http.listen.host  # noqa: S104 - no bind
    address = http.listen._replace(host=host)
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=ANSWER_WITHIN_S) as answer:
            return dict(json.load(answer))
    except (OSError, ValueError) as exc:
        if isinstance(exc, urllib.error.HTTPError):
            exc.close()
        raise GatewayError(
            f"no answer from the gateway on {address}: {plain_reason(exc)}", hint="does it run?"
        ) from exc


def describe(found: dict[str, Any]) -> Iterator[str]:
    """The status for people."""
    source = f", by {found['source']}" if found["source"] else ""
    yield f"{_time(found['now_ms'])}  {found['state']}{source}" + ("" if found["certain"] else ", UNCERTAIN")
    if found["uncertainty_s"] is not None:
        yield f"uncertainty    ± {_ms(found['uncertainty_s'])}"
    yield f"system clock   {_ms(-found['system_offset_s'], sign=True)} against the gateway's time"
    if found["drift_ppm"] is not None:
        yield f"drift          {found['drift_ppm']:+.3f} ppm"
    jumps = ", ".join(f"{count} {kind}" for kind, count in found["jumps"].items()) or "none"
    yield f"system jumps   {jumps}; {found['steps']} steps of the gateway's time"
    widest = max((len(one["name"]) for one in found["sources"]), default=0)
    for one in found["sources"]:
        yield f"  {one['name']:<{widest}}  {_source(one)}"


def _source(one: dict[str, Any]) -> str:
    text = f"{one['role']:<9}"
    if one.get("offset_s") is not None:
        text += f" {_ms(one['offset_s'], sign=True)} ± {_ms(one['uncertainty_s'])}"
        text += f", {one['drift_ppm']:+.2f} ppm"
        text += f", {format_duration(max(one['silent_s'], 0.0))} ago"
    return f"{text}  {one['problem']}".rstrip()


def describe_devices(found: dict[str, Any]) -> Iterator[str]:
    """The table of devices for people."""
    yield f"{found['wrong']} of {found['watched']} devices have a wrong clock"
    if found["unwatched_messages"]:
        yield f"{found['unwatched_messages']} messages came from more devices than are watched"
    names = [printable(one["device"]) for one in found["devices"]]
    widest = max(map(len, names), default=0)
    for name, one in zip(names, found["devices"], strict=True):
        drift = "" if one["drift_ppm"] is None else f"{one['drift_ppm']:+.1f} ppm"
        since = "" if one["wrong_since_ms"] is None else f"wrong since {_minute(one['wrong_since_ms'])}"
        yield f"{name:<{widest}} {one['offset_ms'] / 1000:+10.3f} s {drift:>12}  {since}".rstrip()


def _ms(seconds: float, *, sign: bool = False) -> str:
    if abs(seconds) >= 10:
        return f"{seconds:+.3f} s" if sign else f"{seconds:.3f} s"
    return f"{seconds * 1000:+.3f} ms" if sign else f"{seconds * 1000:.3f} ms"


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def _minute(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%m-%d %H:%M}Z"
