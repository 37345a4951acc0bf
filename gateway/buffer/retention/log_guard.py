"""A write-ahead log that cannot be reset, because another process reads the buffer for a long time.

SQLite writes on behind a reader's snapshot, so the log grows for as long as the reader stays: a forgotten
`sqlite3` shell in a transaction is enough. File and log must stay within the buffer's size all the same:

1. a log that has grown out of its allowance for two seconds is announced, with the process that reads;
2. before file and log reach the size nothing is committed any more, and so nothing is acknowledged;
3. each half second the writer tries to empty the log, and goes on when the reader has ended.
"""

from __future__ import annotations

import os
from pathlib import Path

from gateway.buffer.alerts import Alert
from gateway.buffer.retention.disk_space import DiskSpace
from gateway.buffer.store import Store
from gateway.core.errors import LogHeldError
from gateway.core.units import format_bytes

WAL_ALLOWANCE_BYTES = 8 * 1024 * 1024
COPY_ALLOWANCE_BYTES = 64 * 1024 * 1024
QUIET_TURNS = 8  # two seconds: our own readers are done sooner
_LOCKS = Path("/proc/locks")
# The locks of readers stand at these bytes of the -shm file: https://sqlite.org/walformat.html#the_wal_index_file_format
_READ_MARKS = range(123, 128)


def log_allowance_bytes(max_bytes: int) -> int:
    """Return the size that the log of a buffer of that size may reach."""
    return min(WAL_ALLOWANCE_BYTES, max_bytes // 8)


def copy_allowance_bytes(max_bytes: int) -> int:
    """Return how much more the log may grow during a backup, because a backup reads too."""
    return min(COPY_ALLOWANCE_BYTES, max_bytes // 16)


class PinnedWal:
    """Watches over the log of one buffer of at most `max_bytes`. All on the writer's thread."""

    def __init__(self, space: DiskSpace, max_bytes: int) -> None:
        self._space = space
        self._max_bytes = max_bytes
        self._allowance_bytes = log_allowance_bytes(max_bytes)
        self._turns = 0  # for which the log was too large
        self._announced = False
        self._withheld = ""  # why nothing was committed, since the last turn

    def look(self, store: Store) -> None:
        """Check the log after a turn, outside of a transaction."""
        too_large = self._allowance_bytes + copy_allowance_bytes(self._max_bytes)
        held = self._space.wal_bytes() > too_large and not store.file.empty_wal()
        self._turns = self._turns + 1 if held else 0
        self._announced = self._announced and held

    def announce(self, store: Store, alert: Alert) -> None:
        """Announce a large log once, and afterwards that it kept everything from being stored. Inside a
        transaction."""
        log_bytes = self._space.wal_bytes()
        details = {"log_bytes": log_bytes}
        if self._withheld:
            said = f"nothing was acknowledged for a while: {self._withheld}"
            alert(store, "log_held", said, details)
            self._withheld, self._announced = "", True
        elif self._turns >= QUIET_TURNS and not self._announced:
            limit = f"buffer.max_size ({format_bytes(self._max_bytes)})"
            then = f"when file and log reach {limit}, nothing is acknowledged any more"
            said = f"{self._reason(log_bytes)}; {then}"
            alert(store, "log_held", said, details)
            self._announced = True

    def rolled_back(self) -> None:
        """Forget the last announcement: it was not committed."""
        self._announced = False

    def check(self) -> None:
        """Raise LogHeldError when the log is what takes the space. Called when there is no space for another
        group and the log could not be emptied."""
        log_bytes = self._space.wal_bytes()
        if log_bytes > self._allowance_bytes:
            self._withheld = self._reason(log_bytes)
            raise LogHeldError(self._withheld)

    def _reason(self, log_bytes: int) -> str:
        who = " and ".join(readers_of(self._space.path)) or "a process that cannot be seen from here"
        grown = f"the write-ahead log has grown to {format_bytes(log_bytes)}"
        return f"{grown}, because {who} reads the buffer in one long transaction: stop that process"


def readers_of(path: Path, locks: Path = _LOCKS) -> list[str]:
    """Return the other processes that hold a snapshot of the buffer, as far as the kernel tells.

    Never by opening the -shm file: closing it again would drop this process's own locks.
    """
    try:
        inode = path.with_name(path.name + "-shm").stat().st_ino
        lines = locks.read_text().splitlines()
    except OSError:
        return []
    found = {pid for line in lines if (pid := _reading(line, inode)) and pid != os.getpid()}
    return [_named(pid) for pid in sorted(found)]


def _reading(line: str, inode: int) -> int:
    """The process of a line of /proc/locks that reads by a mark in that file; 0 when it is about another one.

    `12: POSIX  ADVISORY  READ 4711 08:01:131 124 124`
    """
    fields = line.split()
    if len(fields) != 8 or fields[3] != "READ" or not fields[5].endswith(f":{inode}"):
        return 0
    return int(fields[4]) if int(fields[6]) in _READ_MARKS else 0


def _named(pid: int) -> str:
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        name = "a process"
    return f"{name} (process {pid})"
