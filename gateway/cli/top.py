"""`gateway top`: what a running gateway does, live in the terminal, from its HTTP API."""

from __future__ import annotations

import json
import os
import select
import sys
import termios
import tty
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from gateway.cli.settings import DEFAULT_CONFIG, load_config
from gateway.cli.top_screen import Top
from gateway.core.errors import GatewayError, plain_reason

_EVERY_S = 1.0
_TIMEOUT_S = 5.0
_STEPS = {"j": 1, "k": -1}
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where such a listener is reached


def top(
    *,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Configuration file of the gateway.")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Address of its page: http://127.0.0.1:8080.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File with http.token, if the gateway has one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the state once, as JSON.")] = False,
) -> None:
    """Show what a running gateway does, once a second. j and k scroll the windows, q ends it.

    Give its configuration file, or the address of its page. Prints once if the output is not a terminal.
    """
    ask = _asking(*_address(config, url, token_file))
    console = Console()
    if as_json:
        typer.echo(json.dumps(ask()))
    elif not (console.is_terminal and sys.stdin.isatty()):
        console.print(Top(ask()))
    else:
        _watch(console, ask)


def _watch(console: Console, ask: Callable[[], dict[str, Any]]) -> None:
    state, problem, first = ask(), "", 0
    with _keys() as key, Live(Top(state), console=console, screen=True, auto_refresh=False) as live:
        live.refresh()
        while (typed := key()) not in {"q", "Q", "\x1b"}:
            first = min(max(first + _STEPS.get(typed, 0), 0), len(state["windows"]))
            try:
                state, problem = ask(), ""
            except GatewayError as exc:
                problem = str(exc)
            live.update(Top(state, problem, first), refresh=True)


def _address(config: Path | None, url: str | None, token_file: Path | None) -> tuple[str, str | None]:
    """Return the address to connect to, and the token."""
    if config is not None and url is not None:
        raise typer.BadParameter("give either --config or --url")
    if url is None:
        config = config or DEFAULT_CONFIG
    token = token_file.read_text().strip() if token_file else None
    if url is not None:
        if not url.startswith(("http://", "https://")):
            raise typer.BadParameter("must begin with http:// or https://", param_hint="--url")
        return url.rstrip("/"), token
    http = load_config(config).http if config else None
    if http is None:
        raise GatewayError(f"{config} says `http: off`", hint="set http.listen; gateway top asks there")
    listen = http.listen._replace(host=_ANY_ADDRESS.get(http.listen.host, http.listen.host))
    return f"http://{listen}", token or (http.token.get_secret_value() if http.token else None)


def _asking(url: str, token: str | None) -> Callable[[], dict[str, Any]]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{url}/api/state", headers=headers)  # noqa: S310 - checked above

    def ask() -> dict[str, Any]:
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as exc:
            with exc:
                hint = "give --token-file" if exc.code == 401 else exc.read(200).decode(errors="replace")
                raise GatewayError(f"{url} refuses: {exc.code} {exc.reason}", hint=hint) from exc
        except (OSError, ValueError) as exc:
            raise GatewayError(
                f"{url} does not answer: {plain_reason(exc)}", hint="is the gateway running?"
            ) from exc

    return ask


@contextmanager
def _keys() -> Iterator[Callable[[], str]]:
    """A function that waits a second for a key, and gives it or nothing."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)

    def key() -> str:
        ready, _, _ = select.select([descriptor], [], [], _EVERY_S)
        return os.read(descriptor, 1).decode(errors="replace") if ready else ""

    try:
        yield key
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
