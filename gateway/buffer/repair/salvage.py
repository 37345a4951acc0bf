"""Takes every row that can still be read out of a damaged buffer, into a fresh one.

A damaged page costs the rows on it. Rows are read by id in stretches; a stretch that fails is halved a few
times, so the rest of a large file is read at full speed. What is still missing then is looked for in the
pages themselves, see `carving`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import apsw

from gateway.buffer.checksum import event_checksum
from gateway.buffer.connection import PAGE_BYTES
from gateway.buffer.migration import SCHEMA_VERSION, VERSION
from gateway.buffer.repair.page_scan import Pages
from gateway.buffer.repair.row_validation import columns, fits
from gateway.buffer.schema import BufferEvent, open_writer
from gateway.core.events import Kind, Status

# What reading a damaged page raises: SQLite's own word, or bytes in a text column that are no text.
UNREADABLE = (apsw.Error, UnicodeDecodeError)
_STRETCH = 512
_SMALLEST_STRETCH = 16
_LARGEST_ID = 1 << 48  # where the number of ids given out is unknown
# In the header of a file: https://sqlite.org/fileformat2.html#the_database_header
_PAGE_COUNT = slice(28, 32)
_FREE_PAGES = slice(32, 40)
_PLAIN_TABLES = (
    *("streams", "dictionaries", "receipts", "losses", "loss_runs", "shed_ranges"),
    *("window_state", "counters", "meta", "undated", "last_payloads", "newest_results"),
    *("sealed_streams", "signed_chains", "signed_records", "alarms", "known_devices", "notifications"),
)

_YOUNGER = {
    "undated",
    "shed_ranges",
    "last_payloads",
    "newest_results",
    "sealed_streams",
    "signed_chains",
    "signed_records",
    "alarms",
    "known_devices",
    "notifications",
}  # than the first version of the schema
_HAS_TABLE = "SELECT 1 FROM sqlite_schema WHERE name = ?"


class Salvage(NamedTuple):
    """The rows that were saved. `lost` counts ids that were given out and cannot be read; some of them may
    have been evicted before, so it is an upper bound."""

    events: int
    corrupt: int  # of these, whose checksum is wrong: kept as CORRUPT, never sent
    lost: int
    tables_lost: tuple[str, ...]


def salvage(damaged: Path, fresh: Path) -> Salvage:
    """Copy what is readable of `damaged`, which is changed for that, into the new file `fresh`.

    Raises apsw.Error when `damaged` cannot be read at all.
    """
    with suppress(apsw.CorruptError, apsw.NotADBError, apsw.SQLError):
        found = _take_over(damaged, fresh)
        if len(found.tables_lost) < len(_PLAIN_TABLES):
            return found
    # The first page says where every table begins. Without it nothing can be read, and all of it is known.
    _replace_first_page(damaged, fresh)
    fresh.unlink()
    return _take_over(damaged, fresh)


def _replace_first_page(damaged: Path, fresh: Path) -> None:
    """Give `damaged` the first page of the new file: both were made by the same statements, so their tables
    begin at the same pages. Where an earlier version made it some do not, and nothing that fits is found."""
    with fresh.open("rb") as file:
        page = bytearray(file.read(PAGE_BYTES))
    with damaged.open("r+b") as file:
        pages = file.seek(0, os.SEEK_END) // PAGE_BYTES
        page[_PAGE_COUNT] = struct.pack(">I", pages)
        page[_FREE_PAGES] = bytes(8)
        file.seek(0)
        file.write(page)


def _take_over(damaged: Path, fresh: Path) -> Salvage:
    target = open_writer(fresh, "full")
    connection = target.connection()
    try:
        _mend_schema(damaged, connection)
        source = _opened(damaged)
    except BaseException:
        target.close()
        raise
    try:
        with connection:
            missing = tuple(name for name in _PLAIN_TABLES if not _copy_table(source, connection, name))
            # Whatever version it was copied from: the tables are those of this one.
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (VERSION, str(SCHEMA_VERSION)))
            _names_from_their_index(source, connection)
            events = corrupt = lost = 0
            for rows, unreadable in _stretches(source):
                kept, wrong = _insert_events(connection, rows)
                events += kept
                corrupt += wrong
                lost += unreadable + len(rows) - kept
            carved, wrong = _carve(damaged, connection, _id_range(source)[1] or _LARGEST_ID)
            events, corrupt, lost = events + carved, corrupt + wrong, max(0, lost - carved)
            _name_lost_streams(connection)
            _skip_numbers(connection, _id_range(source)[1])
            _skip_codecs(connection)
            _recount(connection)
        return Salvage(events, corrupt, lost, missing)
    finally:
        source.close()
        target.close()


def _opened(damaged: Path) -> apsw.Connection:
    source = apsw.Connection(str(damaged), flags=apsw.SQLITE_OPEN_READWRITE)
    source.execute("PRAGMA cell_size_check = 1")
    source.execute("PRAGMA writable_schema = 1")  # else SQLite reads nothing of a file that was cut short
    source.execute("SELECT 1 FROM sqlite_schema LIMIT 0")  # raises when there is nothing to read
    with suppress(*UNREADABLE):
        source.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)  # then the file has all there is
    return source


def _mend_schema(damaged: Path, target: apsw.Connection) -> None:
    """Replace the statements that made the tables in `damaged`, a copy to read from, with those of the fresh
    file: one flipped bit in the name of a column hides a whole table."""
    with closing(_opened(damaged)) as source, suppress(*UNREADABLE):
        known = target.execute("SELECT rowid, type, name, tbl_name, sql FROM sqlite_schema").fetchall()
        names = ",".join(f"'{name}'" for _, _, name, *_ in known)
        for rowid, *entry in known:
            source.execute(
                "UPDATE sqlite_schema SET type = ?, name = ?, tbl_name = ?, sql = ?"  # noqa: S608 - our own names
                f" WHERE name = ? OR (rowid = ? AND name NOT IN ({names}))",
                (*entry, entry[1], rowid),
            )


def _copy_table(source: apsw.Connection, target: apsw.Connection, table: str) -> bool:
    """Copy a small table row by row, what fits and as far as it can be read; whether that was all."""
    target.execute(f"DELETE FROM {table}")  # noqa: S608 - one of our own names
    whole = True
    try:
        if table in _YOUNGER and not source.execute(_HAS_TABLE, (table,)).fetchone():
            return True  # an earlier version wrote the file
        for *row, fitting in source.execute(
            f"SELECT {columns(table)}, {fits(table)} FROM {table} NOT INDEXED"  # noqa: S608 - our own names
        ):
            marks = ",".join("?" * len(row))
            if fitting:
                target.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)  # noqa: S608
            whole &= bool(fitting)
    except UNREADABLE:
        return False
    return whole


def _names_from_their_index(source: apsw.Connection, target: apsw.Connection) -> None:
    """A stream whose row is lost may still have its name in the index; its number comes from its events."""
    found = "INSERT OR IGNORE INTO streams (id, name, last_sequence) VALUES (?, ?, 0)"
    with suppress(*UNREADABLE):
        for row in source.execute(f"SELECT id, name FROM streams INDEXED BY stream_name WHERE {_NAMED}"):  # noqa: S608
            target.execute(found, row)


def _stretches(source: apsw.Connection) -> Iterator[tuple[list[tuple[object, ...]], int]]:
    """(rows, unreadable ids) over all ids that were ever given out."""
    first, last = _id_range(source)
    while first <= last:
        end = min(first + _STRETCH - 1, last)
        yield _read(source, first, end)
        first = end + 1


def _read(source: apsw.Connection, first: int, last: int) -> tuple[list[tuple[object, ...]], int]:
    try:
        return list(source.execute(_SELECT, (first, last))), 0
    except UNREADABLE:
        if last - first < _SMALLEST_STRETCH:
            return [], last - first + 1
    middle = (first + last) // 2
    rows, lost = _read(source, first, middle)
    more, also_lost = _read(source, middle + 1, last)
    return rows + more, lost + also_lost


def _carve(damaged: Path, target: apsw.Connection, last_id: int) -> tuple[int, int]:
    """Take the events that no tree leads to out of their pages; returns how many there were, and how
    many of these are corrupt. A damaged id may be any number: behind `last_id` there is none."""
    events = corrupt = 0
    with damaged.open("rb") as file:
        for leaf in Pages(file).leaves():
            ids = {id_ for id_ in leaf.places if 0 < id_ <= last_id}
            if ids and _one_number(target, _KNOWN, (min(ids), max(ids))) < len(ids):
                kept, wrong = _insert_events(target, [row for row in leaf.rows() if row[0] in ids])
                events, corrupt = events + kept, corrupt + wrong
    return events, corrupt


def _id_range(source: apsw.Connection) -> tuple[int, int]:
    """The first and the last id that may be there; where one cannot be read, a bound that is safe."""
    given_out = _one_number(source, "SELECT seq FROM sqlite_sequence WHERE name = 'buffer_events'")
    last = given_out or _one_number(source, "SELECT max(id) FROM buffer_events")
    return _one_number(source, "SELECT min(id) FROM buffer_events") or 1, last


def _one_number(source: apsw.Connection, sql: str, values: tuple[object, ...] = ()) -> int:
    try:
        row = source.execute(sql, values).fetchone()
    except UNREADABLE:
        return 0
    return row[0] if row and isinstance(row[0], int) else 0


def _insert_events(target: apsw.Connection, rows: Sequence[tuple[object, ...]]) -> tuple[int, int]:
    """Return the number of rows saved, and how many of these are corrupt."""
    kept = corrupt = 0
    for row in rows:
        values = dict(zip(_COLUMNS, row, strict=True))
        if not _is_right(values):
            values["status"] = int(Status.CORRUPT)
        elif values["status"] not in _SETTLED:
            values["status"] = int(Status.PENDING)  # also where a damaged page holds what is no status
        target.execute(_INSERT, tuple(values.values()))
        if target.changes():
            kept += 1
            corrupt += values["status"] == Status.CORRUPT
    return kept, corrupt


def _is_right(values: dict[str, object]) -> bool:
    columns = [values[name] for name in _CHECKED]
    try:
        return event_checksum(*columns) == values["checksum"]  # type: ignore[arg-type]
    except (struct.error, TypeError):  # a damaged page may hold any type in any column
        return False


def _name_lost_streams(target: apsw.Connection) -> None:
    """Events whose stream's name was lost keep their number as a name."""
    target.execute(
        "INSERT INTO streams (id, name, last_sequence)"
        " SELECT stream, 'lost/' || stream, max(sequence_num) FROM buffer_events"
        " WHERE status <> ? AND stream NOT IN (SELECT id FROM streams) GROUP BY stream",
        (int(Status.CORRUPT),),
    )


