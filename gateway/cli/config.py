"""`gateway config`: signed configurations for gateways that are out of reach."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Signed configurations for gateways that take them over the cloud broker (config.accept: signed).",
)


@app.callback()
def _group() -> None:
    """Keep `sign` a command of its own."""


@app.command()
def sign(
    file: Annotated[Path, typer.Argument(help="The configuration file to send.")],
    key: Annotated[Path, typer.Option("--key", help="Private key, from `gateway keys new`.")],
    version: Annotated[
        int, typer.Option("--version", min=1, help="Number that is higher than that of every one before.")
    ],
    gateway: Annotated[
        str, typer.Option("--gateway", help="Id of the gateway that it is for; * is for every gateway.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File for the message; without it stdout.")
    ] = None,
) -> None:
    """Sign a configuration. Publish the result, retained, on gateway/ID/down/config of the cloud broker:

    mosquitto_pub -h BROKER -t gateway/ID/down/config -q 1 -r -f MESSAGE
    """
    from gateway.config.load import read_config  # noqa: PLC0415 - half a second of models
    from gateway.wire.signed_config import SignedConfig  # noqa: PLC0415

    message = SignedConfig(gateway, version, read_config(file)).sign(key.read_bytes())
    if output is None:
        sys.stdout.write(message.decode() + "\n")
    else:
        output.write_bytes(message)
