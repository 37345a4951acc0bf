"""A table in a PostgreSQL database, keyed by the event's id; needs the extra `postgres` (psycopg 3)."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg

from gateway.core.errors import DecodeError
from gateway.core.events import Message
from gateway.receiver.device_names import DeviceNames
from gateway.receiver.ledger import Identity, Ledger
from gateway.receiver.sinks.rows import IDENTITY, WRITTEN, Row, row_of
from gateway.receiver.sinks.sink import IN_USE_HINT, OutputError, Received, errors_of
from gateway.receiver.sinks.views import INDICES, POSTGRES_VIEWS

# `place` is the order of arrival. A BRIN index over it is a few pages, and enough to find the latest rows.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS gateway_events (
  event_id uuid PRIMARY KEY, gateway text NOT NULL, stream text NOT NULL, sequence_num bigint NOT NULL,
  event_time_ms bigint NOT NULL, ingest_time_ms bigint NOT NULL, device_time_ms bigint,
  priority text NOT NULL, kind text NOT NULL, flags integer NOT NULL, payload text, payload_bytes bytea,
  place bigint GENERATED ALWAYS AS IDENTITY);
ALTER TABLE gateway_events ADD COLUMN IF NOT EXISTS buffer text NOT NULL DEFAULT '';
ALTER TABLE gateway_events ADD COLUMN IF NOT EXISTS device text;
CREATE INDEX IF NOT EXISTS gateway_events_place ON gateway_events USING brin (place);
CREATE TABLE IF NOT EXISTS gateway_rejected (
  topic text NOT NULL, arrival_ms bigint NOT NULL, reason text NOT NULL, error text NOT NULL, payload bytea);
CREATE TABLE IF NOT EXISTS gateway_receiver (
  id integer PRIMARY KEY CHECK (id = 1), place bigint NOT NULL, state bytea NOT NULL);
CREATE TABLE IF NOT EXISTS gateway_records (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload bytea NOT NULL);
CREATE TABLE IF NOT EXISTS gateway_claims (gateway text PRIMARY KEY, state bytea NOT NULL);
"""
_TYPES = (
    "uuid",
    "text",
    "text",
    *("bigint",) * 4,
    "text",
    "text",
    "integer",
    "text",
    "bytea",
    "text",
    "text",
)
# One statement for all rows: a round trip for each would be most of the time.
_INSERT = (
    f"INSERT INTO gateway_events ({', '.join(WRITTEN)}) SELECT * FROM unnest("  # noqa: S608 - constants
    + ", ".join(f"%s::{kind}[]" for kind in _TYPES)
    + ") ON CONFLICT (event_id) DO NOTHING"
)
_COPY = f"COPY gateway_events ({', '.join(WRITTEN)}) FROM STDIN (FORMAT BINARY)"
_COPY_TYPES = tuple({"integer": "int4", "bigint": "int8"}.get(kind, kind) for kind in _TYPES)
_READ = f"SELECT {', '.join(IDENTITY)} FROM gateway_events WHERE place > %s ORDER BY place"  # noqa: S608
_SAVE = """
INSERT INTO gateway_receiver SELECT 1, coalesce((SELECT max(place) FROM gateway_events), 0), %s
ON CONFLICT (id) DO UPDATE SET place = excluded.place, state = excluded.state
"""
_REJECT = "INSERT INTO gateway_rejected VALUES (%s, %s, %s, %s, %s)"
ADVISORY_LOCK = int.from_bytes(b"gateway", "big")
_SCHEMA_LOCK = int.from_bytes(b"schema", "big")


