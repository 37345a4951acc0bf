"""Brings a buffer of an earlier version up to date: a copy of it is kept, then one transaction changes it.

A crash at any moment leaves either the old file or the new one, and the next start goes on from there.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from gateway.core.errors import StoreError
from gateway.host.files import replace_file

if TYPE_CHECKING:
    from gateway.buffer.orm import APSWDatabase

log = logging.getLogger(__name__)

SCHEMA_VERSION = 5
VERSION = "schema_version"
"""Its name in `meta`."""

# version → what leads to the next one. Never changed once released: `schema` moves on, these do not.
STEPS: dict[int, tuple[str, ...]] = {
    1: (
        "CREATE TABLE held (stream INTEGER NOT NULL, priority INTEGER NOT NULL, first_id BIGINT NOT NULL,"
        " refusals INTEGER NOT NULL, refused_at BIGINT NOT NULL, retry_at BIGINT NOT NULL,"
        " PRIMARY KEY (stream, priority)) WITHOUT ROWID",
    ),
    2: ("DROP INDEX IF EXISTS buffer_events_unsettled",),  # opening makes it anew, with the stream in it
    3: (
        "CREATE TABLE shed_ranges (id INTEGER NOT NULL PRIMARY KEY, reason TEXT NOT NULL,"
        " stream TEXT NOT NULL, first_ms BIGINT NOT NULL, last_ms BIGINT NOT NULL, messages BIGINT NOT NULL)",
        # Of what was shed before only the counts are known.
        "INSERT INTO shed_ranges (reason, stream, first_ms, last_ms, messages)"
        " SELECT label, '', 0, 0, value FROM counters"
        " WHERE (name = 'rejected' OR name = 'outcome' AND label = 'sampled') AND value > 0",
    ),
    4: ("INSERT OR IGNORE INTO meta (name, value) VALUES ('buffer_id', lower(hex(randomblob(8))))",),
}


def version_of(connection: apsw.Connection, path: Path) -> int | None:
    """The schema version of a buffer, None when it has no tables yet.

    Raises StoreError when the file belongs to a newer gateway.
    """
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        return None
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (VERSION,)).fetchone()
    version = None if row is None else int(row[0])
    if version is not None and version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {version}, this gateway knows up to {SCHEMA_VERSION}",
            hint="run the gateway version that wrote it, or a newer one",
        )
    return version


def migrate(database: APSWDatabase, path: Path) -> None:
    """Bring the buffer `path` to SCHEMA_VERSION. Call it on the connection that writes, before anything else.

    Raises StoreError when the file belongs to a newer gateway; then nothing is changed.
    """
    connection: apsw.Connection = database.connection()
    version = version_of(connection, path)
    if version is None or version == SCHEMA_VERSION:
        return
    _keep_copy(connection, path, version)
    with database.atomic("IMMEDIATE"):
        for step in range(version, SCHEMA_VERSION):
            for statement in STEPS[step]:
                connection.execute(statement)
        connection.execute("UPDATE meta SET value = ? WHERE name = ?", (str(SCHEMA_VERSION), VERSION))
    log.info("the buffer %s was migrated from schema version %d to %d", path, version, SCHEMA_VERSION)


def copy_path(path: Path, version: int) -> Path:
    """Return the path of the copy of the buffer in `version`."""
    return path.with_name(f"{path.name}.v{version}")


def _keep_copy(connection: apsw.Connection, path: Path, version: int) -> None:
    """Keep a copy for a return to the earlier gateway version. The migration itself does not need the copy,
    so a lack of disk space for it must not prevent a start."""
    kept = copy_path(path, version)
    if kept.exists():
        return  # it was whole when it got its name
    needed_bytes = sum(f.stat().st_size for f in (path, path.with_name(path.name + "-wal")) if f.exists())
    if shutil.disk_usage(path.parent).free < 2 * needed_bytes:
        log.warning("no space for a copy of %s: it is migrated without one", path)
        return
    unfinished = kept.with_name(kept.name + ".new")
    unfinished.unlink(missing_ok=True)
    target = apsw.Connection(str(unfinished))
    try:
        with target.backup("main", connection, "main") as backup:
            backup.step(-1)
        target.execute("PRAGMA journal_mode = delete").fetchall()  # a single file
    finally:
        target.close()
    replace_file(unfinished, kept)
    log.info("the buffer as schema version %d had it is kept in %s", version, kept)
