"""The options that say which broker to connect to, and how, for the commands that take no configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from gateway.core.errors import ConfigError
from gateway.mqtt.endpoint import Endpoint, Tls

Url = Annotated[str, typer.Option("--url", help="The broker: mqtt://, mqtts://, ws:// or wss://host:port.")]
Protocol = Annotated[str, typer.Option("--protocol", help="MQTT version: 5 or 3.1.1.")]
Username = Annotated[str | None, typer.Option("--username", help="User name at the broker.")]
PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", help="File with the password.", exists=True, dir_okay=False)
]
CaFile = Annotated[
    Path | None,
    typer.Option(
        "--ca-file", help="Certificate authorities to trust, for mqtts.", exists=True, dir_okay=False
    ),
]
CertFile = Annotated[
    Path | None, typer.Option("--cert-file", help="Own certificate, for mqtts.", exists=True, dir_okay=False)
]
KeyFile = Annotated[
    Path | None, typer.Option("--key-file", help="Key of --cert-file.", exists=True, dir_okay=False)
]


def endpoint(
    url: str,
    client_id: str,
    *,
    protocol: str,
    username: str | None,
    password_file: Path | None,
    ca_file: Path | None,
    cert_file: Path | None,
    key_file: Path | None,
    persistent: bool = False,
) -> Endpoint:
    """The connection that the options describe. Raises typer.BadParameter, which exits with 2."""
    from gateway.config.types import broker_place  # noqa: PLC0415 - the models take half a second

    try:
        place = broker_place(url)
    except ConfigError as exc:
        raise typer.BadParameter(f"{exc}; {exc.hint}", param_hint="--url") from exc
    if protocol not in ("5", "3.1.1"):
        raise typer.BadParameter("write 5 or 3.1.1", param_hint="--protocol")
    if (cert_file is None) != (key_file is None):
        raise typer.BadParameter("belongs together with --key-file", param_hint="--cert-file")
    return Endpoint(
        place.address.host,
        place.address.port,
        client_id,
        protocol=cast(Literal["3.1.1", "5"], protocol),
        username=username,
        password_file=password_file,
        tls=_tls(ca_file, cert_file, key_file) if place.uses_tls else None,
        persistent=persistent,
        websocket_path=place.path,
    )


def _tls(ca_file: Path | None, cert_file: Path | None, key_file: Path | None) -> Tls:
    ca, cert, key = (str(path) if path else None for path in (ca_file, cert_file, key_file))
    return Tls(ca, cert, key)
