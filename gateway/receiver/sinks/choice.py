"""Choice of the sink for an `--output`: a path, `sqlite:///path` or `postgresql://…`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from gateway.receiver.device_names import DeviceNames
from gateway.receiver.sinks.ndjson import EventFile
from gateway.receiver.sinks.sink import OutputError, Sink
from gateway.receiver.sinks.sqlite import EventTable

if TYPE_CHECKING:
    from gateway.receiver.sinks.postgres_shared import SharedDatabase

SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")


def shared_sink_of(output: str, group: str, devices: DeviceNames | None = None) -> SharedDatabase:
    """Return the sink of one of several receivers, not yet open. Raises OutputError like `sink_of`."""
    if not output.startswith(POSTGRES):
        raise OutputError(
            "cannot be shared: a file has one writer", hint=f"share {POSTGRES[0]}USER@HOST/DATABASE"
        )
    with _needs_psycopg():
        from gateway.receiver.sinks.postgres_shared import SharedDatabase  # noqa: PLC0415 - as below

        return SharedDatabase(output, group, devices)


def is_shared(sink: Sink) -> TypeGuard[SharedDatabase]:
    """Return True for the sink of one of several receivers."""
    return hasattr(sink, "join")


def sink_of(output: str, devices: DeviceNames | None = None) -> Sink:
    """The sink, not yet open. Raises OutputError when it is none, or its driver is not installed."""
    if output.startswith(SQLITE):
        return EventTable(Path(output.removeprefix(SQLITE)), devices)
    if output.startswith(POSTGRES):
        with _needs_psycopg():
            from gateway.receiver.sinks.postgres import EventDatabase  # noqa: PLC0415 - an extra that few need

            return EventDatabase(output, devices)
    if "://" in output:
        raise OutputError("is no output that is known", hint=f"a path, {SQLITE}path, or {POSTGRES[0]}host/db")
    return EventFile(Path(output))


@contextmanager
def _needs_psycopg() -> Iterator[None]:
    try:
        yield
    except ImportError as exc:
        hint = "pip install 'mqtt-edge-gateway[postgres]'"
        raise OutputError(f"PostgreSQL needs psycopg: {exc}", hint=hint) from exc


def is_there(output: str) -> bool:
    """Return True if earlier output exists; a database server is asked only when it is opened."""
    return output.startswith(POSTGRES) or Path(output.removeprefix(SQLITE)).exists()


def place_of(output: str) -> str:
    """The same text for the same output, however it is written; without secrets."""
    if output.startswith(POSTGRES):
        return output.rpartition("@")[2]
    prefix, path = (SQLITE, output.removeprefix(SQLITE)) if output.startswith(SQLITE) else ("", output)
    return prefix + str(Path(path).resolve())
