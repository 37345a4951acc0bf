"""`gateway buffer`: look into a buffer, of a running or of a stopped gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from gateway.app import BUFFER_FILE
from gateway.buffer.audit import Audit, audit
from gateway.buffer.reading import Reader
from gateway.config import load_config
from gateway.errors import StoreError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Look into a buffer, of a running or of a stopped gateway.",
)

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="Configuration file (YAML).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def stats(config: ConfigFile, as_json: AsJson = False) -> None:
    """How many messages came and what became of them."""
    path = _buffer_path(config)
    reader = Reader(path)
    try:
        counters = reader.counters()
    finally:
        reader.close()
    numbers: dict[str, Any] = {}
    for (name, label), value in sorted(counters.items()):
        numbers.setdefault(_TITLES.get(name, name), {})[label.lower()] = value
    numbers["file_bytes"] = sum(f.stat().st_size for f in path.parent.glob(path.name + "*"))
    if as_json:
        typer.echo(orjson.dumps(numbers).decode())
        return
    table = Table("what", "which", "count")
    for title, found in numbers.items():
        for label, value in found.items() if isinstance(found, dict) else [("", found)]:
            table.add_row(title, label, f"{value:,}")
    Console().print(table)


@app.command(name="audit")
def audit_command(config: ConfigFile, as_json: AsJson = False) -> None:
    """Prove that every message and every event is accounted for. Exits 1 when a sum does not balance."""
    reader = Reader(_buffer_path(config))
    try:
        found = audit(reader)
    finally:
        reader.close()
    if as_json:
        typer.echo(orjson.dumps(found._asdict()).decode())
    else:
        _print(found)
    if found.problems:
        raise typer.Exit(1)


def _print(found: Audit) -> None:
    typer.echo(f"messages   {_sum(found.messages)}")
    typer.echo(f"appended   {_sum(found.appended)}")
    typer.echo(f"here now   {_sum(found.statuses)}")
    typer.echo(f"evicted    {_sum(found.evicted)}")
    for problem in found.problems:
        typer.echo(f"PROBLEM    {problem}")
    if not found.problems:
        typer.echo(f"balanced   appended = here + evicted, over {found.streams:,} streams")


def _sum(parts: dict[str, int]) -> str:
    terms = " + ".join(f"{value:,} {name}" for name, value in parts.items() if value)
    return f"{sum(parts.values()):,}" + (f" = {terms}" if terms else "")


def _buffer_path(config: Path) -> Path:
    path: Path = Path(load_config(config).gateway.data_dir) / BUFFER_FILE
    if not path.exists():
        raise StoreError(f"there is no buffer at {path}", hint="has the gateway run with this data_dir?")
    return path


_TITLES = {"outcome": "messages", "status": "events", "appended": "appended", "evicted": "evicted"}
