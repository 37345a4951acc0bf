"""`gateway keys`: the keys that sign audit records. docs/evidence.md tells what a signature proves."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from gateway.core.errors import GatewayError
from gateway.host.files import write_whole
from gateway.wire.signatures import PublicKeys, named_pem, new_key

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Make and show the keys that sign audit records."
)

KeyFile = Annotated[
    Path, typer.Argument(help="File of the private key; the public one is beside it, in .pub.")
]
DEFAULT_FILE = Path("signing.key")


@app.command()
def new(
    file: KeyFile = DEFAULT_FILE,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Replace the key: the old one is kept as FILE.DATE, its public one in .pub."
        ),
    ] = False,
    gateways: Annotated[
        list[str] | None,
        typer.Option(
            "--gateway", metavar="ID", help="The key may sign for this gateway only. May be repeated."
        ),
    ] = None,
) -> None:
    """Make a key. Name it in `gateway.signing_key_file`, and give FILE.pub to those who verify.

    FILE.pub has all public keys, oldest first. Once a newer key has signed a record, an older one may sign
    no further ones. A key that replaces another is for the same gateways, unless others are named.
    """
    if file.exists():
        if not replace:
            raise GatewayError(f"{file} exists", hint="another name, or --replace to replace the key")
        file.rename(file.with_name(f"{file.name}.{datetime.now(UTC):%Y%m%dT%H%M%S}"))
    private, public = new_key()
    _write(file, private)
    published = _published(file)
    known = published.read_bytes() if published.exists() else b""
    write_whole(published, known + named_pem(public, gateways or _gateways_of_newest(known)))
    typer.echo(f"{file}: key {PublicKeys(public).ids[0]}; keep it secret, and a copy of it")
    typer.echo(f"{published}: public, for `gateway receive --verify --key {published}`")


@app.command()
def show(file: KeyFile = DEFAULT_FILE) -> None:
    """List the public keys in FILE or FILE.pub, oldest first: the id, and the gateways that it signs for."""
    published = file if file.suffix == ".pub" else _published(file)
    if not published.exists():
        raise GatewayError(f"there is no {published}", hint="make a key with `gateway keys new`")
    keys = PublicKeys(published.read_bytes())
    for one in keys.ids:
        typer.echo(" ".join([one, *keys.gateways[one]]))


def _gateways_of_newest(published: bytes) -> Sequence[str]:
    if not published:
        return ()
    keys = PublicKeys(published)
    return keys.gateways[keys.ids[-1]]


def _write(path: Path, private: bytes) -> None:
    """Write a file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(private)
        file.flush()
        os.fsync(file.fileno())


def _published(file: Path) -> Path:
    return file.with_name(file.name + ".pub")
