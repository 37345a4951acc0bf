"""A table in an SQLite file, keyed by the event's id; state and rejected messages are in the same file."""

from __future__ import annotations

import contextlib
import fcntl
import io
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import apsw

from gateway.core.errors import DecodeError
from gateway.core.events import Message
from gateway.receiver.device_names import DeviceNames
from gateway.receiver.ledger import Identity
from gateway.receiver.sinks.rows import IDENTITY, WRITTEN, row_of
from gateway.receiver.sinks.sink import IN_USE_HINT, OutputError, Received, errors_of
from gateway.receiver.sinks.views import INDICES, SQLITE_VIEWS
from gateway.wire.event_format import id_text

_SCHEMA = """
CREATE TABLE IF NOT EXISTS gateway_events (
  event_id TEXT PRIMARY KEY, gateway TEXT NOT NULL, stream TEXT NOT NULL, sequence_num INTEGER NOT NULL,
  event_time_ms INTEGER NOT NULL, ingest_time_ms INTEGER NOT NULL, device_time_ms INTEGER,
  priority TEXT NOT NULL, kind TEXT NOT NULL, flags INTEGER NOT NULL, payload TEXT, payload_bytes BLOB,
  buffer TEXT NOT NULL DEFAULT '', device TEXT);
CREATE TABLE IF NOT EXISTS gateway_rejected (
  topic TEXT NOT NULL, arrival_ms INTEGER NOT NULL, reason TEXT NOT NULL, error TEXT NOT NULL, payload BLOB);
CREATE TABLE IF NOT EXISTS gateway_receiver (
  id INTEGER PRIMARY KEY CHECK (id = 1), position INTEGER NOT NULL, state BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS gateway_records (id INTEGER PRIMARY KEY, payload BLOB NOT NULL);
"""
_INSERT = (
    f"INSERT INTO gateway_events ({', '.join(WRITTEN)}) VALUES ({', '.join('?' * len(WRITTEN))})"  # noqa: S608 - question marks
    " ON CONFLICT (event_id) DO NOTHING"
)
_READ = f"SELECT {', '.join(IDENTITY)} FROM gateway_events WHERE rowid > ? ORDER BY rowid"  # noqa: S608


class EventTable:
    """A sink: `gateway_events` in the file at `path`. See `receiver.sinks.sink` for what each method does."""

    def __init__(self, path: Path, devices: DeviceNames | None = None) -> None:
        self.path = path
        self._devices = devices or DeviceNames()
        self._lock: io.FileIO | None = None
        self._connection: apsw.Connection | None = None
        self._position = 0

    @property
    def name(self) -> str:
        return str(self.path)

    def open(self) -> bytes | None:
        with self._errors():
            self._lock = self.path.with_name(self.path.name + ".lock").open("ab", buffering=0)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise OutputError(f"another process writes to {self.path}", hint=IN_USE_HINT) from exc
            self._connection = apsw.Connection(str(self.path))
            self._connection.set_busy_timeout(5000)
            self._connection.execute("PRAGMA journal_mode = wal")
            self._connection.execute("PRAGMA synchronous = full")
            self._connection.execute(_SCHEMA)
            self._add_columns(self._connection)
            self._connection.execute(INDICES)
            self._connection.execute(SQLITE_VIEWS)
            row = self._open_connection.execute("SELECT position, state FROM gateway_receiver").fetchone()
            if row is None:
                return None
            self._position = int(row[0])
            return bytes(row[1])

    @staticmethod
    def _add_columns(connection: apsw.Connection) -> None:
        """Add what a table of an earlier version does not have."""
        columns = {name for _, name, *_ in connection.execute("PRAGMA table_info(gateway_events)")}
        if "buffer" not in columns:
            connection.execute("ALTER TABLE gateway_events ADD COLUMN buffer TEXT NOT NULL DEFAULT ''")
        if "device" not in columns:
            connection.execute("ALTER TABLE gateway_events ADD COLUMN device TEXT")

    def claims(self) -> bytes | None:
        return None

    def behind_state(self) -> Iterator[Identity]:
        return self._read(self._position)

    def everything(self) -> Iterator[Identity]:
        return self._read(0)

    def write(self, events: Sequence[Received]) -> int:
        device = self._devices.of
        rows = [row_of(one, id_text(one.event.event_id), device(one.event.stream)) for one in events]
        connection = self._open_connection
        before = connection.total_changes()
        with self._errors(), connection:
            connection.executemany(_INSERT, rows)
        return connection.total_changes() - before

    def save(self, state: bytes) -> None:
        with self._errors():
            self._open_connection.execute(
                "INSERT OR REPLACE INTO gateway_receiver"
                " SELECT 1, coalesce((SELECT max(rowid) FROM gateway_events), 0), ?",
                (state,),
            )

    def reject(self, message: Message, error: DecodeError) -> None:
        with self._errors():
            self._open_connection.execute(
                "INSERT INTO gateway_rejected VALUES (?, ?, ?, ?, ?)",
                (message.topic, message.arrival_ms, error.reason, str(error), message.payload),
            )

    def keep_records(self, payloads: Sequence[bytes]) -> None:
        connection = self._open_connection
        with self._errors(), connection:
            rows = [(payload,) for payload in payloads]
            connection.executemany("INSERT INTO gateway_records (payload) VALUES (?)", rows)

    def records(self) -> Iterator[bytes]:
        with self._errors():
            rows = self._open_connection.execute("SELECT payload FROM gateway_records ORDER BY id")
            yield from (bytes(payload) for (payload,) in rows)

    def close(self) -> None:
        for each in (self._connection, self._lock):
            if each is not None:
                with contextlib.suppress(apsw.Error):
                    each.close()
        self._connection = self._lock = None

    @property
    def _open_connection(self) -> apsw.Connection:
        if self._connection is None:
            raise OutputError(f"{self.name} is not open")
        return self._connection

    def _errors(self) -> AbstractContextManager[None]:
        return errors_of(apsw.Error, self.name)

    def _read(self, after: int) -> Iterator[Identity]:
        try:
            for gateway_id, event_id, *rest in self._open_connection.execute(_READ, (after,)):
                yield Identity(str(gateway_id), uuid.UUID(str(event_id)).bytes, *rest)
        except (apsw.Error, ValueError) as exc:
            raise OutputError(f"{self.name}: the table gateway_events cannot be read: {exc}") from exc
