"""What happens to a buffer before it is opened: is it whole, and if not, what can be saved of it.

In this order, each step logged, and nothing ever deleted:
1. a WAL that was damaged in its middle is mended, so that SQLite reads all of it;
2. a file that is not whole is put aside, and every readable row of it goes into a fresh one;
3. where not even that works, the backup takes its place;
4. where there is none, the gateway starts with an empty buffer.
Steps 2 to 4 lose data, so they end in an alert that says how much.
"""

from __future__ import annotations

import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import apsw
from peewee import PeeweeException

from gateway.buffer.damage import forget_damage, noted_damage
from gateway.buffer.salvage import Salvage, salvage
from gateway.buffer.wal import mended, scan
from gateway.files import replace_file

log = logging.getLogger(__name__)

# A quick_check reads the whole file, at some 500 MB a second; a start must not wait longer than that. What is
# larger is looked through while the gateway runs (see `upkeep`), and checked here when that found damage.
CHECK_AT_START_BYTES = 256 * 1024 * 1024
_MAX_WAL_BYTES = 256 * 1024 * 1024
_SUFFIXES = ("", "-wal", "-shm")


class Recovery(NamedTuple):
    """What was found and done. `alert` is empty when nothing was lost."""

    kind: str  # whole, mended, salvaged, backup, empty
    alert: str
    kept_aside: Path | None


WHOLE = Recovery("whole", "", None)


def recover(path: Path, now_ms: int) -> Recovery:
    """Make `path` a file that can be opened. Call it while nobody else has it open."""
    if not path.exists():
        return _without_database(path, now_ms)
    aside = _aside(path, now_ms)
    mended_commits = _mend_wal(path, aside)
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
    """Why the file is not whole, in a few words; empty when it is.

    A large file is looked through only when it must be `thorough`: then indexes are compared with their
    tables, too.
    """
    if path.stat().st_size == 0 and not _wal(path).exists():
        return "the file is empty" if backup_path(path).exists() else ""  # else it was never written to
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if path.stat().st_size > CHECK_AT_START_BYTES and not thorough:
                return ""
            ((found,),) = connection.execute(f"PRAGMA {'integrity' if thorough else 'quick'}_check(1)")
        finally:
            connection.close()
    except apsw.Error as exc:
        return str(exc)
    return "" if found == "ok" else str(found)


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
    wal.write_bytes(mended(content))
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
    working = _working_copy(path, aside / "reading")
    _keep(path, aside)
    try:
        saved = salvage(working, fresh)
    except (apsw.Error, PeeweeException, OSError) as exc:
        log.error("nothing could be read from the damaged buffer: %s", exc)
        return _from_backup(path, aside, problem)
    if not saved.events and backup_path(path).exists():
        _remove(fresh)
        return _from_backup(path, aside, problem)
    replace_file(fresh, path)
    return Recovery("salvaged", _salvage_alert(saved, problem, aside), aside)


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


def _without_database(path: Path, now_ms: int) -> Recovery:
    """No database file: new, or somebody removed it. A WAL without its database can not be used."""
    if not _wal(path).exists() and not backup_path(path).exists():
        return WHOLE
    aside = _aside(path, now_ms)
    _keep(path, aside)
    return _from_backup(path, aside, "its main file is gone")


def backup_path(path: Path) -> Path:
    """Where the backup of a buffer is kept."""
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


def _keep(path: Path, aside: Path, *, copy: bool = False) -> None:
    """Move, or copy, the files of `path` into `aside`."""
    aside.mkdir(parents=True, exist_ok=True)
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
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in _SUFFIXES:
        file = damaged.with_name(damaged.name + suffix)
        if file.exists():
            shutil.copyfile(file, folder / file.name)
    return folder / damaged.name


def _remove(path: Path) -> None:
    for suffix in _SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")