def _skip_numbers(target: apsw.Connection, given_out: int) -> None:
    """Numbers of lost events must not be given again: the cloud may have those events.

    The table of streams knows all numbers up to the checkpoint; of the events behind it any number may be
    lost in any stream.
    """
    checkpoint = _one_number(target, "SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'checkpoint_id'")
    behind = target.execute("SELECT count(*) FROM buffer_events WHERE id > ?", (checkpoint,)).fetchone()
    lost = max(0, given_out - checkpoint - behind[0]) if behind else 0
    target.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'buffer_events'", (given_out,))
    target.execute(
        "UPDATE streams SET last_sequence = ? + max(last_sequence, coalesce("
        "(SELECT max(sequence_num) FROM buffer_events WHERE stream = streams.id AND status <> ?), 0))",
        (lost, int(Status.CORRUPT)),
    )
    if lost:
        target.execute(
            "INSERT OR REPLACE INTO loss_runs (stream, last_sequence, first_sequence, step, reason)"
            " SELECT id, last_sequence, last_sequence - ? + 1, 1, 'damage' FROM streams",
            (lost,),
        )
    target.execute(
        "INSERT INTO counters SELECT 'skipped', 'damage', ? * count(*) FROM streams WHERE true"
        " ON CONFLICT DO UPDATE SET value = value + excluded.value",
        (lost,),
    )


