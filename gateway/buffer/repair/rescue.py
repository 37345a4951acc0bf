"""A buffer whose file was deleted or replaced while it is open: what the open file holds is written again.

The operating system keeps a deleted file for as long as a process has it open. So nothing is lost until the
gateway ends, if nothing more is acknowledged into that file, and a copy of it is there before.
"""

from __future__ import annotations

import ctypes
from contextlib import closing
from pathlib import Path

import apsw

from gateway.host.files import replace_file

_WRITABLE_BY_OWNER = 0o700


def is_displaced(connection: apsw.Connection) -> bool:
    """Return whether the path of an open database now leads to another file, or to none.

    SQLite compares the inodes; one `stat`. False as well where the disk does not answer, which a commit says
    better.
    """
    moved = ctypes.c_int(0)
    connection.file_control("main", apsw.SQLITE_FCNTL_HAS_MOVED, ctypes.addressof(moved))
    return bool(moved.value) and _leads_elsewhere(connection)


def _leads_elsewhere(connection: apsw.Connection) -> bool:
    try:
        Path(connection.filename).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return True


def rescue(connection: apsw.Connection, path: Path) -> None:
    """Write all that is committed in an open database to where the next start takes it up; outside of a
    transaction. Raises apsw.Error and OSError when there is no place for it."""
    path.parent.mkdir(mode=_WRITABLE_BY_OWNER, parents=True, exist_ok=True)
    copy = path.with_suffix(".rescuing")
    copy.unlink(missing_ok=True)
    with closing(apsw.Connection(str(copy))) as target:
        target.execute("PRAGMA synchronous = off")  # it is synced as a whole before it takes its place
        with target.backup("main", connection, "main") as backup:
            backup.step()
        target.execute("PRAGMA journal_mode = delete").fetchall()  # a single file
    replace_file(copy, rescued_path(path))


def rescued_path(path: Path) -> Path:
    """Return the path of the rescued file until the next start."""
    return path.with_suffix(".rescued")
