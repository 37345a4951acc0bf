"""Reads a write-ahead log the way SQLite does, to find the damage about which SQLite says nothing.

When a WAL is opened, SQLite stops at the first frame whose checksum is wrong and drops all behind it: that
is how it recognises a tail that was torn by a power cut. A bit that flips in the middle looks the same, and
every later commit is lost without a word (`integrity_check` says ok).

With synchronous FULL the two can be told apart. Every commit is synced before the next transaction writes
its first frame. So a bad frame with a whole commit and more frames behind it was synced once: damage. A bad
frame in the last transaction is a torn tail, which was never acknowledged.

The layout is SQLite's file format, section 4 (https://sqlite.org/fileformat2.html#the_write_ahead_log).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGICS = (0x377F0682, 0x377F0683)


class WalScan(NamedTuple):
    """The content of a WAL. Frames count from 0; `first_bad` is None when all checksums are right."""

    frames: int  # with the header's salt, right or wrong
    first_bad: int | None
    lost_commits: int  # from the bad frame on, which SQLite would drop although they were synced


class _Frame(NamedTuple):
    offset: int
    commits: bool
    checksum: tuple[int, int]
    valid: bool


def scan(wal: bytes) -> WalScan:
    """Look through a WAL. One that is empty, or whose header is no WAL header, has no frames."""
    frames = list(_frames(wal))
    bad = next((number for number, frame in enumerate(frames) if not frame.valid), None)
    if bad is None:
        return WalScan(len(frames), None, 0)
    from_bad = frames[bad:]
    # Whatever stands behind a commit was written after that commit was synced.
    synced = any(frame.commits for frame in from_bad[:-1])
    return WalScan(len(frames), bad, sum(frame.commits for frame in from_bad) if synced else 0)


def mended(wal: bytes) -> bytes:
    """The same WAL with the checksums made right, so that SQLite reads what is behind a damaged frame.

    The damage itself stays, in one page; the checksums of the events in it tell.
    """
    out = bytearray(wal)
    running = _header_checksum(wal)
    little = _is_little(wal)
    page_bytes = _HEADER.unpack_from(wal)[2]
    for frame in _frames(wal):
        body = frame.offset + _FRAME.size
        running = _checksum(little, running, out[frame.offset : frame.offset + 8])
        running = _checksum(little, running, out[body : body + page_bytes])
        struct.pack_into(">2I", out, frame.offset + 16, *running)
    return bytes(out)


def _frames(wal: bytes) -> Iterator[_Frame]:
    """The frames of this WAL's own salt; older ones, left over from before a reset, end it.

    The checksum of each is computed from the *stored* one before it, so that one bad frame does not make
    all later ones look bad.
    """
    if len(wal) < _HEADER.size or _HEADER.unpack_from(wal)[0] not in _MAGICS:
        return
    _, _, page_bytes, _, *salts, _, _ = _HEADER.unpack_from(wal)
    little, running = _is_little(wal), _header_checksum(wal)
    offset = _HEADER.size
    while offset + _FRAME.size + page_bytes <= len(wal):
        page, size_after, *frame_salts, first, second = _FRAME.unpack_from(wal, offset)
        if frame_salts != salts or page == 0:
            return
        body = offset + _FRAME.size
        running = _checksum(little, running, wal[offset : offset + 8])
        running = _checksum(little, running, wal[body : body + page_bytes])
        yield _Frame(offset, size_after > 0, (first, second), running == (first, second))
        running = (first, second)
        offset = body + page_bytes


def _is_little(wal: bytes) -> bool:
    return bool(_HEADER.unpack_from(wal)[0] == _MAGICS[0])


def _header_checksum(wal: bytes) -> tuple[int, int]:
    return _checksum(_is_little(wal), (0, 0), wal[:24])


def _checksum(little: bool, running: tuple[int, int], data: bytes | bytearray) -> tuple[int, int]:
    first, second = running
    words = struct.unpack(f"{'<' if little else '>'}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
