"""Files and folders: how large they are, and changes that a power cut must not undo."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

PRIVATE = 0o077
"""The umask of what holds messages: files are 0600, folders 0700."""


def read_regular(path: Path, most_bytes: int) -> bytes:
    """Read the beginning of a file. Raises OSError, also for a pipe or a device, on which it could wait for
    ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read(most_bytes)


def size_of(path: Path) -> int:
    """Return the size of a file in bytes; 0 when there is none. Raises OSError where it is unknown."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(new: Path, path: Path) -> None:
    """Put `new` in the place of `path`, so that a power cut leaves the one or the other. Raises OSError."""
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(path)
    sync_folder(path.parent)


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Put a file with `content` in the place of `path`, as `replace_file` does. Raises OSError."""
    new = path.with_name(f"{path.name}.new")
    new.touch(mode=mode)
    new.write_bytes(content)
    replace_file(new, path)
