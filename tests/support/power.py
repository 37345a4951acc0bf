"""A disk that records what SQLite writes and syncs, and shows what a power cut at any moment would leave.

The rules of the model are those of a journaling file system at its worst:
- what was synced stays; of what was written since, any part may be there, down to single sectors;
- names appear and vanish in the order in which they were made, but a power cut may undo the last of them
  until the folder is synced. SQLite syncs the folder with the first sync of a log or journal.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import apsw

SECTOR_BYTES = 512
_BASE_VFS = "unix"
_SYNCS_FOLDER = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL


class Create(NamedTuple):
    name: str


class Delete(NamedTuple):
    name: str


class Write(NamedTuple):
    name: str
    offset: int
    data: bytes


class Truncate(NamedTuple):
    name: str
    size: int


class Sync(NamedTuple):
    name: str
    folder_too: bool


class SyncFolder(NamedTuple):
    pass


class Note(NamedTuple):
    """Something that happened outside of the disk at this moment: an acknowledgement, say."""

    what: object


Change: TypeAlias = Write | Truncate
Operation: TypeAlias = Create | Delete | Change | Sync | SyncFolder | Note
Content: TypeAlias = dict[str, bytes]
"""The files of a folder."""
Tear: TypeAlias = Callable[[Sequence[Change], random.Random], Iterable[Change]]
"""What is left of the changes of one file that no sync had made sure of."""


@contextmanager
def recorded(operations: list[Operation]) -> Iterator[None]:
    """Until the end, each file that SQLite opens in this process reports to `operations`."""
    vfs = _RecordingVfs(operations)
    try:
        yield
    finally:
        vfs.unregister()
        apsw.set_default_vfs(_BASE_VFS)


class _RecordingVfs(apsw.VFS):
    def __init__(self, operations: list[Operation]) -> None:
        self._operations = operations
        super().__init__("recording", _BASE_VFS, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        return _RecordingFile(self._operations, name, flags)

    def xDelete(self, name: str, sync_folder: bool) -> None:  # noqa: N802 - SQLite's name
        super().xDelete(name, sync_folder)
        self._operations.append(Delete(Path(name).name))
        if sync_folder:
            self._operations.append(SyncFolder())


class _RecordingFile(apsw.VFSFile):
    def __init__(
        self, operations: list[Operation], name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "temporary")
        self._name, self._operations = path.name, operations
        self._syncs_folder = bool(flags[0] & _SYNCS_FOLDER)
        is_new = not path.exists()
        super().__init__(_BASE_VFS, name, flags)
        if is_new:
            operations.append(Create(self._name))

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        super().xWrite(data, offset)
        self._operations.append(Write(self._name, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:  # noqa: N802 - SQLite's name
        super().xTruncate(size)
        self._operations.append(Truncate(self._name, size))

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        super().xSync(flags)
        self._operations.append(Sync(self._name, self._syncs_folder))


class Disk:
    """The files of one folder, and how sure each of them is, after the operations that it was given."""

    def __init__(self, files: Content) -> None:
        self._contents = dict(enumerate(map(bytearray, files.values())))  # what is synced, by inode
        self._pending: dict[int, list[Change]] = {}
        self._names = dict(zip(files, self._contents, strict=True))
        self._sure_names = [dict(self._names)]  # the synced folder, and what became of it since

    def apply(self, operation: Operation) -> None:
        match operation:
            case Create(name):
                self._names[name] = inode = len(self._contents)
                self._contents[inode] = bytearray()
                self._sure_names.append(dict(self._names))
            case Delete(name):
                del self._names[name]
                self._sure_names.append(dict(self._names))
            case Write(name) | Truncate(name):
                self._pending.setdefault(self._names[name], []).append(operation)
            case Sync(name, folder_too):
                inode = self._names[name]
                _change(self._contents[inode], self._pending.pop(inode, []))
                if folder_too:
                    self._sure_names = [dict(self._names)]
            case SyncFolder():
                self._sure_names = [dict(self._names)]
            case Note():
                pass

    def after_power_cut(self, tear: Tear, chance: random.Random) -> Content:
        """The files as they may be when the power is back."""
        names = self._sure_names[0] if tear is nothing else chance.choice(self._sure_names)
        left = {}
        for name, inode in names.items():
            content = self._contents[inode].copy()
            _change(content, tear(self._pending.get(inode, []), chance))
            left[name] = bytes(content)
        return left


def nothing(changes: Sequence[Change], chance: random.Random) -> Iterable[Change]:
    """What was not synced is gone."""
    return ()


def some(changes: Sequence[Change], chance: random.Random) -> Iterable[Change]:
    """Each change is there or not: a disk may write them in any order."""
    return [change for change in changes if chance.random() < 0.5]


def torn(changes: Sequence[Change], chance: random.Random) -> Iterator[Change]:
    """Of each write some sectors are there."""
    for change in changes:
        if isinstance(change, Truncate):
            if chance.random() < 0.5:
                yield change
            continue
        share = chance.random()
        for start, end in _sectors(change):
            if chance.random() < share:
                at = start - change.offset
                yield Write(change.name, start, change.data[at : at + end - start])


TEARS: tuple[Tear, ...] = (nothing, some, torn)


def _sectors(write: Write) -> Iterator[tuple[int, int]]:
    """The parts of a write that lie in one sector each."""
    start, end = write.offset, write.offset + len(write.data)
    while start < end:
        sector_end = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield start, sector_end
        start = sector_end


def _change(content: bytearray, changes: Iterable[Change]) -> None:
    for change in changes:
        match change:
            case Write(_, offset, data):
                content.extend(bytes(max(0, offset - len(content))))
                content[offset : offset + len(data)] = data
            case Truncate(_, size):
                del content[size:]


def restore(files: Content, folder: Path) -> None:
    """Make `folder` hold these files and no others."""
    for found in folder.iterdir():
        if found.is_dir():
            shutil.rmtree(found)
        else:
            found.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