class EventDatabase:
    """A sink: `gateway_events` in a database. See `gateway.receiver.sinks.sink` for what each method does."""

    def __init__(self, url: str, devices: DeviceNames | None = None) -> None:
        self._url = url
        self._devices = devices or DeviceNames()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._position = 0

    @property
    def name(self) -> str:
        if self._connection is None:
            return "the PostgreSQL database"
        return f"PostgreSQL {self._connection.info.dbname} at {self._connection.info.host}"

    def open(self) -> bytes | None:
        with self._errors():
            connection = self._connect()
            (locked,) = self._one("SELECT pg_try_advisory_lock(%s)", ADVISORY_LOCK)
            if not locked:
                raise OutputError(f"another process writes to {self.name}", hint=IN_USE_HINT)
            with self._schema_lock():
                self._create(connection)
            row = connection.execute("SELECT place, state FROM gateway_receiver").fetchone()
            connection.commit()
            if row is None:
                return None
            self._position = row[0]
            return bytes(row[1])

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        self._connection = psycopg.connect(self._url, connect_timeout=10)
        # Of this session: a server may be set to answer before the disk has it.
        self._connection.execute("SET synchronous_commit = on")
        return self._connection

    @contextmanager
    def _schema_lock(self) -> Iterator[None]:
        """Let one process at a time create tables; another one would fail."""
        with self._open_connection.transaction():
            self._one("SELECT pg_advisory_xact_lock(%s)", _SCHEMA_LOCK)
            yield
        self._open_connection.commit()

    def _create(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        connection.execute(_SCHEMA)
        connection.execute(INDICES)
        connection.execute(POSTGRES_VIEWS)

    def claims(self) -> bytes | None:
        """Return the claims that a group of receivers has kept."""
        with self._errors(), self._open_connection.transaction():
            rows = self._open_connection.execute(
                "SELECT state FROM gateway_claims ORDER BY gateway"
            ).fetchall()
        if not rows:
            return None
        ledger = Ledger()
        for (state,) in rows:
            one = Ledger()
            one.load(bytes(state))
            ledger.add_claims(one)
        return ledger.dump()

    def behind_state(self) -> Iterator[Identity]:
        return self._read(self._position)

    def everything(self) -> Iterator[Identity]:
        return self._read(0)

    def write(self, events: Sequence[Received]) -> int:
        with self._errors():
            if not events:
                return 0
            device = self._devices.of
            rows = [
                row_of(one, uuid.UUID(bytes=one.event.event_id), device(one.event.stream)) for one in events
            ]
            with contextlib.suppress(psycopg.errors.UniqueViolation):
                return self._copy(rows)
            with self._open_connection.transaction():
                columns = [list(column) for column in zip(*rows, strict=True)]
                return self._open_connection.execute(_INSERT, columns).rowcount

    def _copy(self, rows: Sequence[Row]) -> int:
        """Write rows of which none is there yet, the fastest way."""
        with self._open_connection.transaction(), self._open_connection.cursor() as cursor:
            with cursor.copy(_COPY) as copy:
                copy.set_types(_COPY_TYPES)
                for row in rows:
                    copy.write_row(row)
            return len(rows)

    def save(self, state: bytes) -> None:
        with self._errors(), self._open_connection.transaction():
            self._open_connection.execute(_SAVE, (state,))
            self._open_connection.execute("DELETE FROM gateway_claims")

    def reject(self, message: Message, error: DecodeError) -> None:
        with self._errors():
            told = str(error).replace("\0", "\\0")  # a column of text takes no NUL
            values = (message.topic, message.arrival_ms, error.reason, told, message.payload)
            with self._open_connection.transaction():
                self._open_connection.execute(
                    "INSERT INTO gateway_rejected VALUES (%s, %s, %s, %s, %s)", values
                )

    def keep_records(self, payloads: Sequence[bytes]) -> None:
        with self._errors(), self._open_connection.transaction():
            self._open_connection.execute(
                "INSERT INTO gateway_records (payload) SELECT * FROM unnest(%s::bytea[])", (list(payloads),)
            )

    def records(self) -> Iterator[bytes]:
        with self._errors(), self._open_connection.transaction():
            rows = self._open_connection.execute("SELECT payload FROM gateway_records ORDER BY id")
            yield from (bytes(payload) for (payload,) in rows)

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):  # the server ends the session, and its locks, later
                self._connection.rollback()
                self._connection.execute("SELECT pg_advisory_unlock_all()")
                self._connection.commit()
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    @property
    def _open_connection(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None:
            raise OutputError(f"{self.name} is not open")
        return self._connection

    def _one(self, sql: str, *values: object) -> tuple[Any, ...]:
        return self._open_connection.execute(sql, values).fetchone() or (None,)

    def _errors(self) -> AbstractContextManager[None]:
        return errors_of(psycopg.Error, self.name)

    def _read(self, after: int) -> Iterator[Identity]:
        try:
            with self._open_connection.transaction(), self._open_connection.cursor("gateway_rows") as rows:
                for gateway_id, event_id, *rest in rows.execute(_READ, (after,)):
                    yield Identity(gateway_id, event_id.bytes, *rest)
        except psycopg.Error as exc:
            raise OutputError(f"{self.name}: the table gateway_events cannot be read: {exc}") from exc
