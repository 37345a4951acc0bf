"""Position of the last commit, kept beside the buffer, so that a lost log is noticed.

SQLite opens a file whose write-ahead log is gone, or ends early, as if there had never been more. The mark
is the last id that was committed, written in place after each commit and before anything is acknowledged or
sent. It is not synced: after a power cut it may be behind, but it never claims what was not synced.
"""

from __future__ import annotations

import logging
import os
import struct
from pathlib import Path
from zlib import crc32

log = logging.getLogger(__name__)

_LAYOUT = struct.Struct(">4sQ")  # what it is, the id; then their CRC-32
_CHECKSUM = struct.Struct(">I")
_MAGIC = b"mrk1"


class CommitMarker:
    """The mark of the buffer at `path`. For one thread; neither method raises, it only ever makes sure."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".mark")
        self._last_id = 0
        self._failing = False

    def read(self) -> int:
        """The last id that is known to have been committed; 0 when there is no mark, or one that was torn."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return 0
        except OSError as exc:
            log.warning("the mark beside the buffer cannot be read: %s", exc)
            return 0
        size = _LAYOUT.size + _CHECKSUM.size
        if len(content) != size or _with_checksum(content[: _LAYOUT.size]) != content:
            log.warning("the mark %s is not whole and is not used", self._path)
            return 0
        return int(_LAYOUT.unpack_from(content)[1])

    def write(self, last_id: int) -> None:
        """Write that everything up to `last_id` is committed, and synced."""
        if last_id == self._last_id:
            return
        try:
            self._write(_with_checksum(_LAYOUT.pack(_MAGIC, last_id)))
        except OSError as exc:
            if not self._failing:
                log.warning("no mark, so a lost write-ahead log would go unnoticed: %s", exc)
            self._failing = True
        else:
            self._last_id, self._failing = last_id, False

    def _write(self, content: bytes) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(file, content, 0)
        finally:
            os.close(file)


def _with_checksum(content: bytes) -> bytes:
    return content + _CHECKSUM.pack(crc32(content))
