"""A copy of a buffer, made while it is in use, and only then put in the place of the last one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apsw

from gateway.buffer.recovery import backup_path, check
from gateway.errors import StoreError
from gateway.files import replace_file

_PAGES_PER_STEP = 512  # 2 MiB: a gateway that writes meanwhile does not notice


def back_up(
    path: Path, target: Path | None = None, progress: Callable[[int, int], None] = lambda done, total: None
) -> Path:
    """Copy the buffer `path` as of its last commit, verify the copy, and make it the backup.

    `progress` gets the pages that are done and all pages. Returns where the backup is: `target`, or beside
    the buffer, where a start finds it. Raises StoreError when the copy is not whole; the last backup then
    stays.
    """
    target = target or backup_path(path)
    copy = target.with_name(target.name + ".new")
    copy.unlink(missing_ok=True)
    _copy(path, copy, progress)
    problem = check(copy, thorough=True)
    if problem:
        raise StoreError(
            f"the copy {copy} is not whole: {problem}",
            hint="`gateway buffer verify` looks at the buffer itself",
        )
    replace_file(copy, target)
    return target


def _copy(path: Path, copy: Path, progress: Callable[[int, int], None]) -> None:
    source = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    target = apsw.Connection(str(copy))
    try:
        source.execute("PRAGMA query_only = 1")
        source.execute("PRAGMA wal_autocheckpoint = 0")
        # One snapshot for all steps: else every commit of the gateway would start the copy anew.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchall()
        with target.backup("main", source, "main") as backup:
            while not backup.done:
                backup.step(_PAGES_PER_STEP)
                progress(backup.page_count - backup.remaining, backup.page_count)
        source.execute("COMMIT")
        target.execute("PRAGMA journal_mode = delete").fetchall()  # a single file
    finally:
        target.close()
        source.close()
