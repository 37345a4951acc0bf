"""Reads the events back that `gateway receive` wrote: whole, without a lock, while it goes on writing.

No reading outlasts a few thousand rows, so that it holds up neither a log nor a vacuum.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import apsw

from gateway.core.errors import DecodeError
from gateway.core.events import WireEvent
from gateway.receiver.event_lines import StoredLine, event_of_line, kind_number, priority_number
from gateway.receiver.sinks.choice import PARQUET, POSTGRES, SQLITE
from gateway.receiver.sinks.rows import COLUMNS
from gateway.receiver.sinks.sink import OutputError, errors_of
from gateway.wire.event_format import id_text

_ROWS = 5000
_COUNT = "SELECT count(*) FROM gateway_events"
_FIRST_ID = bytes(16)

Page = Callable[[bytes], Sequence[Sequence[Any]]]
"""Gives the next rows behind an id, in the order of the ids."""


def events_of_output(place: str) -> Iterator[StoredLine]:
    """The events of any output of `gateway receive`. Raises OutputError or OSError."""
    if is_table(place):
        yield from events_of_table(place)
        return
    if place.startswith(PARQUET):
        for part in parquet_files(place):
            yield from _events_of_parquet(part)
        return
    with Path(place).open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield event_of_line(line)
            except DecodeError as exc:
                raise OutputError(f"{place}, line {number}: {exc}") from exc


def parquet_files(place: str) -> list[Path]:
    """Return the files of `parquet:DIR`, or the one of `parquet:FILE`. They lack what is in the journal."""
    path = Path(place.removeprefix(PARQUET))
    return [path] if path.is_file() else sorted(path.glob("day=*/*.parquet"))


def _events_of_parquet(part: Path) -> Iterator[StoredLine]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra that few need
        import pyarrow.parquet as pq  # noqa: PLC0415 - an extra that few need
    except ImportError as exc:
        hint = "pip install 'mqtt-edge-gateway[parquet]'"
        raise OutputError(f"Parquet needs pyarrow: {exc}", hint=hint) from exc
    names = [name.removesuffix("_ms") for name in COLUMNS]
    try:
        with pq.ParquetFile(part) as file:
            for batch in file.iter_batches(_ROWS, columns=names):
                columns = (batch.column(name) for name in names)
                plain = (c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in columns)
                for row in zip(*(column.to_pylist() for column in plain), strict=True):
                    yield _event_of(row)
    except (pa.ArrowException, ValueError, KeyError) as exc:
        raise OutputError(f"{part} cannot be read: {exc}") from exc


def is_table(place: str) -> bool:
    """Return True if `place` names a database, rather than a file of lines."""
    return place.startswith((SQLITE, *POSTGRES))


def events_of_table(place: str, after: bytes = _FIRST_ID) -> Iterator[StoredLine]:
    """The events of `sqlite:///…` or `postgresql://…` behind the id `after`, in the order of their ids: raw
    ones as they were taken in, since an id begins with the time. Raises OutputError."""
    with _pages(place) as page:
        while rows := page(after):
            for row in rows:
                yield _event_of(row)
            after = _bytes_of(rows[-1][0])


def count_of_table(place: str) -> int:
    """Number of events in the table, for a progress bar. Raises OutputError."""
    if place.startswith(SQLITE):
        with closing(_open_sqlite(place)) as connection, _errors(place):
            return sum(count for (count,) in connection.execute(_COUNT))
    with closing(_open_postgres(place)) as connection, _errors(place):
        return sum(count for (count,) in connection.execute(_COUNT))


@contextmanager
def _pages(place: str) -> Iterator[Page]:
    names = ", ".join(COLUMNS)
    if place.startswith(SQLITE):
        with closing(_open_sqlite(place)) as connection:
            there = {name for _, name, *_ in connection.execute("PRAGMA table_info(gateway_events)")}
            names = names if "buffer" in there else names.replace("buffer", "''")  # of an earlier version
            sql = f"SELECT {names} FROM gateway_events WHERE event_id > ? ORDER BY event_id LIMIT {_ROWS}"  # noqa: S608

            def page(after: bytes) -> Sequence[Sequence[Any]]:
                with _errors(place):
                    return connection.execute(sql, (id_text(after),)).fetchall()

            yield page
        return
    with closing(_open_postgres(place)) as server:
        sql = f"SELECT {names} FROM gateway_events WHERE event_id > %s ORDER BY event_id LIMIT {_ROWS}"  # noqa: S608

        def page(after: bytes) -> Sequence[Sequence[Any]]:
            with _errors(place):
                found: Sequence[Sequence[Any]] = server.execute(sql, (uuid.UUID(bytes=after),)).fetchall()
                return found

        yield page


def _open_sqlite(place: str) -> apsw.Connection:
    path = Path(place.removeprefix(SQLITE))
    if not path.exists():
        raise OutputError(f"there is no {path}")
    with _errors(place):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)  # its log needs an index
        connection.set_busy_timeout(5000)
        connection.execute("PRAGMA query_only = 1")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
    return connection


def _open_postgres(place: str) -> Any:
    try:
        import psycopg  # noqa: PLC0415 - an extra that few need
    except ImportError as exc:
        hint = "pip install 'mqtt-edge-gateway[postgres]'"
        raise OutputError(f"PostgreSQL needs psycopg: {exc}", hint=hint) from exc
    with _errors(place):
        return psycopg.connect(place, connect_timeout=10, autocommit=True)


def _errors(place: str) -> AbstractContextManager[None]:
    name = place if place.startswith(SQLITE) else f"PostgreSQL at {place.rpartition('@')[2]}"
    kinds: tuple[type[Exception], ...] = (apsw.Error,)
    with contextlib.suppress(ImportError):
        import psycopg  # noqa: PLC0415 - an extra that few need

        kinds += (psycopg.Error,)
    return errors_of(kinds, name)


def _event_of(row: Sequence[Any]) -> StoredLine:
    event_id, gateway_id, stream, number, event_ms, ingest_ms, device_ms, priority, kind, flags, *rest = row
    text, raw, buffer_id = rest
    payload = bytes(raw) if text is None else text.encode()
    places = (_number(priority_number, priority), _number(kind_number, kind))
    event = WireEvent(
        _bytes_of(event_id), stream, number, event_ms, ingest_ms, device_ms, *places, flags, payload
    )
    return StoredLine(gateway_id, event, buffer_id)


def _number(named: Callable[[str | int], int], text: str) -> int:
    """Return the number of a name; a value without a name is written as its number."""
    return int(text) if text.lstrip("-").isdigit() else named(text)


def _bytes_of(event_id: object) -> bytes:
    return (
        event_id.bytes if isinstance(event_id, uuid.UUID) else bytes.fromhex(str(event_id).replace("-", ""))
    )
