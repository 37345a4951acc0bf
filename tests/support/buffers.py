"""Events for a buffer, and a look at its rows from outside, for tests of real files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw

from gateway.buffer.connection import PAGE_BYTES
from gateway.buffer.reader import Reader
from gateway.buffer.store import NewEvent, Store
from gateway.core.events import Kind, Priority

EPOCH_MS = 1_700_000_000_000


def event(
    topic: str = "t/a",
    payload: bytes = b"1",
    *,
    family: str = "f",
    at: int = 0,
    priority: int = Priority.NORMAL,
    kind: int = Kind.RAW,
) -> NewEvent:
    """An event that happened and arrived `at` milliseconds after EPOCH_MS."""
    time_ms = EPOCH_MS + at
    return NewEvent(topic, family, time_ms, time_ms, None, priority, kind, 0, payload)


def events(count: int, topic: str = "t/a") -> list[NewEvent]:
    """Events with distinct payloads."""
    return [event(topic, f"{topic} {number}".encode(), at=number) for number in range(count)]


def append(store: Store, batch: list[NewEvent]) -> None:
    """Append in a transaction of its own, with the count that the pipeline keeps."""
    with store.transaction():
        store.append(batch)
        for one in batch:
            store.count("appended", Kind(one.kind).name.lower())
            store.count("outcome", "buffered", by=one.kind == Kind.RAW)


@contextmanager
def opened(path: Path) -> Iterator[Store]:
    """A store on the buffer at `path`."""
    store = Store(path)
    store.open()
    try:
        yield store
    finally:
        store.close()


@contextmanager
def reading(path: Path) -> Iterator[Reader]:
    """A reader of the buffer at `path`."""
    reader = Reader(path)
    try:
        yield reader
    finally:
        reader.close()


def sql(path: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Run a statement behind the store's back, and commit it.

    Never with the standard library's sqlite3: two SQLite libraries in one process drop each other's locks.
    """
    with closing(apsw.Connection(str(path))) as connection:
        return connection.execute(statement, values).fetchall()


def all_payloads(path: Path) -> list[bytes]:
    """The payload of every raw event, in commit order; fails on a corrupt one."""
    with reading(path) as reader:
        found: list[bytes] = []
        for chunk in reader.raw_after(0):
            good, corrupt = reader.without_corrupt(chunk)
            assert corrupt == []
            found += reader.payloads(good)
        return found


def spoil_page(path: Path, table: str) -> None:
    """Make a leaf in the middle of a table unreadable: the next row goes elsewhere, if there are more."""
    leaves = sql(path, "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path", table)
    page: int = leaves[len(leaves) // 2][0]
    sql(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(b"\xff" * PAGE_BYTES)