def _skip_codecs(target: apsw.Connection) -> None:
    """The number of a lost dictionary must not be given to another one: it would read the events wrongly."""
    target.execute(
        "INSERT INTO sqlite_sequence SELECT 'dictionaries', 0 WHERE NOT EXISTS"
        " (SELECT * FROM sqlite_sequence WHERE name = 'dictionaries')"
    )
    target.execute(
        "UPDATE sqlite_sequence SET seq = max(seq, (SELECT coalesce(max(codec), 0) FROM buffer_events"
        " WHERE status <> ?)) WHERE name = 'dictionaries'",
        (int(Status.CORRUPT),),
    )


def _recount(target: apsw.Connection) -> None:
    """Make the counters agree with the rows again; what is missing was evicted by the damage."""
    target.execute("DELETE FROM counters WHERE name = 'status'")
    for status in Status:
        target.execute(
            "INSERT INTO counters SELECT 'status', ?, count(*) FROM buffer_events WHERE status = ?",
            (status.name, int(status)),
        )
    for kind in Kind:
        # Where the counters are lost too, what is here is all that is known to have been appended.
        target.execute(
            "INSERT INTO counters SELECT 'appended', ?, count(*) FROM buffer_events WHERE kind = ?"
            " ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
            (kind.name.lower(), int(kind)),
        )
    target.execute(
        "INSERT INTO counters SELECT 'outcome', 'buffered', value FROM counters"
        " WHERE name = 'appended' AND label = 'raw' ON CONFLICT DO UPDATE SET value = excluded.value"
    )
    target.execute(
        "INSERT INTO counters SELECT 'evicted', 'damage',"
        " (SELECT sum(value) FROM counters WHERE name = 'appended')"
        " - (SELECT coalesce(sum(value), 0) FROM counters WHERE name = 'evicted')"
        " - (SELECT count(*) FROM buffer_events) WHERE true"
        " ON CONFLICT DO UPDATE SET value = value + excluded.value"
    )
    _recount_shed(target)
    _admit_doubt(target)


