"""Checks that the small tables and their indexes are whole, and that their rows hold valid values.

SQLite checks the structure of pages, not what stands in them: a flipped byte turns a number into a text or a
text into bytes that are none, and `quick_check` says "ok". Events need none of this, they have a checksum.
"""

from __future__ import annotations

import apsw

from gateway.buffer.identity import BUFFER_ID, GATEWAY_ID, ID_BYTES
from gateway.buffer.orm import BlobField, Field, Model, TextField
from gateway.buffer.schema import MODELS, BufferEvent, MetaRow, ReceiptGroup

SMALL: dict[str, type[Model]] = {
    model._meta.table_name: model for model in MODELS if model is not BufferEvent
}
_EVENTS = BufferEvent._meta.table_name
_EVENT_COLUMNS = ", ".join(field.column_name for field in BufferEvent._meta.sorted_fields)
_EXTRA = {
    # All are numbers, except the ids of the buffer and its gateway.
    MetaRow: f"(value = CAST(CAST(value AS INTEGER) AS TEXT) OR name = '{GATEWAY_ID}' OR name = '{BUFFER_ID}'"
    f" AND length(value) = {2 * ID_BYTES} AND value NOT GLOB '*[^0-9a-f]*')",
    ReceiptGroup: "length(entries) = 8 * count",
}


def unfit(connection: apsw.Connection) -> str:
    """The first table with a row that does not fit, in a few words; empty when there is none.

    Raises apsw's errors and UnicodeDecodeError where not even that can be read.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if _EVENTS not in tables:
        return ""  # nothing was ever stored
    connection.execute(f"SELECT {_EVENT_COLUMNS} FROM {_EVENTS} LIMIT 0")  # noqa: S608 - are they all there?
    for table in tables & SMALL.keys():  # one of an older version does not have all of them
        ((count,),) = connection.execute(
            f"SELECT count(*) FROM {table} NOT INDEXED WHERE NOT ({fits(table)})"  # noqa: S608 - our own names
        )
        if count:
            return f"{count} rows of {table} do not fit its columns"
        _read_texts(connection, table)
        ((found,),) = connection.execute(f"PRAGMA integrity_check([{table}])").fetchall()[:1]
        if found != "ok":  # its index, for instance: what it does not find would be given a number twice
            return str(found)
    ((count,),) = connection.execute("SELECT count(*) FROM sqlite_sequence WHERE typeof(seq) <> 'integer'")
    return f"{count} rows of sqlite_sequence hold no number" if count else ""


def fits(table: str) -> str:
    """A condition of SQL: every column of a row of this small table holds what it is for.

    Its names stand in brackets: in quotes SQLite takes one that it does not know for a text.
    """
    model = SMALL[table]
    conditions = [f"typeof([{field.column_name}]) = '{_type(field)}'" for field in model._meta.sorted_fields]
    return " AND ".join([*conditions, _EXTRA.get(model, "true")])


def columns(table: str) -> str:
    """The columns of a small table, for a SELECT."""
    return ", ".join(f"[{field.column_name}]" for field in SMALL[table]._meta.sorted_fields)


def _type(field: Field) -> str:
    if isinstance(field, TextField):
        return "text"
    return "blob" if isinstance(field, BlobField) else "integer"


def _read_texts(connection: apsw.Connection, table: str) -> None:
    """Raises UnicodeDecodeError where one is none. SQLite itself takes any bytes for a text."""
    texts = [f"[{f.column_name}]" for f in SMALL[table]._meta.sorted_fields if isinstance(f, TextField)]
    if texts:
        for _ in connection.execute(f"SELECT {', '.join(texts)} FROM {table} NOT INDEXED"):  # noqa: S608
            pass
