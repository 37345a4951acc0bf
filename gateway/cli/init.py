"""`gateway init`: a first configuration out of what is heard on a broker."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import connecting
from gateway.cli.settings import DEFAULT_CONFIG
from gateway.core.errors import GatewayError, UnitError
from gateway.core.printable import printable
from gateway.core.units import format_duration, parse_duration_ms

if TYPE_CHECKING:
    from gateway.config.proposal.heard import BrokerTraffic
    from gateway.config.proposal.text import Proposal
    from gateway.mqtt.endpoint import Endpoint
    from gateway.mqtt.link import Link

DEFAULT_URL = "mqtt://127.0.0.1:1883"
PASSWORD_FILE = "local.password"  # noqa: S105 - a file name
_CONNECT_S, _TRIES = 10.0, 2
_LOOK_EVERY_S = 0.2


def init(
    *,
    url: Annotated[
        str | None, typer.Option("--url", help=f"The devices' broker. Asked for; by default {DEFAULT_URL}.")
    ] = None,
    listen_for: Annotated[str, typer.Option("--for", help="How long to listen.")] = "1m",
    topic: Annotated[str, typer.Option("--topic", help="Topic filter to listen to.")] = "#",
    config: Annotated[
        Path, typer.Option("--config", "-c", help="Configuration file to write. It must not exist.")
    ] = DEFAULT_CONFIG,
    gateway_id: Annotated[
        str | None, typer.Option("--id", help="The gateway's id; by default the machine's name.")
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option("--timezone", help="Zone of devices that name none; default: this machine's."),
    ] = None,
    username: connecting.Username = None,
    password_file: connecting.PasswordFile = None,
    ca_file: connecting.CaFile = None,
    cert_file: connecting.CertFile = None,
    key_file: connecting.KeyFile = None,
    protocol: Annotated[
        str, typer.Option("--protocol", help="MQTT version: 5, 3.1.1, or auto: 5 where the broker has it.")
    ] = "auto",
    show: Annotated[bool, typer.Option("--print", help="Print the configuration; write no file.")] = False,
) -> None:
    """Listen on a broker for a minute, and write a commented configuration for what was heard.

    Known systems (Tasmota, Zigbee2MQTT, Shelly, ESPHome and others) are recognised; for other topics patterns
    with fields are proposed, and windows with charts and alarms for what they measure. In a terminal it asks
    for the broker when --url is missing. Ctrl-C ends the listening and goes on with what was heard.

    Nothing is published, and no file is overwritten. Exits with 1 when nothing was heard that can be read.
    """
    _refuse_to_overwrite(config, show=show)
    wait_s = _seconds(listen_for)
    if url is None:
        url, username, password_file = _ask(username, password_file, config)
    endpoint = partial(
        connecting.endpoint,
        url,
        f"gateway-init-{os.getpid()}",
        username=username,
        password_file=password_file,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )
    from gateway.config.proposal.routes import propose_routes  # noqa: PLC0415 - `--help` needs none of it
    from gateway.config.proposal.text import LocalBroker, propose  # noqa: PLC0415 - see above

    heard, took_s, has_5 = _hear(endpoint, protocol, topic, wait_s)
    routes = propose_routes(heard, timezone or _local_zone())
    for text in routes.missing_extras:
        typer.echo(f"warning: {text}", err=True)
    if not routes.proposed:
        raise GatewayError(
            f"{heard.messages:,} messages came in {format_duration(round(took_s))}, none with a number in it",
            hint=_nothing_hint(heard),
        )
    settings = _local_settings(config, username, password_file, ca_file, cert_file, key_file)
    make = partial(
        propose, heard, routes, gateway_id=gateway_id or _own_id(), listened=format_duration(round(took_s))
    )
    proposal = make(LocalBroker(url, settings))
    if has_5 and (protocol == "5" or _overlaps(proposal, config)):
        # Only there brokers say which subscription a message is for.
        proposal = make(LocalBroker(url, {"protocol": "5", **settings}))
    _write(proposal, config, show=show)


def _refuse_to_overwrite(config: Path, *, show: bool) -> None:
    if config.exists() and not show:
        raise GatewayError(
            f"{config} exists, and is not overwritten",
            hint="write another one with -c NEW.yaml, or look at the proposal with --print",
        )


def _seconds(text: str) -> float:
    try:
        return parse_duration_ms(text) / 1000
    except UnitError as exc:
        raise typer.BadParameter(str(exc), param_hint="--for") from exc


def _ask(
    username: str | None, password_file: Path | None, config: Path
) -> tuple[str, str | None, Path | None]:
    """Ask for the broker, where somebody can answer; a password goes into a file beside the configuration."""
    if not sys.stdin.isatty():
        return DEFAULT_URL, username, password_file
    url = typer.prompt("Broker of the devices", default=DEFAULT_URL)
    if username is None and password_file is None:
        asked = "User name (empty: none)"
        username = typer.prompt(asked, default="", show_default=False) or None
        if username is not None:
            password_file = _save_password(config, typer.prompt("Password", hide_input=True))
    return url, username, password_file


def _save_password(config: Path, password: str) -> Path:
    path = config.with_name(PASSWORD_FILE)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as exc:
        raise GatewayError(
            f"{path} exists, and is not overwritten", hint=f"use it with --password-file {path}"
        ) from exc
    with os.fdopen(descriptor, "w") as file:
        file.write(password + "\n")
    typer.echo(f"The password is in {path}, which only you can read.")
    return path


def _hear(
    endpoint: Callable[..., Endpoint], protocol: str, topic: str, wait_s: float
) -> tuple[BrokerTraffic, float, bool]:
    """Return what was heard, for how long, and whether with MQTT 5. Raises GatewayError when the broker
    cannot be heard."""
    if protocol != "auto":
        return *_listen(endpoint(protocol=protocol), topic, wait_s), protocol == "5"
    try:
        return *_listen(endpoint(protocol="5"), topic, wait_s), True
    except NoConnectionError:
        return *_listen(endpoint(protocol="3.1.1"), topic, wait_s), False


def _overlaps(proposal: Proposal, config: Path) -> bool:
    """Return True if a broker may send a message once for each of several routes."""
    from gateway.config import parse_config, warnings_of  # noqa: PLC0415 - see `init`

    parsed = parse_config(proposal.text, config.absolute().parent, str(config))
    return any("overlap" in warning for warning in warnings_of(parsed))


class NoConnectionError(GatewayError):
    """Raised when a broker does not answer, or not in this version of MQTT."""


def _listen(endpoint: Endpoint, topic: str, wait_s: float) -> tuple[BrokerTraffic, float]:
    """Return what was heard, and for how long."""
    from gateway.config.proposal.heard import BrokerTraffic  # noqa: PLC0415 - see `init`
    from gateway.lab.listener import BrokerListener  # noqa: PLC0415
    from gateway.mqtt.link import Link  # noqa: PLC0415

    heard = BrokerTraffic()
    listener = BrokerListener(heard, topic)
    link = Link("init", endpoint, listener)
    with _ended_by_ctrl_c() as ended:
        link.start()
        try:
            connect_until_s = time.monotonic() + _CONNECT_S
            while not listener.answered.wait(_LOOK_EVERY_S) and not _is_hopeless(link, connect_until_s):
                pass
            if not listener.answered.is_set():
                why = link.metrics.last_error or "no answer"
                raise NoConnectionError(
                    f"no connection to {endpoint.place}: {why}", hint="give the broker with --url"
                )
            if listener.refusal:
                raise GatewayError(listener.refusal, hint="give a filter that this user may read: --topic")
            began_s = time.monotonic()
            _wait(heard, endpoint, wait_s, ended)
            return heard, time.monotonic() - began_s
        finally:
            link.stop()


def _is_hopeless(link: Link, until_s: float) -> bool:
    """Return True once the broker was tried often and long enough."""
    return link.metrics.failures >= _TRIES or time.monotonic() > until_s


def _wait(heard: BrokerTraffic, endpoint: Endpoint, wait_s: float, ended: threading.Event) -> None:
    from rich.console import Console  # noqa: PLC0415 - see `init`

    end_s = time.monotonic() + wait_s
    with Console(stderr=True).status("listening …") as status:
        while (left_s := end_s - time.monotonic()) > 0 and not ended.wait(min(_LOOK_EVERY_S, left_s)):
            status.update(
                f"listening on {endpoint.place}: {heard.messages:,} messages, {len(heard.topics):,} topics, "
                f"{left_s:.0f} s left (Ctrl-C: that is enough)"
            )


@contextmanager
def _ended_by_ctrl_c() -> Iterator[threading.Event]:
    ended = threading.Event()
    before: Any = signal.signal(signal.SIGINT, lambda *_: ended.set())
    try:
        yield ended
    finally:
        signal.signal(signal.SIGINT, before)


def _nothing_hint(heard: BrokerTraffic) -> str:
    if not heard.messages:
        return "does a device speak to this broker, and may this user read its topics? Longer: --for 10m"
    shown = ", ".join(printable(name) for name in [*heard.topics][:3]) or "only commands and announcements"
    return f"what came: {shown}; routes for other payloads: docs/devices.md"


def _local_settings(
    config: Path,
    username: str | None,
    password_file: Path | None,
    ca_file: Path | None,
    cert_file: Path | None,
    key_file: Path | None,
) -> dict[str, object]:
    settings: dict[str, object] = {}
    if username is not None:
        settings["username"] = username
    folder = config.absolute().parent
    if password_file is not None:
        settings["password_file"] = _as_written(password_file, folder)
    files = {"ca_file": ca_file, "cert_file": cert_file, "key_file": key_file}
    tls = {name: _as_written(path, folder) for name, path in files.items() if path is not None}
    return settings | ({"tls": tls} if tls else {})


def _as_written(path: Path, folder: Path) -> str:
    """A path as the configuration in `folder` names it."""
    absolute = path.absolute()
    return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)


def _own_id() -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", socket.gethostname().partition(".")[0]).strip("-")
    return name if re.match(r"[A-Za-z]", name) else "gateway-1"


def _local_zone() -> str:
    """Return the name of this machine's time zone; UTC where it has none."""
    named = os.environ.get("TZ", "").removeprefix(":")
    if named and "/" in named:
        return named
    target = Path("/etc/localtime").resolve()
    _, found, zone = str(target).partition("zoneinfo/")
    return zone if found and zone else "UTC"


def _write(proposal: Proposal, config: Path, *, show: bool) -> None:
    from gateway.config import parse_config, warnings_of  # noqa: PLC0415 - see `init`

    if show:
        typer.echo(proposal.text)
        return
    checked = parse_config(proposal.text, config.absolute().parent, str(config))
    try:
        with config.open("x", encoding="utf-8") as file:
            file.write(proposal.text)
    except FileExistsError:
        _refuse_to_overwrite(config, show=False)
    for route in proposal.routes.proposed:
        typer.echo(f"{route.name:<24} {len(route.topics):>5} topics  {printable(route.filters)}")
    charts = [window for window in proposal.windows if "plugin" not in window.entry]
    unread = len(proposal.routes.unread)
    shares = f"{len(charts)} of means, the rest counters and alarms"
    typer.echo(f"{'windows':<24} {len(checked.windows):>5} ({shares})")
    if unread:
        typer.echo(f"{'not read':<24} {unread:>5} topics without a number; the file names them")
    for warning in warnings_of(checked):
        typer.echo(f"warning: {warning}", err=True)
    named = "" if config == DEFAULT_CONFIG else f" -c {config}"
    typer.echo(f"\n{config} is written. Look at it, then:  gateway run{named}")