def _recount_shed(target: apsw.Connection) -> None:
    """The counters say how many messages were shed; for lost ranges the times are unknown."""
    for counter, of_it in (("outcome", "reason = 'sampled'"), ("rejected", "reason <> 'sampled'")):
        target.execute(
            "INSERT INTO counters SELECT ?, reason, sum(messages) FROM shed_ranges"  # noqa: S608 - constants
            f" WHERE {of_it} GROUP BY reason ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
            (counter,),
        )
    target.execute(
        "INSERT INTO shed_ranges (reason, stream, first_ms, last_ms, messages)"
        " SELECT label, '', 0, 0, value - coalesce("
        "(SELECT sum(messages) FROM shed_ranges WHERE reason = label), 0) AS lost FROM counters"
        " WHERE (name = 'rejected' OR name = 'outcome' AND label = 'sampled') AND lost > 0"
    )


def _admit_doubt(target: apsw.Connection) -> None:
    """Record how uncertain the audit is: with lost streams or counters, sequence numbers and counted events
    differ for ever."""
    target.execute(
        "INSERT INTO counters SELECT 'skipped', 'damage', abs(given_out - appended) FROM"
        " (SELECT coalesce(sum(last_sequence), 0) AS given_out FROM streams),"
        " (SELECT coalesce(sum(value), 0) AS appended FROM counters WHERE name = 'appended') WHERE true"
        " ON CONFLICT DO UPDATE SET value = max(value, excluded.value)"
    )


_COLUMNS = tuple(field.name for field in BufferEvent._meta.sorted_fields)
_CHECKED = (
    *("event_id", "stream", "sequence_num", "event_time", "ingest_time", "device_time"),
    *("priority", "kind", "flags", "codec", "payload"),
)
_SETTLED = {int(status) for status in Status} - {int(Status.SYNCING)}
_KNOWN = "SELECT count(*) FROM buffer_events WHERE id BETWEEN ? AND ?"
_NAMED = "name > '' AND typeof(name) = 'text' AND typeof(id) = 'integer'"
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM buffer_events WHERE id BETWEEN ? AND ?"  # noqa: S608
# What a damaged page gives may not even fit the columns: such a row is lost.
_INSERT = f"INSERT OR IGNORE INTO buffer_events VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
