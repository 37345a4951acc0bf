"""Finds events in the raw pages of a damaged file, where the tree that leads to them is broken.

A lost page in the middle of a tree hides every page below it, the root all of them. The rows are there:

- Only pages of trees are looked at, as the pointer map tells them: free pages still hold what was evicted.
- Only rows that have exactly the columns of an event; whether they are whole their checksum says.

The layout is SQLite's file format (https://sqlite.org/fileformat2.html), sections 1.6, 1.8 and 2.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from gateway.buffer.connection import PAGE_BYTES
from gateway.buffer.schema import BufferEvent

_TABLE_LEAF = 0x0D
_LEAF_HEADER_BYTES = 8
_LARGEST_LOCAL = PAGE_BYTES - 35
_SMALLEST_LOCAL = (PAGE_BYTES - 12) * 32 // 255 - 23
_MAP_ENTRY_BYTES = 5
_PAGES_PER_MAP = PAGE_BYTES // _MAP_ENTRY_BYTES + 1  # the map itself is one of them
_NO_TREE = (2, 3, 4)  # free, and two kinds of overflow
_NUMBER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 8: 0, 9: 0}
_FIRST_BLOB = 12
_UUID_TYPE = _FIRST_BLOB + 2 * 16
_NAMES = [field.name for field in BufferEvent._meta.sorted_fields]
_ID, _EVENT_ID, _DEVICE_TIME, _PAYLOAD = map(_NAMES.index, ("id", "event_id", "device_time", "payload"))

Row = tuple[object, ...]


class Leaf(NamedTuple):
    """The events of one page: where each begins, by its id."""

    pages: Pages
    content: bytes
    places: dict[int, tuple[int, int]]  # where its record begins, and how long it is

    def rows(self) -> Iterator[Row]:
        """The columns of each event, in the order of the table."""
        for id_, (start, size) in self.places.items():
            with suppress(IndexError):  # it points to where nothing is
                columns = _columns(self.pages.record(self.content, start, size))
                if columns is not None:
                    yield (id_, *columns[1:])


class Pages:
    """The pages of a file, which count from 1."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._map_number = 0
        self._map = b""
        self.count = file.seek(0, 2) // PAGE_BYTES

    def leaves(self) -> Iterator[Leaf]:
        """The pages that may hold events."""
        for number in range(3, self.count + 1):
            if self._in_a_tree(number):
                content = self._read(number)
                places = _places(content) if content[0] == _TABLE_LEAF else {}
                if places:
                    yield Leaf(self, content, places)

    def record(self, content: bytes, start: int, size: int) -> bytes:
        """A record of a page, with what of it stands in others. Raises IndexError when it is not whole."""
        if size > self.count * PAGE_BYTES:
            raise IndexError(size)
        local = _local_bytes(size)
        parts, left = [content[start : start + local]], size - local
        following = int.from_bytes(content[start + local : start + local + 4], "big")
        while left > 0:
            if not 1 < following <= self.count:
                raise IndexError(following)
            page = self._read(following)
            parts.append(page[4 : 4 + left])
            left -= PAGE_BYTES - 4
            following = int.from_bytes(page[:4], "big")
        return b"".join(parts)

    def _in_a_tree(self, number: int) -> bool:
        """Return True if the pointer map says that the page is in a tree, or if the map is damaged."""
        map_number = (number - 2) // _PAGES_PER_MAP * _PAGES_PER_MAP + 2
        if number == map_number:
            return False
        if map_number != self._map_number:
            self._map_number, self._map = map_number, self._read(map_number)
        return self._map[(number - map_number - 1) * _MAP_ENTRY_BYTES] not in _NO_TREE

    def _read(self, number: int) -> bytes:
        self._file.seek((number - 1) * PAGE_BYTES)
        return self._file.read(PAGE_BYTES)


def _places(content: bytes) -> dict[int, tuple[int, int]]:
    """Map each id to the start and the length of its record."""
    found: dict[int, tuple[int, int]] = {}
    cells = int.from_bytes(content[3:5], "big")
    for at in range(_LEAF_HEADER_BYTES, min(_LEAF_HEADER_BYTES + 2 * cells, PAGE_BYTES - 1), 2):
        with suppress(IndexError):
            size, after = _varint(content, int.from_bytes(content[at : at + 2], "big"))
            id_, start = _varint(content, after)
            found[id_] = start, size
    return found


def _local_bytes(size: int) -> int:
    """Return the number of bytes of a record that are in its own page."""
    if size <= _LARGEST_LOCAL:
        return size
    local = _SMALLEST_LOCAL + (size - _SMALLEST_LOCAL) % (PAGE_BYTES - 4)
    return local if local <= _LARGEST_LOCAL else _SMALLEST_LOCAL


def _columns(record: bytes) -> Row | None:
    """The columns of a record, None when it is not that of an event. Raises IndexError when it is cut off."""
    end, at = _varint(record, 0)
    types: list[int] = []
    while at < end and len(types) <= len(_NAMES):
        kind, at = _varint(record, at)
        types.append(kind)
    if at != end or not _is_an_event(types):
        return None
    columns: list[object] = []
    for kind in types:
        size = _size(kind)
        columns.append(_value(kind, record[at : at + size]))
        at += size
    return tuple(columns) if at == len(record) else None


def _is_an_event(types: list[int]) -> bool:
    if len(types) != len(_NAMES) or types[_ID] != 0 or types[_EVENT_ID] != _UUID_TYPE:
        return False  # the id is the key of the row, and empty in its record
    payload = types[_PAYLOAD]
    numbers = [kind for at, kind in enumerate(types) if at not in (_ID, _EVENT_ID, _DEVICE_TIME, _PAYLOAD)]
    is_blob = payload >= _FIRST_BLOB and payload % 2 == 0
    device_time = types[_DEVICE_TIME]
    return (
        is_blob
        and all(kind in _NUMBER_BYTES for kind in numbers)
        and (device_time == 0 or device_time in _NUMBER_BYTES)
    )


def _size(kind: int) -> int:
    return (kind - _FIRST_BLOB) // 2 if kind >= _FIRST_BLOB else _NUMBER_BYTES.get(kind, 0)


def _value(kind: int, content: bytes) -> object:
    if kind >= _FIRST_BLOB:
        return content
    if kind == 0:
        return None
    return kind - 8 if kind in (8, 9) else int.from_bytes(content, "big", signed=True)


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends. Raises IndexError at the end of the content."""
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | content[place] & 0x7F
        if content[place] < 0x80:
            return value, place + 1
    return value << 8 | content[at + 8], at + 9
