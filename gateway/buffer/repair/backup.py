"""A copy of a buffer, made while it is in use, and only then put in the place of the last one."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw

from gateway.buffer.repair.recovery import backup_path, check
from gateway.buffer.retention.log_guard import COPY_ALLOWANCE_BYTES
from gateway.core.errors import StoreError
from gateway.core.units import format_bytes
from gateway.host.files import replace_file

_PAGES_PER_STEP = 512  # 2 MiB: a gateway that writes meanwhile does not notice

Progress = Callable[[int, int], None]


def back_up(
    path: Path,
    target: Path | None = None,
    progress: Progress = lambda done, total: None,
    keep_free_bytes: int = 0,
    log_limit_bytes: int = COPY_ALLOWANCE_BYTES,
) -> Path:
    """Copy the buffer `path` as of its last commit, verify the copy, and make it the backup.

    `progress` gets the pages that are done and all pages after each step; what it raises ends the copying.
    Returns where the backup is: `target`, or beside the buffer, where a start finds it. Raises StoreError,
    and the last backup stays, when the disk would be left with less than `keep_free_bytes`, when the copying
    takes so long that the log grows by `log_limit_bytes` (it cannot be reset until it is made), when the
    copy is not whole, or when another one is being made.
    """
    target = target or backup_path(path)
    copy = target.with_name(target.name + ".new")
    with _alone_in(target.parent):
        copy.unlink(missing_ok=True)
        _check_room(path, target, keep_free_bytes)
        _make(path, copy, target, progress, log_limit_bytes)
    return target


def _make(path: Path, copy: Path, target: Path, progress: Progress, log_limit_bytes: int) -> None:
    try:
        _copy(path, copy, progress, log_limit_bytes)
        problem = check(copy, thorough=True)
        if problem:
            raise StoreError(
                f"the copy {copy} is not whole: {problem}",
                hint="`gateway buffer verify` looks at the buffer itself",
            )
        replace_file(copy, target)
    finally:
        copy.unlink(missing_ok=True)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Two backups at a time would write the same copy: one is the gateway's, one perhaps an operator's."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StoreError(f"another backup is being made in {folder}") from exc
        yield
    finally:
        os.close(descriptor)


def _check_room(path: Path, target: Path, keep_free_bytes: int) -> None:
    needed = path.stat().st_size + _log_bytes(path)
    free = shutil.disk_usage(target.parent).free
    if free < needed + keep_free_bytes:
        spare = f", and {format_bytes(keep_free_bytes)} have to stay free" if keep_free_bytes else ""
        raise StoreError(
            f"no space for a backup: it takes {format_bytes(needed)}, {format_bytes(free)} are free{spare}",
            hint="free some disk space, or set a smaller buffer.max_size",
        )


def _copy(path: Path, copy: Path, progress: Progress, log_limit_bytes: int) -> None:
    with (
        closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as source,
        closing(apsw.Connection(str(copy))) as target,
    ):
        source.execute("PRAGMA query_only = 1")
        source.execute("PRAGMA wal_autocheckpoint = 0")
        target.execute("PRAGMA synchronous = off")  # it is synced as a whole before it takes its place
        # One snapshot for all steps: else every commit of the gateway would start the copy anew.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchall()
        most_bytes = _log_bytes(path) + log_limit_bytes
        with target.backup("main", source, "main") as backup:
            while not backup.done:
                backup.step(_PAGES_PER_STEP)
                progress(backup.page_count - backup.remaining, backup.page_count)
                if _log_bytes(path) > most_bytes:
                    raise StoreError(
                        f"the backup is given up: the write-ahead log grew by {format_bytes(log_limit_bytes)}"
                        " meanwhile, and it cannot be reset until the copy is made"
                    )
        source.execute("COMMIT")
        target.execute("PRAGMA journal_mode = delete").fetchall()  # a single file


def _log_bytes(path: Path) -> int:
    log = path.with_name(path.name + "-wal")
    return log.stat().st_size if log.exists() else 0
