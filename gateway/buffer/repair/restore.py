"""Puts a backup in the place of a stopped gateway's buffer; what was there is kept aside.

At any moment the buffer is the old file or the new one. Sequence numbers and ids go on from those of the old
one, so that no number is given to two events, and the receipts are forgotten: what the local broker has not
seen acknowledged is stored again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import apsw

from gateway.buffer.orm import PeeweeException
from gateway.buffer.repair.recovery import check
from gateway.buffer.store import Store
from gateway.core.errors import StoreError
from gateway.core.events import Status
from gateway.host.files import replace_file, sync_folder


class Restored(NamedTuple):
    """The files put in place. `kept_aside` is None when there was no buffer."""

    events: int
    pending: int
    kept_aside: Path | None
    numbers_known: bool  # the old file could be read, so no sequence number is given twice


def restore(
    path: Path, backup: Path, now_ms: int, announce: Callable[[Store, str], None] = lambda store, text: None
) -> Restored:
    """Make `backup` the buffer `path`. Hold the data directory's lock meanwhile.

    `announce` stores an alert in the restored buffer. Raises StoreError, and leaves everything as it is, when
    the backup is not whole.
    """
    if not backup.is_file():
        raise StoreError(f"there is no backup at {backup}", hint="`gateway buffer backup` makes one")
    if path.exists() and backup.samefile(path):
        raise StoreError(f"{backup} is the buffer itself")
    fresh = path.with_name(path.name + ".restoring")
    _remove(fresh)
    aside = _keep_aside(path, now_ms) if path.exists() else None
    try:
        shutil.copyfile(backup, fresh)
        restored = _prepare(fresh, backup, path if aside else None, announce)
    except BaseException:
        _remove(fresh)
        if aside is not None:
            shutil.rmtree(aside)  # second names and copies
        raise
    for suffix in ("-wal", "-shm"):
        # A sound log was moved into its file when the numbers were read; any other would go into the new one.
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    replace_file(fresh, path)
    return restored._replace(kept_aside=aside)


def _prepare(fresh: Path, backup: Path, old: Path | None, announce: Callable[[Store, str], None]) -> Restored:
    try:
        problem = check(fresh, thorough=True)
    except apsw.Error as exc:
        raise StoreError(f"the copy of {backup} cannot be read: {exc}", hint="nothing was changed") from exc
    if problem:
        raise StoreError(f"the backup {backup} is not whole: {problem}", hint="nothing was changed")
    written = datetime.fromtimestamp(backup.stat().st_mtime, UTC).isoformat(timespec="seconds")
    store = Store(fresh)
    try:
        store.open()
        with store.transaction():
            store.forget_receipts()
            known = old is None or _go_on_from(store, old)
            if old is None or not known:
                store.identity.renew()  # numbers that came after the backup are given out again
            events = sum(store.counts["status", status.name] for status in Status)
            pending = store.counts["status", Status.PENDING.name]
            announce(store, f"the buffer was restored from the backup of {written}: {events} events")
        store.close()  # the last connection: everything is in the one file now
    except (apsw.Error, PeeweeException) as exc:
        with suppress(apsw.Error, PeeweeException):
            store.close()
        raise StoreError(f"the backup {backup} cannot be used: {exc}", hint="nothing was changed") from exc
    return Restored(events, pending, None, known)


def _go_on_from(store: Store, old: Path) -> bool:
    """Let the numbers of the restored buffer go on from those of the old one; whether they could be read."""
    connection = apsw.Connection(str(old), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        ((last_id, numbers),) = connection.execute(_GIVEN_OUT, (int(Status.CORRUPT),))
    except (apsw.Error, UnicodeDecodeError):
        return False
    finally:
        connection.close()
    store.skip_numbers(last_id or 0, numbers)
    return True


def _keep_aside(path: Path, now_ms: int) -> Path:
    """Give the old file a second name in a folder of its own, with a copy of its log: SQLite removes the log
    of a file that it cannot read."""
    aside = path.parent / f"replaced-{datetime.fromtimestamp(now_ms / 1000, UTC):%Y%m%dT%H%M%S.%f}"
    aside.mkdir(mode=0o700)
    try:
        os.link(path, aside / path.name)
    except OSError:  # a file system without links
        shutil.copyfile(path, aside / path.name)
    wal = path.with_name(path.name + "-wal")
    if wal.exists():
        shutil.copyfile(wal, aside / wal.name)
    sync_folder(aside)
    return aside


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


_GIVEN_OUT = """
SELECT (SELECT seq FROM sqlite_sequence WHERE name = 'buffer_events'),
       json_group_array(json_array(name, max(last_sequence, coalesce(newest, 0))))
FROM streams LEFT JOIN (SELECT stream, max(sequence_num) AS newest FROM buffer_events WHERE status <> ?
                        GROUP BY stream) ON stream = streams.id
"""
