"""Choice of the sink for an `--output`: a path, `sqlite:///path` or `postgresql://…`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard
from urllib.parse import urlsplit

from gateway.receiver.device_names import DeviceNames
from gateway.receiver.sinks.influx import InfluxDatabase
from gateway.receiver.sinks.ndjson import EventFile
from gateway.receiver.sinks.sink import OutputError, Sink
from gateway.receiver.sinks.sqlite import EventTable

if TYPE_CHECKING:
    from gateway.receiver.sinks.postgres_shared import SharedDatabase

SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")
PARQUET = "parquet:"
INFLUX = "influx+"
_KNOWN = f"{SQLITE}path, {POSTGRES[0]}host/db, {PARQUET}folder, or {INFLUX}http://host:8086/write?db=name"


def shared_sink_of(output: str, group: str, devices: DeviceNames | None = None) -> SharedDatabase:
    """Return the sink of one of several receivers, not yet open. Raises OutputError like `sink_of`."""
    if not output.startswith(POSTGRES):
        raise OutputError(
            "cannot be shared: a file has one writer", hint=f"share {POSTGRES[0]}USER@HOST/DATABASE"
        )
    with _needs("PostgreSQL", "psycopg", "postgres"):
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
        with _needs("PostgreSQL", "psycopg", "postgres"):
            from gateway.receiver.sinks.postgres import EventDatabase  # noqa: PLC0415 - an extra that few need

            return EventDatabase(output, devices)
    if output.startswith(PARQUET):
        with _needs("Parquet", "pyarrow", "parquet"):
            from gateway.receiver.sinks.parquet import ParquetFolder  # noqa: PLC0415 - an extra that few need

            return ParquetFolder(Path(output.removeprefix(PARQUET)), devices)
    if output.startswith(INFLUX):
        return InfluxDatabase(output, devices)
    if "://" in output:
        raise OutputError("is no output that is known", hint=f"a path, {_KNOWN}")
    return EventFile(Path(output))


@contextmanager
def _needs(what: str, package: str, extra: str) -> Iterator[None]:
    try:
        yield
    except ImportError as exc:
        hint = f"pip install 'mqtt-edge-gateway[{extra}]'"
        raise OutputError(f"{what} needs {package}: {exc}", hint=hint) from exc


def is_there(output: str) -> bool:
    """Return True if earlier output exists; a database server is asked only when it is opened."""
    return output.startswith((*POSTGRES, INFLUX)) or Path(_path(output)).exists()


def place_of(output: str) -> str:
    """The same text for the same output, however it is written; without secrets."""
    if output.startswith((*POSTGRES, INFLUX)):
        return output.rpartition("@")[2]
    path = _path(output)
    return output.removesuffix(path) + str(Path(path).resolve())


def beside(output: str) -> Path:
    """The path with which the names of files begin that a receiver keeps beside its output."""
    if output.startswith(INFLUX):
        return InfluxDatabase(output).path
    if output.startswith(POSTGRES):
        url = urlsplit(output)
        return Path(f"postgresql-{url.hostname or 'local'}-{url.path.strip('/')}")
    path = Path(_path(output))
    return path / "receiver" if output.startswith(PARQUET) else path


def _path(output: str) -> str:
    return output.removeprefix(SQLITE).removeprefix(PARQUET)
