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
from gateway.cli.top_devices import ONLY, SORTS, TopDevices, rows_of
from gateway.cli.top_screen import WINDOW_SORTS, Top
from gateway.core.errors import GatewayError, plain_reason

_EVERY_S = 1.0
_TIMEOUT_S = 5.0
MOST_ROWS = 500
"""Devices that the gateway gives at once."""
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
    """Show what a running gateway does, once a second. q ends it.

    Keys: d shows the devices, and goes back; s sorts windows or devices by something else; j and k scroll
    by a line, space and b by a screen; o shows only silent devices, those with a wrong clock, and so on.

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


def _watch(console: Console, ask: Callable[..., dict[str, Any]]) -> None:
    screens = Screens(ask, lambda: console.height)
    with _keys() as key, Live(screens.drawn(), console=console, screen=True, auto_refresh=False) as live:
        live.refresh()
        while (typed := key()) not in {"q", "Q", "\x1b"}:
            screens.typed(typed)
            live.update(screens.drawn(), refresh=True)


class Screens:
    """The two screens, the overview and the devices, and what the keys do to them."""

    def __init__(self, ask: Callable[..., dict[str, Any]], height: Callable[[], int]) -> None:
        self._ask = ask
        self._height = height
        self._shows_devices = False
        self._first = self._window_sort = self._sort = self._only = 0
        self._state: dict[str, Any] = {}
        self._devices: dict[str, Any] = {"time_ms": 0, "found": 0, "devices": []}

    def typed(self, key: str) -> None:
        """Act on a key; others than the known ones change nothing."""
        page = rows_of(self._height()) if self._shows_devices else self._height() // 2
        steps = {"j": 1, "k": -1, " ": page, "b": -page}
        most = self._devices["found"] if self._shows_devices else len(self._state.get("windows", ()))
        self._first = min(max(self._first + steps.get(key, 0), 0), max(most - 1, 0))
        if key == "d":
            self._shows_devices, self._first = not self._shows_devices, 0
        elif key == "s" and self._shows_devices:
            self._sort, self._first = (self._sort + 1) % len(SORTS), 0
        elif key == "s":
            self._window_sort, self._first = (self._window_sort + 1) % len(WINDOW_SORTS), 0
        elif key == "o" and self._shows_devices:
            self._only, self._first = (self._only + 1) % len(ONLY), 0

    def drawn(self) -> Top | TopDevices:
        """Ask for the newest state and draw it. Raises GatewayError while there was none yet."""
        problem = ""
        try:
            if self._shows_devices:
                self._devices = self._ask(
                    f"/api/devices/table?sort={SORTS[self._sort]}&only={ONLY[self._only]}"
                    f"&offset={self._first}&limit={min(rows_of(self._height()), MOST_ROWS)}"
                )
            else:
                self._state = self._ask()
        except GatewayError as exc:
            if not self._state:
                raise
            problem = str(exc)
        if self._shows_devices:
            return TopDevices(self._devices, SORTS[self._sort], ONLY[self._only], self._first, problem)
        return Top(self._state, problem, self._first, WINDOW_SORTS[self._window_sort])


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


def _asking(url: str, token: str | None) -> Callable[..., dict[str, Any]]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}

    def ask(path: str = "/api/state") -> dict[str, Any]:
        request = urllib.request.Request(url + path, headers=headers)  # noqa: S310 - checked above
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
