"""Choice of the sink for an `--output`: a path, `sqlite:///path` or `postgresql://…`."""

from __future__ import annotations

from pathlib import Path

from gateway.receiver.sinks.ndjson import EventFile
from gateway.receiver.sinks.sink import OutputError, Sink
from gateway.receiver.sinks.sqlite import EventTable

SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")


def sink_of(output: str) -> Sink:
    """The sink, not yet open. Raises OutputError when it is none, or its driver is not installed."""
    if output.startswith(SQLITE):
        return EventTable(Path(output.removeprefix(SQLITE)))
    if output.startswith(POSTGRES):
        try:
            from gateway.receiver.sinks.postgres import EventDatabase  # noqa: PLC0415 - an extra that few need
        except ImportError as exc:
            hint = "pip install 'mqtt-edge-gateway[postgres]'"
            raise OutputError(f"PostgreSQL needs psycopg: {exc}", hint=hint) from exc
        return EventDatabase(output)
    if "://" in output:
        raise OutputError("is no output that is known", hint=f"a path, {SQLITE}path, or {POSTGRES[0]}host/db")
    return EventFile(Path(output))


def is_there(output: str) -> bool:
    """Return True if earlier output exists; a database server is asked only when it is opened."""
    return output.startswith(POSTGRES) or Path(output.removeprefix(SQLITE)).exists()


def place_of(output: str) -> str:
    """The same text for the same output, however it is written; without secrets."""
    if output.startswith(POSTGRES):
        return output.rpartition("@")[2]
    prefix, path = (SQLITE, output.removeprefix(SQLITE)) if output.startswith(SQLITE) else ("", output)
    return prefix + str(Path(path).resolve())
