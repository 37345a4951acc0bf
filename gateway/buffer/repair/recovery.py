"""Check of a buffer before it is opened, and recovery of a damaged one.

In this order, each step logged, and nothing ever deleted:
1. a WAL that was damaged in its middle is mended, so that SQLite reads all of it;
2. every readable row of a file that is not whole goes into a fresh one, which then takes its place;
3. where not even that works, the backup takes its place;
4. where there is none, the gateway starts with an empty buffer.
Steps 2 to 4 lose data, so they end in an alert that says how much. A crash in any of them starts them again:
the damaged file stays where it is until what replaces it is complete.
"""

from __future__ import annotations

import errno
import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import apsw

from gateway.buffer.orm import PeeweeException
from gateway.buffer.repair.damage import forget_damage, noted_damage
from gateway.buffer.repair.rescue import rescued_path
from gateway.buffer.repair.row_validation import unfit
from gateway.buffer.repair.salvage import UNREADABLE, Salvage, salvage
from gateway.buffer.repair.wal import mended, scan
from gateway.host.files import replace_file

log = logging.getLogger(__name__)

# A quick_check reads the whole file, at some 500 MB a second; a start must not wait longer than that. What is
# larger is looked through while the gateway runs (see `upkeep`), and checked here when that found damage.
CHECK_AT_START_BYTES = 256 * 1024 * 1024
_READ_BYTES = 1024 * 1024
_MAX_WAL_BYTES = 256 * 1024 * 1024
_SUFFIXES = ("", "-wal", "-shm")
_WAL_FORMAT = 2  # https://sqlite.org/fileformat2.html#file_format_version_numbers
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOMEM)
_PASSING_OF_SQLITE = (
    *(apsw.FullError, apsw.IOError, apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError),
    *(apsw.BusyError, apsw.LockedError, apsw.NoMemError),
)


class Recovery(NamedTuple):
    """The outcome of a recovery. `alert` is empty when nothing was lost."""

    kind: str  # whole, mended, rescued, salvaged, backup, empty
    alert: str
    kept_aside: Path | None


WHOLE = Recovery("whole", "", None)


def recover(path: Path, now_ms: int, synchronous: Literal["full", "normal"] = "full") -> Recovery:
    """Make `path` a file that can be opened. Call it while no other process has it open.

    `synchronous` is what it was written with. Raises apsw's and peewee's errors and OSError when that is not
    possible now, for want of room or of rights; the files are then as they were.
    """
    aside = _aside(path, now_ms)
    if rescued_path(path).exists():
        return _finish_rescue(path, aside)
    if _rebuilt(path).exists():
        return _finish_rebuild(path, aside)
    if not path.exists():
        return _without_database(path, aside)
    # Without a sync of each commit, frames that are missing in the middle of the log are no damage, and what
    # stands behind them must not be read: it was written for pages that never got there.
    mended_commits = _mend_wal(path, aside) if synchronous == "full" else 0
    noted = noted_damage(path)
    problem = check(path, thorough=bool(noted))
    if problem:
        log.error("the buffer %s is damaged: %s", path, problem)
        done = _rebuild(path, aside, problem)
    else:
        done = Recovery("mended", "", aside) if mended_commits else WHOLE
    if noted:
        log.info("damage had been noted while the gateway ran: %s", noted)
        forget_damage(path)
    return done


def check(path: Path, *, thorough: bool = False) -> str:
    """Return what is wrong with the file in a few words; empty when it is whole.

    A large file is looked through only when it must be `thorough`: then indexes are compared with their
    tables, too. Raises apsw.Error or OSError when it cannot be read now, which says nothing about the file.
    """
    problem = _problem(path, thorough)
    if problem:
        _must_be_readable(path)
    return problem


def _must_be_readable(path: Path) -> None:
    """Raise OSError when the disk gives no answer: SQLite calls a file malformed for that, too."""
    for file in (path, _wal(path)):
        if file.exists():
            with file.open("rb", buffering=0) as content:
                while content.read(_READ_BYTES):
                    pass


def _problem(path: Path, thorough: bool) -> str:
    if path.stat().st_size == 0 and not _wal(path).exists():
        return "the file is empty" if backup_path(path).exists() else ""  # else it was never written to
    try:
        with path.open("rb") as file:
            if max(file.read(20)[18:], default=0) > _WAL_FORMAT:
                return "its header says that it is of a later format"  # for SQLite it would be read-only
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if path.stat().st_size > CHECK_AT_START_BYTES and not thorough:
                return unfit(connection)
            ((found,),) = connection.execute(f"PRAGMA {'integrity' if thorough else 'quick'}_check(1)")
            return str(found) if found != "ok" else unfit(connection)
        finally:
            connection.close()
    except UNREADABLE as exc:
        if isinstance(exc, apsw.Error) and _passes(exc):
            raise
        return str(exc)


def _mend_wal(path: Path, aside: Path) -> int:
    """Mend a WAL that was damaged in its middle; returns how many commits SQLite would have dropped."""
    wal = _wal(path)
    if not wal.exists() or not 0 < wal.stat().st_size <= _MAX_WAL_BYTES:
        return 0
    content = wal.read_bytes()
    found = scan(content)
    if not found.lost_commits:
        return 0
    _keep(path, aside, copy=True)
    whole = wal.with_name(wal.name + ".mended")
    whole.write_bytes(mended(content))
    replace_file(whole, wal)
    log.error(
        "frame %s of %d in the write-ahead log was damaged; the log is mended, and the %d commits from there"
        " on are kept. The files as they were are in %s",
        *(found.first_bad, found.frames, found.lost_commits, aside),
    )
    return found.lost_commits


