"""`gateway buffer backup`: copy the buffer of a running or stopped gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import orjson
import typer

from gateway.buffer.repair.backup import back_up
from gateway.buffer.retention.log_guard import copy_allowance_bytes
from gateway.cli.buffer_options import AsJson, ConfigFile, buffer_path, progress_bar
from gateway.cli.settings import DEFAULT_CONFIG, load_config
from gateway.core.units import format_bytes


def backup(
    config: ConfigFile = DEFAULT_CONFIG,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Backup file; default: beside the buffer."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy the buffer as it is now, verify the copy, and keep it as the backup. The gateway keeps running."""
    with progress_bar() as progress:
        task = progress.add_task("copying", total=None)
        path = back_up(
            buffer_path(config),
            output,
            lambda done, total: progress.update(task, completed=done, total=total),
            log_limit_bytes=copy_allowance_bytes(load_config(config).buffer.max_size),
        )
    size_bytes = path.stat().st_size
    if as_json:
        typer.echo(orjson.dumps({"backup": str(path), "bytes": size_bytes}).decode())
    else:
        typer.echo(f"{path} ({format_bytes(size_bytes)})")
