"""Many rows of events in few statements: SQLite gives up the GIL for every step of one."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from gateway.buffer.schema import BufferEvent

# 256 rows of 14 values: the longest statement that apsw's statement cache still takes (16 KiB of text).
ROWS_PER_INSERT = 256

_COLUMNS = tuple(field.name for field in BufferEvent._meta.sorted_fields if field.name != "id")
_BLOBS = {"event_id", "payload"}


def insert_events(connection: apsw.Connection, values: Sequence[object], rows: int) -> None:
    """Insert `rows` events, whose columns stand in `values` one after the other in the order of the table.

    One statement per ROWS_PER_INSERT rows; what remains in statements of 128, 64, … 1 rows, so that only nine
    different texts have to be prepared.
    """
    width, execute = len(_COLUMNS), connection.execute
    size, done = ROWS_PER_INSERT, 0
    while done < rows:
        while size > rows - done:
            size //= 2
        execute(_INSERTS[size], values[done * width : (done + size) * width])
        done += size


def _one_row() -> tuple[str, str]:
    """Return the statement up to its values, and the place holders of one row."""
    fields = [BufferEvent._meta.fields[name] for name in _COLUMNS]
    sql, _ = BufferEvent.insert_many([[b"" if f.name in _BLOBS else 0 for f in fields]], fields).sql()
    head, values, row = str(sql).partition(" VALUES ")
    return head + values, row


_HEAD, _ROW = _one_row()
_INSERTS = {size: _HEAD + ", ".join([_ROW] * size) for size in (1, 2, 4, 8, 16, 32, 64, 128, 256)}
