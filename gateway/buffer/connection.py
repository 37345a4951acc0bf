"""Connections to a buffer's file: sizes that all of them share, and one that only reads.

Invariants:
- One connection writes, in one thread (`schema.open_writer`). The others open read-only and never checkpoint
  the WAL.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import apsw

from gateway.buffer.migration import version_of
from gateway.core.errors import StoreError
from gateway.core.topics import filter_matches

# 4 MB of WAL before SQLite moves it into the database: large enough that pages which change in every
# group are written once, small enough for a flash card.
WAL_CHECKPOINT_PAGES = 1000
PAGE_BYTES = 4096
PAGE_CACHE_BYTES = 32 * 1024 * 1024
"""Pages of the file that the writing connection keeps in memory, where there is enough of it."""
BUSY_TIMEOUT_S = 5
_FEWEST_WAL_PAGES = 64


def wal_pages(room_bytes: int) -> int:
    """Return the size at which the write-ahead log of a buffer with that much space is moved into the file: a
    32nd, so that it does not fill a small disk by itself, and fits into the space of the ballast."""
    return max(_FEWEST_WAL_PAGES, min(WAL_CHECKPOINT_PAGES, room_bytes // 32 // PAGE_BYTES))


def open_reader(path: Path) -> apsw.Connection:
    """Open a connection that only reads: it sees the last commit, and never checkpoints the WAL.

    The file is opened for writing all the same, because a reader of a WAL must write the -shm file.
    A file of an earlier version is read as it is: a reader migrates nothing.
    Raises apsw.Error when there is no such file, StoreError when a newer gateway wrote it or its folder
    cannot be written.
    """
    connection = None
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        connection.set_busy_timeout(BUSY_TIMEOUT_S * 1000)
        for pragma in ("query_only = 1", "wal_autocheckpoint = 0", "cache_size = -8192"):
            connection.execute(f"PRAGMA {pragma}")
        version_of(connection, path)
        teach(connection)
    except BaseException as exc:
        if connection is not None:
            connection.close(force=True)
        if isinstance(exc, apsw.Error) and path.exists() and not os.access(path.parent, os.W_OK):
            raise StoreError(
                f"the buffer {path} cannot be read: its folder is read-only, and a reader of the"
                " write-ahead log needs an index file beside it",
                hint="copy the folder to a place where files can be written, and read the copy",
            ) from exc
        raise
    return connection


def teach(connection: apsw.Connection) -> None:
    """Add the functions that our own statements use to those of SQLite."""
    connection.create_scalar_function("topic_matches", _topic_matches, 2, deterministic=True)


def _topic_matches(*arguments: Any) -> bool:
    topic_filter, topic = map(str, arguments)
    return filter_matches(topic_filter, topic)
