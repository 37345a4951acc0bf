"""Room on the disk: how much is left, and a ballast file that gives way when nothing is.

A full disk refuses even what would make room: a DELETE writes to the write-ahead log first. So a file of real
blocks lies beside the buffer. When the disk is full it is removed, and what it held is the room in which the
buffer makes room; once there is enough again it is put back.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from gateway.core.units import format_bytes

log = logging.getLogger(__name__)

BALLAST_FILE = "ballast"
# The write-ahead log must fit in: before anything else it is moved into the file, which grows by as much. And
# a step of the emergency eviction, up to 0.6 MB: 100 rows, a page each, in log and file.
SMALLEST_BALLAST_BYTES = 512 * 1024
LARGEST_BALLAST_BYTES = 16 * 1024 * 1024
_BALLAST_SHARE = 8
_FLOOR_SHARE = 4


class DiskSpace:
    """The space that the buffer at `path` may use on its file system. Changed by one thread, read by any.

    The ballast is an eighth of `max_bytes` or of the disk, if that is smaller; 512 KiB to 16 MiB.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._folder = path.parent
        self._files = (path, path.with_name(path.name + "-wal"))
        self._ballast = path.with_name(BALLAST_FILE)
        self._max_bytes = max_bytes
        self.look()
        share_bytes = min(max_bytes, self.total_bytes) // _BALLAST_SHARE
        self.ballast_bytes = min(max(SMALLEST_BALLAST_BYTES, share_bytes), LARGEST_BALLAST_BYTES)
        self.reserve_bytes = 2 * self.ballast_bytes
        """The disk is low when less than this is free."""

    def look(self) -> None:
        """Read how much is free. Raises OSError."""
        found = os.statvfs(self._folder)
        self.free_bytes = found.f_bavail * found.f_frsize
        self.total_bytes = found.f_blocks * found.f_frsize

    @property
    def group_bytes(self) -> int:
        """Largest size that one transaction should have."""
        return self.ballast_bytes // 4

    @property
    def low(self) -> bool:
        return self.free_bytes < self.reserve_bytes

    @property
    def roomy(self) -> bool:
        """True if the reserve stays free when the ballast is put back, or is there already with space to
        spare."""
        return self.free_bytes >= self.reserve_bytes + self.ballast_bytes

    def budget_bytes(self, free_bytes: int) -> int:
        """Return the bytes that the buffer's files may take together when that much is free, so that the
        reserve stays and the ballast can come back.

        Whatever else fills the disk, the buffer does not give up the last quarter of its share for it: that
        would be lost, and the disk full all the same.
        """
        missing_bytes = 0 if self.ballast_held else self.ballast_bytes
        room_bytes = self.file_bytes() + free_bytes - self.reserve_bytes - missing_bytes
        floor_bytes = min(self._max_bytes, self.total_bytes) // _FLOOR_SHARE
        return min(self._max_bytes, max(room_bytes, floor_bytes))

    def file_bytes(self) -> int:
        """The size of the buffer with its write-ahead log."""
        return sum(_size(file) for file in self._files)

    def wal_bytes(self) -> int:
        """The size of the write-ahead log."""
        return _size(self._files[1])

    # --- the ballast ---

    @property
    def ballast_held(self) -> bool:
        return _size(self._ballast) >= self.ballast_bytes

    def release_ballast(self) -> bool:
        """Give the ballast's room away; whether there was any."""
        try:
            self._ballast.unlink()
        except FileNotFoundError:
            return False
        return True

    def fill_ballast(self) -> bool:
        """Put the ballast back; whether it is there. The disk must be `roomy`."""
        if self.ballast_held:
            return True
        try:
            with self._ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self.ballast_bytes)  # real blocks, no hole
        except OSError as exc:
            with suppress(OSError):
                self._ballast.unlink()
            log.warning("there is no ballast for a full disk: %s", exc)
            return False
        return True

    def __str__(self) -> str:
        return f"{format_bytes(self.free_bytes)} of {format_bytes(self.total_bytes)} are free"


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
