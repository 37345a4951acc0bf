"""Lock on the data directory: a second gateway is refused, so that it cannot damage the first one's
buffer."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from gateway.core.errors import BufferLockedError, StoreError

LOCK_FILE = "gateway.lock"


def unusable_folder(folder: Path, error: OSError) -> StoreError:
    """Return the error to raise when the data directory cannot be made or written."""
    return StoreError(
        f"the data directory {folder} cannot be used: {error.strerror}",
        hint="the gateway's user must be able to write there: `mount` says whether the file system is"
        f" read-only, `ls -ld {folder}` who owns the folder",
    )


class DataDirLock:
    """Holds the data directory while the `with` block runs. The kernel lets go of it when the process dies.
    `role` says who has it, to the one that is refused.

    Raises BufferLockedError when another process holds it, StoreError when it cannot be written.
    """

    def __init__(self, data_dir: Path, role: str = "gateway") -> None:
        self._path = data_dir / LOCK_FILE
        self._role = role

    def __enter__(self) -> DataDirLock:
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise unusable_folder(self._path.parent, exc) from exc
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            owner, _, role = os.pread(self._file, 100, 0).decode(errors="replace").strip().partition(" ")
            os.close(self._file)
            raise BufferLockedError(
                f"{self._path.parent} is used by another {role or 'gateway'} (process {owner or 'unknown'})",
                hint="stop that one first, or set another gateway.data_dir for this one",
            ) from exc
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()} {self._role}".encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