def _rebuild(path: Path, aside: Path, problem: str) -> Recovery:
    """Salvage, else the backup, else nothing. The damaged files go to `aside` as they are."""
    fresh = path.with_suffix(".rebuilding")
    _remove(fresh)
    try:
        saved = salvage(_working_copy(path, aside / "reading"), fresh)
    except (apsw.Error, PeeweeException, OSError) as exc:
        if _passes(exc):
            raise
        log.error("nothing could be read from the damaged buffer: %s", exc)
        saved = None
    if saved is None or (not saved.events and backup_path(path).exists()):
        _remove(fresh)
        _keep(path, aside)
        return _from_backup(path, aside, problem)
    replace_file(fresh, _rebuilt(path))  # from here on a start takes it, whatever happens to this one
    _keep(path, aside)
    replace_file(_rebuilt(path), path)
    return Recovery("salvaged", _salvage_alert(saved, problem, aside), aside)


def _passes(error: Exception) -> bool:
    """Return True if the disk, the permissions or another process are at fault, not the content of the file:
    the data can be saved once that is over."""
    if isinstance(error, OSError):
        return error.errno in _PASSING
    return isinstance(error, _PASSING_OF_SQLITE) or isinstance(error.__context__, _PASSING_OF_SQLITE)


def _finish_rebuild(path: Path, aside: Path) -> Recovery:
    """The start before this one was killed when all was saved, but not in its place yet."""
    if _lies_there(path):
        _keep(path, aside)
    replace_file(_rebuilt(path), path)
    folder = f"{path.parent}/damaged-*"
    text = f"the buffer was damaged; what could be read was saved; the damaged files are in {folder}"
    return Recovery("salvaged", text, aside if aside.exists() else None)


def _finish_rescue(path: Path, aside: Path) -> Recovery:
    """The file was deleted or replaced under a running gateway, which then wrote all of it again."""
    text = f"{path} was deleted or replaced while the gateway ran; what it held was written again"
    if _lies_there(path):
        _keep(path, aside)
        text += f"; what lay in its place is in {aside}"
    replace_file(rescued_path(path), path)
    return Recovery("rescued", text, aside if aside.exists() else None)


def _from_backup(path: Path, aside: Path, problem: str) -> Recovery:
    backup = backup_path(path)
    if backup.exists() and not check(backup, thorough=True):
        age = datetime.fromtimestamp(backup.stat().st_mtime, UTC).isoformat(timespec="seconds")
        copy = path.with_suffix(".restoring")
        shutil.copyfile(backup, copy)
        replace_file(copy, path)
        text = (
            f"the buffer was damaged ({problem}); the backup of {age} took its place, what came later is lost"
        )
        return Recovery("backup", f"{text}; the damaged files are in {aside}", aside)
    text = f"the buffer was damaged ({problem}) and could not be read; it was started anew, empty"
    return Recovery("empty", f"{text}; the damaged files are in {aside}", aside)


def _without_database(path: Path, aside: Path) -> Recovery:
    """Recover without a database file: it is new, or was removed by hand. A WAL is useless without it."""
    was_damaged = any(path.parent.glob("damaged-*"))  # and a start was killed before it could say so
    if not _wal(path).exists() and not backup_path(path).exists() and not was_damaged:
        return WHOLE
    _keep(path, aside)
    return _from_backup(path, aside, "its main file is gone")


def backup_path(path: Path) -> Path:
    """Return the path of a buffer's backup."""
    return path.with_name(path.name + ".backup")


def _salvage_alert(saved: Salvage, problem: str, aside: Path) -> str:
    total = saved.events + saved.lost
    parts = [f"the buffer was damaged ({problem}); {saved.events} of {total} events could be read"]
    if saved.corrupt:
        parts.append(f"{saved.corrupt} of them have a wrong checksum and are kept as corrupt")
    if saved.tables_lost:
        parts.append(f"tables not read to the end: {', '.join(saved.tables_lost)}")
    return "; ".join([*parts, f"the damaged files are in {aside}"])


def _aside(path: Path, now_ms: int) -> Path:
    """The folder for what is found damaged at this start."""
    return path.parent / f"damaged-{datetime.fromtimestamp(now_ms / 1000, UTC):%Y%m%dT%H%M%S.%f}"


def _lies_there(path: Path) -> bool:
    return any(path.with_name(path.name + suffix).exists() for suffix in _SUFFIXES)


def _keep(path: Path, aside: Path, *, copy: bool = False) -> None:
    """Move, or copy, the files of `path` into `aside`."""
    aside.mkdir(mode=0o700, parents=True, exist_ok=True)
    for suffix in _SUFFIXES:
        file = path.with_name(path.name + suffix)
        if file.exists() and not (aside / file.name).exists():
            if copy:
                shutil.copyfile(file, aside / file.name)
            else:
                file.replace(aside / file.name)
        elif file.exists() and not copy:
            file.unlink()  # the state before it was mended is kept already


def _working_copy(damaged: Path, folder: Path) -> Path:
    """A copy to read from: opening a database may change it, and the evidence stays as it was."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for suffix in _SUFFIXES:
        file = damaged.with_name(damaged.name + suffix)
        if file.exists():
            shutil.copyfile(file, folder / file.name)
    return folder / damaged.name


def _remove(path: Path) -> None:
    for suffix in _SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _rebuilt(path: Path) -> Path:
    """Return the path of a complete rebuilt file before it takes its place."""
    return path.with_suffix(".rebuilt")


def _wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")
