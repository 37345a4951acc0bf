"""The file `history.db`: results in the order of their ids, new ones as rows, older ones in packed segments.

Invariants:
- One thread writes, `keeper`. A result, the position up to which the buffer was read, and the counters are
  written in one transaction: nothing is stored twice.
- A segment holds all results between two ids, one block per series. It is removed whole, the oldest first.
- The file is never needed to deliver anything: it is written without waiting for the disk at each commit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import orjson

from gateway.buffer.connection import BUSY_TIMEOUT_S, PAGE_BYTES
from gateway.buffer.history.blocks import PastResult, pack
from gateway.buffer.stored_events import fitting
from gateway.core.errors import StoreError

FILE_NAME = "history.db"
VERSION = 1
"""Of the tables below."""
PACKED_AT_ROWS = 60_000
"""Rows that wait for packing: some 15 MB."""
PACKED_AFTER_MS = 3_600_000
_READ_AT_ONCE = 4000
_BLOCK_BYTES = 4 * 1024 * 1024
_LOG_PAGES = 1000
_VACUUM_PAGES = 2048
_TABLES = """
CREATE TABLE IF NOT EXISTS series (id INTEGER PRIMARY KEY, topic TEXT NOT NULL UNIQUE, last_sequence INTEGER);
CREATE TABLE IF NOT EXISTS fresh (id INTEGER PRIMARY KEY, series INTEGER NOT NULL, time_ms INTEGER NOT NULL,
  stored_ms INTEGER NOT NULL, payload TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS segments (id INTEGER PRIMARY KEY, first_id INTEGER NOT NULL,
  last_id INTEGER NOT NULL, from_ms INTEGER NOT NULL, to_ms INTEGER NOT NULL, stored_ms INTEGER NOT NULL,
  results INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS blocks (id INTEGER PRIMARY KEY, segment INTEGER NOT NULL, series INTEGER NOT NULL,
  from_ms INTEGER NOT NULL, to_ms INTEGER NOT NULL, results INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS blocks_of_segment ON blocks (segment, series);
CREATE TABLE IF NOT EXISTS numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO numbers VALUES ('version', 1), ('position', 0), ('offset', 0), ('stored', 0),
  ('missed', 0), ('removed_age', 0), ('removed_size', 0), ('removed_disk', 0);
"""


class NewResult(NamedTuple):
    """A result out of the buffer, with its number in its stream."""

    result: PastResult
    sequence: int
    stored_ms: int


class ResultsFile:
    """The open file, for the thread that writes it. Passes on apsw's errors.

    Raises StoreError when the file belongs to a newer gateway.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = apsw.Connection(str(path))
        try:
            self._prepare(path)
        except BaseException:
            self._connection.close(force=True)
            raise

    def _prepare(self, path: Path) -> None:
        connection = self._connection
        connection.set_busy_timeout(BUSY_TIMEOUT_S * 1000)
        for pragma in (
            *(f"page_size = {PAGE_BYTES}", "auto_vacuum = incremental", "journal_mode = wal"),
            *("synchronous = normal", f"wal_autocheckpoint = {_LOG_PAGES}", "cache_size = -4096"),
            f"journal_size_limit = {_LOG_PAGES * PAGE_BYTES}",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        path.chmod(0o600)
        connection.execute(_TABLES).fetchall()
        self._numbers = dict(connection.execute("SELECT name, value FROM numbers"))
        if self._numbers["version"] > VERSION:
            raise StoreError(f"{path} belongs to a newer gateway", hint="move it away, or update the gateway")
        self._series = {topic: (number, last) for number, topic, last in self._all_series()}

    def _all_series(self) -> Iterable[tuple[int, str, int]]:
        return self._connection.execute("SELECT id, topic, last_sequence FROM series")

    def close(self) -> None:
        self._connection.close()

    # --- what is known ---

    @property
    def numbers(self) -> dict[str, int]:
        """The counters by name: stored, missed, removed_age, removed_size, removed_disk; the position in the
        buffer, and the offset of its ids."""
        return dict(self._numbers)

    def held(self) -> int:
        """Return how many results are here."""
        removed = [count for name, count in self._numbers.items() if name.startswith("removed_")]
        return int(self._numbers["stored"] - sum(removed))

    def used_bytes(self) -> int:
        """Return the size of what is in use, free pages of the file left out."""
        pages, free = (self._value(f"PRAGMA {name}") or 0 for name in ("page_count", "freelist_count"))
        return (pages - free) * PAGE_BYTES

    def oldest_ms(self) -> int | None:
        """Return when the oldest result arrived."""
        return self._value(
            "SELECT min(oldest) FROM (SELECT min(stored_ms) AS oldest FROM fresh"
            " UNION ALL SELECT (SELECT stored_ms FROM segments ORDER BY id LIMIT 1))"
        )

    # --- changes ---

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """BEGIN IMMEDIATE … COMMIT, or everything as it was."""
        before = dict(self._numbers), dict(self._series)
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            changed = [[name, value] for name, value in self._numbers.items() if value != before[0][name]]
            self._run_for(
                "INSERT OR REPLACE INTO numbers SELECT value ->> 0, value ->> 1 FROM json_each(?)", changed
            )
            self._connection.execute("COMMIT")
        except BaseException:
            self._numbers, self._series = before
            if not self._connection.get_autocommit():
                self._connection.execute("ROLLBACK")
            raise

    def begin_again(self) -> None:
        """The buffer is another one, whose ids begin anew: read it from its start. What is added to its ids
        keeps the results in their order."""
        with self.transaction():
            self._numbers["offset"] += self._numbers["position"]
            self._numbers["position"] = 0
            self._series = {topic: (number, 0) for topic, (number, _) in self._series.items()}
            self._connection.execute("UPDATE series SET last_sequence = 0")

    def add(self, found: Sequence[NewResult], position: int) -> None:
        """Store results, and that the buffer was read up to `position`; inside a transaction."""
        rows = []
        for result, sequence, stored_ms in found:
            series, last = self._known(result.topic)
            self._numbers["missed"] += max(0, sequence - last - 1) if last else 0
            self._series[result.topic] = (series, sequence)
            rows.append(
                [
                    result.id + self._numbers["offset"],
                    series,
                    result.time_ms,
                    stored_ms,
                    result.payload.decode(),
                ]
            )
        self._run_for(
            "INSERT INTO fresh SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4"
            " FROM json_each(?)",
            rows,
        )
        self._run_for(
            "UPDATE series SET last_sequence = found.last FROM"
            " (SELECT value ->> 0 AS id, value ->> 1 AS last FROM json_each(?)) AS found"
            " WHERE series.id = found.id",
            [[*self._series[topic]] for topic in {one.result.topic for one in found}],
        )
        self._numbers["stored"] += len(rows)
        self._numbers["position"] = position

    def _known(self, topic: str) -> tuple[int, int]:
        if topic not in self._series:
            self._connection.execute("INSERT INTO series (topic, last_sequence) VALUES (?, 0)", (topic,))
            self._series[topic] = (self._connection.last_insert_rowid(), 0)
        return self._series[topic]

    def is_packing_due(self, now_ms: int) -> bool:
        """Return True if many rows wait for packing, or some have for an hour."""
        oldest_ms = self._value("SELECT stored_ms FROM fresh ORDER BY id LIMIT 1")
        if oldest_ms is None:
            return False
        return now_ms - oldest_ms >= PACKED_AFTER_MS or self._fresh_rows() >= PACKED_AT_ROWS

    def pack_fresh(self, rest: Callable[[], object] = lambda: None) -> int:
        """Put up to PACKED_AT_ROWS of the oldest rows into a segment; return how many. Calls `rest` after
        each part of the work; raises what that raises, and has changed nothing."""
        ids, series = self._arrays(
            "SELECT json_group_array(id), json_group_array(series) FROM"
            " (SELECT id, series FROM fresh ORDER BY id LIMIT ?)",
            PACKED_AT_ROWS,
        )
        if not ids:
            return 0
        blocks = []
        for some in _parted(ids, series):
            blocks += self._blocks(some)
            rest()
        with self.transaction():
            self._save_segment(ids, blocks)
        return len(ids)

    def _blocks(self, ids: Sequence[int]) -> list[tuple[int, int, int, int, bytes]]:
        """(series, first and last time, results, block) of those rows."""
        columns = self._arrays(
            "SELECT json_group_array(id), json_group_array(series), json_group_array(time_ms),"
            " json_group_array(payload) FROM (SELECT * FROM fresh"
            " WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id)",
            orjson.dumps(ids).decode(),
        )
        by_series: dict[int, list[tuple[int, int, bytes]]] = defaultdict(list)
        for buffer_id, series, time_ms, payload in zip(*columns, strict=True):
            by_series[series].append((buffer_id, time_ms, payload.encode()))
        found = []
        for series, rows in by_series.items():
            sizes = [len(payload) for _, _, payload in rows]
            start = 0
            while start < len(rows):
                end = start + fitting(sizes[start:], _BLOCK_BYTES)
                of_ids, times_ms, payloads = zip(*rows[start:end], strict=True)
                block = pack(of_ids, times_ms, payloads)
                found.append((series, min(times_ms), max(times_ms), end - start, block))
                start = end
        return found

    def _save_segment(self, ids: Sequence[int], blocks: list[tuple[int, int, int, int, bytes]]) -> None:
        newest_ms = self._value("SELECT stored_ms FROM fresh WHERE id = ?", ids[-1])
        bounds = min(one[1] for one in blocks), max(one[2] for one in blocks)
        self._connection.execute(
            "INSERT INTO segments (first_id, last_id, from_ms, to_ms, stored_ms, results)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (ids[0], ids[-1], *bounds, newest_ms, len(ids)),
        )
        segment = self._connection.last_insert_rowid()
        self._connection.executemany(
            "INSERT INTO blocks (segment, series, from_ms, to_ms, results, data) VALUES (?, ?, ?, ?, ?, ?)",
            ((segment, *block) for block in sorted(blocks)),
        )
        self._connection.execute("DELETE FROM fresh WHERE id <= ?", (ids[-1],))

    def remove_before(self, stored_ms: int) -> int:
        """Remove segments all of whose results arrived before `stored_ms`; return how many results went."""
        oldest = self._oldest_segment()
        if oldest is None or oldest[2] >= stored_ms:
            return 0
        return self._remove(oldest, "age")

    def remove_oldest(self, reason: str) -> int:
        """Remove the oldest segment for want of room, of the history's own (`size`) or of the disk (`disk`);
        return how many results went."""
        oldest = self._oldest_segment()
        return 0 if oldest is None else self._remove(oldest, reason)

    def _oldest_segment(self) -> tuple[int, int, int] | None:
        """(id, results, arrival of its newest result)."""
        return self._connection.execute(
            "SELECT id, results, stored_ms FROM segments ORDER BY id LIMIT 1"
        ).fetchone()

    def _remove(self, segment: tuple[int, int, int], reason: str) -> int:
        number, results, _ = segment
        with self.transaction():
            self._connection.execute("DELETE FROM blocks WHERE segment = ?", (number,))
            self._connection.execute("DELETE FROM segments WHERE id = ?", (number,))
            self._numbers[f"removed_{reason}"] += results
        return results

    def give_back(self) -> None:
        """Give some free pages back to the file system."""
        self._connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    # --- inside ---

    def _fresh_rows(self) -> int:
        return self._value("SELECT count(*) FROM fresh") or 0

    def _value(self, sql: str, *values: object) -> int | None:
        row = self._connection.execute(sql, values).fetchone()
        return None if row is None or row[0] is None else int(row[0])

    def _arrays(self, sql: str, *values: object) -> list[list[Any]]:
        return list(map(orjson.loads, next(self._connection.execute(sql, values))))

    def _run_for(self, sql: str, rows: Sequence[object]) -> None:
        if rows:
            self._connection.execute(sql, (orjson.dumps(rows).decode(),))


def _parted(ids: Sequence[int], series: Sequence[int]) -> Iterator[list[int]]:
    """The ids in parts of some thousands, those of a series beside each other."""
    by_series: dict[int, list[int]] = defaultdict(list)
    for buffer_id, number in zip(ids, series, strict=True):
        by_series[number].append(buffer_id)
    together = [*chain.from_iterable(by_series.values())]
    for start in range(0, len(together), _READ_AT_ONCE):
        yield together[start : start + _READ_AT_ONCE]
