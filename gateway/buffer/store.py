"""The buffer as the writer's thread sees it: append, claim, settle, evict, checkpoint.

Invariants:
- Every method that changes something runs inside `transaction()`; nothing is true before its commit.
- After a rollback `reload()` brings everything that is cached in memory back to what is committed.
- Each status moves as `gateway.delivery.states` says, and its count moves in the same transaction.
- SQLite gives up the GIL for every step of a statement, and gets it back only when another thread lets
  go of it. So each method takes few steps: many rows per INSERT, id lists as one JSON value.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zlib import crc32

import apsw
import orjson
from peewee import PeeweeException

from gateway.buffer.backlog import Backlog
from gateway.buffer.checksum import event_checksum
from gateway.buffer.claims import Claims, first_since
from gateway.buffer.compression import FIRST_DICTIONARY, PayloadCompressor
from gateway.buffer.dropped_messages import DroppedRanges
from gateway.buffer.migration import SCHEMA_VERSION, VERSION
from gateway.buffer.pending_time import PendingTime
from gateway.buffer.proof.losses import Removal, note_losses
from gateway.buffer.reader import BATCH_BYTES, among
from gateway.buffer.receipts import KEPT, Receipts
from gateway.buffer.schema import (
    BUSY_TIMEOUT_S,
    PAGE_BYTES,
    WAL_CHECKPOINT_PAGES,
    BufferEvent,
    CountRow,
    Dictionary,
    MetaRow,
    ReceiptGroup,
    open_writer,
)
from gateway.buffer.streams import Streams
from gateway.core.errors import StoreError
from gateway.core.events import Kind, Priority, Status
from gateway.core.identifiers import EventIds
from gateway.delivery.states import Backoff, DeliveryEvent, target

log = logging.getLogger(__name__)

# 256 rows of 14 values: the longest statement that apsw's statement cache still takes (16 KiB of text).
ROWS_PER_INSERT = 256

_RATIO = "dictionary_{}_permille"
"""In `meta`: what is left of 1000 bytes with a dictionary."""
_LEAST_ROW_BYTES = 64

CHECKPOINT_ID = "checkpoint_id"
_FIRST_FREE = "sequence_floor"
"""In `meta`: so many events were lost together with the names of their streams."""
REPUBLISHED_ID = "republished_id"

_COLUMNS = tuple(field.name for field in BufferEvent._meta.sorted_fields if field.name != "id")


class NewEvent(NamedTuple):
    """What the pipeline hands in. `event_id` None: the store makes a UUIDv7."""

    topic: str
    family: str
    event_time_ms: int
    ingest_time_ms: int
    device_time_ms: int | None
    priority: int
    kind: int
    flags: int
    payload: bytes
    event_id: bytes | None = None


class Store:
    """One open buffer, for one thread at a time. Raises peewee's and apsw's errors as they come."""

    def __init__(
        self,
        path: Path,
        synchronous: Literal["full", "normal"] = "full",
        wal_pages: int = WAL_CHECKPOINT_PAGES,
    ) -> None:
        self.path = path
        self.synchronous = synchronous
        self._wal_pages = wal_pages
        self.receipts = Receipts()
        self.compressor = PayloadCompressor()
        self.counts: Counter[tuple[str, str]] = Counter()
        self._moved: Counter[tuple[str, str]] = Counter()
        self._stored_receipts = 0
        self._ids = EventIds()

    # --- life ---

    def open(self) -> None:
        """Open or create the file. Raises StoreError when it belongs to a newer gateway."""
        self._connect()
        self._begin()

    def _connect(self) -> None:
        self._database = open_writer(self.path, self.synchronous, self._wal_pages)
        self._connection = self._database.connection()
        self._streams = Streams(self._database)
        self._claims = Claims(self._connection)
        self.undated = PendingTime(self._connection)
        self.shed = DroppedRanges(self._connection)

    def _begin(self) -> None:
        with self.transaction():
            self._connection.execute("DELETE FROM refusals WHERE id NOT IN (SELECT id FROM buffer_events)")
            if self.meta_int(VERSION) != SCHEMA_VERSION:
                self.set_meta(VERSION, SCHEMA_VERSION)
            self.reload()

    def reopen(self) -> None:
        """Start from the file again, after the disk failed.

        The old connection is let go of only when the new one is there. Were it the last one, the next one
        would build the index of the write-ahead log anew out of whatever stands in it, and so bring back the
        transaction whose fsync failed, which is about to be tried again.
        """
        failed = self._database
        self._connect()
        with contextlib.suppress(apsw.Error, PeeweeException):
            failed.close()
        self._begin()

    def close(self) -> None:
        self._database.close()

    def empty_wal(self) -> bool:
        """Move the write-ahead log into the file and cut it to nothing; outside of a transaction. False, and
        as much as possible is moved, when a reader still needs some of it."""
        self._connection.set_busy_timeout(0)  # never wait for a reader
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except (apsw.BusyError, apsw.LockedError):
            return False
        finally:
            self._connection.set_busy_timeout(BUSY_TIMEOUT_S * 1000)
        return True

    def reload(self) -> None:
        """Forget what memory holds and read it again from what is committed."""
        self._moved.clear()
        self.counts = Counter({(row.name, row.label): row.value for row in self._on_this(CountRow.select())})
        self._streams.recount(self.meta_int(CHECKPOINT_ID), self.meta_int(_FIRST_FREE))
        self._claims.reload()
        self.undated.reload()
        self.shed.reload()
        groups = self._connection.execute("SELECT entries, count FROM receipts ORDER BY id").fetchall()
        self.receipts.load([entries for entries, _ in groups])
        self._stored_receipts = sum(count for _, count in groups)
        self.compressor.forget()
        for row in self._on_this(Dictionary.select().order_by(Dictionary.codec)):
            if crc32(row.content) == row.checksum:
                permille = self.meta_int(_RATIO.format(row.codec), -1)
                expected = None if permille < 0 else permille / 1000
                self.compressor.install(row.codec, row.family, bytes(row.content), expected)
            else:
                # Not back to an older one: that may be removed, because no new event can need it.
                self.compressor.retire(row.family)
                log.error("dictionary %d of %r is damaged, what it compressed is lost", row.codec, row.family)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """BEGIN IMMEDIATE … COMMIT, or ROLLBACK and re-raise. Call `reload` after a failure.

        IMMEDIATE, because a deferred transaction that turns into a write gets SQLITE_BUSY at once.
        """
        with self._database.atomic("IMMEDIATE"):
            yield
            skipped = self._streams.take_skipped()
            if skipped:
                self.count("skipped", "damage", skipped)
            self._save_receipts()
            self.shed.save()
            self._save_counts()
        self.counts.update(self._moved)
        self._moved.clear()

    # --- events ---

    def append(self, events: Sequence[NewEvent]) -> None:
        """Store `events` as PENDING, in this order, each with the next number of its stream."""
        streams, new_id = self._streams, self._ids.next
        packed = self.compressor.compress_all([e.family for e in events], [e.payload for e in events])
        values: list[object] = []
        for event, (codec, stored) in zip(events, packed, strict=True):
            stream = streams.position(event.topic)
            sequence_num = streams.next_sequence(stream)
            event_id = event.event_id or new_id(event.ingest_time_ms)
            times = (event.event_time_ms, event.ingest_time_ms, event.device_time_ms)
            nature = (event.priority, event.kind, event.flags)
            checksum = event_checksum(event_id, stream.id, sequence_num, *times, *nature, codec, stored)
            values += (event_id, stream.id, sequence_num, *times, 0, *nature, 0, stored, codec, checksum)
        self._insert(values, len(events))
        self._moved["status", Status.PENDING.name] += len(events)

    def count(self, name: str, label: str = "", by: int = 1) -> None:
        """Add to a counter that is committed with this transaction."""
        self._moved[name, label] += by

    def last_id(self) -> int:
        """The id of the newest event that was ever stored."""
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'buffer_events'")
        return int(next(iter(row), (0,))[0])

    def claim(
        self,
        limit: int,
        shard: int = 0,
        shards: int = 1,
        now_ms: int = 0,
        backlog: Backlog | None = None,
        limit_bytes: int = BATCH_BYTES,
    ) -> list[int]:
        """Move up to `limit` PENDING events to SYNCING, most urgent first, then oldest. Returns their ids.

        Together they have at most `limit_bytes` as stored, unless the first one alone is larger. Streams that
        wait after a refusal are left out. While a `backlog` drains, what is young has a share of its own, and
        the result is in the order in which it should be sent.
        """
        if backlog is not None:
            claim = partial(self.move, status=Status.PENDING, happening=DeliveryEvent.CLAIM)
            return self._claims.next_round(backlog, limit, shard, shards, now_ms, claim, limit_bytes)
        claimed = self._claims.next_ids(limit, shard, shards, now_ms, limit_bytes)
        self.move(claimed, Status.PENDING, DeliveryEvent.CLAIM)
        return claimed

    def move(self, ids: Sequence[int], status: Status, happening: DeliveryEvent) -> int:
        """Let `happening` happen to those of `ids` that are `status`; returns how many there were.

        A failure counts as a retry, and a retry by hand starts the count anew. Raises DeliveryError when the
        table does not allow it.
        """
        after = target(status, happening)
        if after is None:
            raise StoreError(f"{happening.value} removes entries; use evict")
        if not ids:
            return 0
        retry = _RETRIES.get(happening, "")
        where, *values = among(ids)
        self._database.execute_sql(
            f"UPDATE buffer_events SET status = ?{retry} WHERE {where} AND status = ?",  # noqa: S608 - constants
            (int(after), *values, int(status)),
        )
        if after is Status.PENDING:
            self._claims.forget()
        return self._moved_to(status, after)

    def reject(self, ids: Sequence[int], reason: str) -> int:
        """The cloud will never take `ids`: they become FAILED. Returns how many did."""
        self._note_refusal(ids, reason)
        return self.move(ids, Status.SYNCING, DeliveryEvent.REJECTION)

    def refuse(self, ids: Sequence[int], reason: str, backoff: Backoff, now_ms: int, chance: float) -> int:
        """The cloud refused `ids`: they go back, and their streams wait; what has no attempts left becomes
        FAILED. Returns how many did. `chance`, in [0, 1), is the jitter."""
        self._note_refusal(ids, reason)
        exhausted = self._claims.hold(ids, backoff, now_ms, chance)
        failed = self.move(exhausted, Status.SYNCING, DeliveryEvent.EXHAUSTED)
        self.move(ids, Status.SYNCING, DeliveryEvent.FAILURE)
        return failed

    def release_all(self) -> int:
        """After a restart: whatever was SYNCING failed. Returns how many entries went back."""
        self._database.execute_sql(
            "UPDATE buffer_events SET status = ?, retry_count = retry_count + 1"
            " WHERE status = ? AND status < 2",
            (int(target(Status.SYNCING, DeliveryEvent.FAILURE) or 0), int(Status.SYNCING)),
        )
        self._claims.forget()
        return self._moved_to(Status.SYNCING, Status.PENDING)

    def evict_synced(self, from_id: int, to_id: int, older_than_ms: int) -> int:
        """Remove the SYNCED events of an id range that arrived before `older_than_ms`."""
        where = "id BETWEEN ? AND ? AND status = ? AND ingest_time < ?"
        values = (from_id, to_id, int(Status.SYNCED), older_than_ms)
        self._forget_refusals(where, values)
        self._database.execute_sql(f"DELETE FROM buffer_events WHERE {where}", values)  # noqa: S608 - constants
        removed = int(self._connection.changes())
        self._moved["status", Status.SYNCED.name] -= removed
        self._moved["evicted", "synced"] += removed
        return removed

    def events_that_are(self, *statuses: Status) -> int:
        """How many events have one of these statuses, with what this transaction has changed."""
        names = [("status", status.name) for status in statuses]
        return sum(self.counts[each] + self._moved[each] for each in names)

    def waiting_events(self) -> int:
        """How many events the cloud does not have yet, with what this transaction has changed."""
        return self.events_that_are(Status.PENDING, Status.SYNCING)

    def used_bytes(self) -> int:
        """How much of the file is in use, without the pages that are free."""
        return (self._number("PRAGMA page_count") - self.free_pages()) * PAGE_BYTES

    def free_pages(self) -> int:
        """Pages of the file that hold nothing."""
        return self._number("PRAGMA freelist_count")

    def changes(self) -> int:
        """How many rows were changed since the file was opened."""
        return int(self._connection.total_changes())

    def row_bytes(self) -> int:
        """What an event takes in the file, on average and at least."""
        rows = sum(self.counts["status", status.name] for status in Status)
        return max(_LEAST_ROW_BYTES, self.used_bytes() // max(1, rows))

    def thin(self, from_id: int, to_id: int, keep_one_in: int, priority: int) -> Removal:
        """Remove PENDING raw events of that priority or lower in an id range, but one in `keep_one_in` of
        each stream."""
        return self.evict(
            "thinned",
            Status.PENDING,
            "id BETWEEN ? AND ? AND status = ? AND kind = ? AND priority >= ? AND sequence_num % ? <> 0",
            (from_id, to_id, int(Status.PENDING), int(Kind.RAW), priority, keep_one_in),
        )

    def halve(
        self, reason: str, from_id: int, to_id: int, level: int, priority: int, before_ms: int
    ) -> Removal:
        """Where of each stream one in 2 ** (level - 1) is left, leave one in 2 ** level: of the PENDING raw
        events of that priority or lower in an id range that arrived before `before_ms`. Each level takes
        numbers with one step, so what is lost stays one run."""
        return self.evict(
            reason,
            Status.PENDING,
            "id BETWEEN ? AND ? AND status = ? AND kind = ? AND priority >= ? AND ingest_time < ?"
            " AND sequence_num % ? = ?",
            (
                *(from_id, to_id, int(Status.PENDING), int(Kind.RAW), priority, before_ms),
                *(2**level, 2 ** (level - 1)),
            ),
        )

    def oldest_raw_pending(self, priority: int, to_id: int) -> int | None:
        """The id of the oldest PENDING raw event of that priority or lower."""
        (first_id,) = self._connection.execute(
            "SELECT min(id) FROM (SELECT (SELECT id FROM buffer_events WHERE status = ? AND status < 2"
            " AND priority = value AND kind = ? AND id <= ? ORDER BY id LIMIT 1) AS id FROM json_each(?))",
            (
                *(int(Status.PENDING), int(Kind.RAW), to_id),
                orjson.dumps([int(each) for each in Priority if each >= priority]).decode(),
            ),
        ).fetchone() or (None,)
        return first_id

    def oldest_pending(self, priority: int, to_id: int, limit: int) -> list[int]:
        """The ids of the oldest PENDING events of one priority."""
        (ids,) = self.arrays(
            "SELECT json_group_array(id) FROM (SELECT id FROM buffer_events WHERE status = ? AND status < 2"
            " AND priority = ? AND id <= ? ORDER BY id LIMIT ?)",
            (int(Status.PENDING), priority, to_id, limit),
        )
        return ids

    def drop_pending(self, ids: Sequence[int]) -> Removal:
        """Remove those of `ids` that are PENDING, for want of room."""
        return self.evict(
            "oldest",
            Status.PENDING,
            "id IN (SELECT value FROM json_each(?)) AND status = ?",
            (orjson.dumps(list(ids)).decode(), int(Status.PENDING)),
        )

    def oldest_kept(self, status: Status, to_id: int, limit: int) -> list[int]:
        """The ids of the oldest events that are FAILED, or CORRUPT."""
        (ids,) = self.arrays(
            "SELECT json_group_array(id) FROM (SELECT id FROM buffer_events"
            " WHERE status = ? AND status > 2 AND id <= ? ORDER BY id LIMIT ?)",
            (int(status), to_id, limit),
        )
        return ids

    def give_up(self, status: Status, ids: Sequence[int]) -> Removal:
        """Remove those of `ids` that are `status`, FAILED or CORRUPT, for want of room."""
        target(status, DeliveryEvent.EVICT)
        return self.evict(
            status.name.lower(),
            status,
            "id IN (SELECT value FROM json_each(?)) AND status = ?",
            (orjson.dumps(list(ids)).decode(), int(status)),
        )

    def give_back(self, pages: int) -> int:
        """Return up to `pages` free pages to the file system; returns how many there were."""
        free = self.free_pages()
        if free:
            # Each step frees one page: the statement must be run to its end.
            self._connection.execute(f"PRAGMA incremental_vacuum({int(pages)})").fetchall()
        return free

    def _number(self, sql: str) -> int:
        ((number,),) = self._connection.execute(sql)
        return int(number)

    def evict(self, reason: str, status: Status, where: str, values: tuple[object, ...]) -> Removal:
        """Remove events, which `where` says to be `status`, and note per stream and reason what is lost.
        Whether the state table allows it is for the caller to ask."""
        lost = note_losses(self._connection, reason, where, values)
        self._forget_refusals(where, values)
        self._database.execute_sql(f"DELETE FROM buffer_events WHERE {where}", values)  # noqa: S608
        removed = int(self._connection.changes())
        self._moved["status", status.name] -= removed
        self._moved["evicted", reason] += removed
        return lost._replace(events=removed)

    # --- changes by hand; see `by_hand` and `restore` ---

    def skip_numbers(self, last_id: int, last_sequences: str) -> None:
        """Give out no id up to `last_id`, and no sequence number up to those of `last_sequences`, a JSON
        array of [topic, number]. Those that are skipped are counted: the audit must know of them."""
        self._database.execute_sql(
            "INSERT INTO sqlite_sequence (name, seq) SELECT 'buffer_events', 0 WHERE NOT EXISTS"
            " (SELECT 1 FROM sqlite_sequence WHERE name = 'buffer_events')"
        )
        self._database.execute_sql(
            "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'buffer_events'", (last_id,)
        )
        self.count("skipped", "restore", self._streams.skip(last_sequences))

    def skip_lost(self, last_id: int) -> None:
        """Events up to `last_id` are lost, nobody knows of which streams: give out none of their ids, and in
        each stream none of the numbers that they may have had. Streams that are met later begin as far on."""
        lost = last_id - self.last_id()
        self.skip_numbers(last_id, "[]")
        self.set_meta(_FIRST_FREE, self._streams.floor + lost)
        self._streams.skip_all(lost)

    def release_held(self) -> int:
        """Let no stream wait any longer; returns how many did."""
        return self._claims.release()

    def file_bytes(self) -> int:
        """How large the file is, once all that is in the log is in it."""
        return self._number("PRAGMA page_count") * PAGE_BYTES

    # --- positions ---

    def first_from(self, from_id: int) -> tuple[int, int] | None:
        """(id, ingest time) of the oldest event at or behind `from_id`."""
        row = self._connection.execute(
            "SELECT id, ingest_time FROM buffer_events WHERE id >= ? ORDER BY id LIMIT 1", (from_id,)
        ).fetchone()
        return row if row is None else (int(row[0]), int(row[1]))

    def first_since(self, time_ms: int) -> int:
        """The id of the first event that arrived at `time_ms` or later."""
        return first_since(self._connection, time_ms)

    # --- checkpoint, receipts, dictionaries, single values ---

    def checkpoint(self, window_changes: Iterable[tuple[str, bytes, bytes | None]]) -> int:
        """Store changed window states and sequence numbers as of the newest event; returns its id."""
        self.save_windows(window_changes)
        included = self.last_id()
        self.set_meta(CHECKPOINT_ID, included)
        return included

    def save_windows(self, changes: Iterable[tuple[str, bytes, bytes | None]]) -> None:
        """Store changed window states, and sequence numbers; a `checkpoint` has to follow in the same
        transaction."""
        kept, gone = [], []
        for window, key, state in changes:
            if state is None:
                gone.append((window, key))
            else:
                kept.append((window, key, state))
        self._connection.executemany("REPLACE INTO window_state VALUES (?, ?, ?)", kept)
        self._connection.executemany('DELETE FROM window_state WHERE "window" = ? AND key = ?', gone)
        self._streams.save()

    def window_states(self) -> Iterator[tuple[str, bytes, bytes]]:
        """The (window, key, state) rows of the last checkpoint, in the order of window and key, one by one:
        there may be millions."""
        yield from self._connection.execute(
            'SELECT "window", key, state FROM window_state ORDER BY "window", key'
        )

    def window_state(self, window: str, key: bytes) -> bytes | None:
        """One row of the last checkpoint. Called for keys that the windows do not hold in memory."""
        row = self._connection.execute(
            'SELECT state FROM window_state WHERE "window" = ? AND key = ?', (window, key)
        ).fetchone()
        return None if row is None else bytes(row[0])

    def forget_receipts(self) -> None:
        """The broker started a new session: its packet ids mean nothing to us."""
        self.receipts.clear()
        self._on_this(ReceiptGroup.delete()).execute()
        self._stored_receipts = 0

    def install_dictionary(
        self, family: str, content: bytes, now_ms: int, expected: float | None = None
    ) -> None:
        """Store a dictionary and compress `family` with it from now on; it is expected to give that ratio."""
        # Never a number that was given before: events may have it whose dictionary is lost.
        given = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'dictionaries'")
        codec = max(FIRST_DICTIONARY, int(next(iter(given), (0,))[0]) + 1)
        columns = {"codec": codec, "family": family, "content": content, "trained_at": now_ms}
        self._on_this(Dictionary.insert(**columns, checksum=crc32(content))).execute()
        self.compressor.install(codec, family, content, expected)
        if expected is not None:
            self.set_meta(_RATIO.format(codec), round(1000 * expected))

    def keep_dictionary(self, family: str, ratio: float) -> None:
        """Put up with the dictionary that `family` has, which gives that ratio: there is no better one."""
        codec = self.compressor.expect(family, ratio)
        if codec is not None:
            self.set_meta(_RATIO.format(codec), round(1000 * ratio))

    def forget_dictionaries(self, codecs: Iterable[int]) -> int:
        """Remove dictionaries that no event needs, unless their family is compressed with them; how many."""
        unused = self.compressor.superseded.intersection(codecs)
        self._on_this(Dictionary.delete().where(Dictionary.codec.in_(list(unused)))).execute()
        names = [_RATIO.format(codec) for codec in unused]
        self._on_this(MetaRow.delete().where(MetaRow.name.in_(names))).execute()
        self.compressor.superseded -= unused
        return len(unused)

    def meta_int(self, name: str, default: int = 0) -> int:
        row = self._on_this(MetaRow.select().where(MetaRow.name == name)).first()
        return default if row is None else int(row.value)

    def set_meta(self, name: str, value: int) -> None:
        self._on_this(MetaRow.replace(name=name, value=str(value))).execute()  # type: ignore[no-untyped-call]

    # --- inside ---

    def _on_this(self, query: Any) -> Any:
        """The query on this store's file: a model by itself belongs to none, there may be several stores."""
        return query.bind(self._database)

    def _insert(self, values: list[object], rows: int) -> None:
        """One statement per ROWS_PER_INSERT rows; what remains in statements of 128, 64, … 1 rows, so that
        only nine different texts have to be prepared."""
        width, execute = len(_COLUMNS), self._connection.execute
        size, done = ROWS_PER_INSERT, 0
        while done < rows:
            while size > rows - done:
                size //= 2
            execute(_INSERTS[size], values[done * width : (done + size) * width])
            done += size

    def _note_refusal(self, ids: Sequence[int], reason: str) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO refusals (id, reason) SELECT value, ? FROM json_each(?)",
            (reason, orjson.dumps(list(ids)).decode()),
        )

    def _forget_refusals(self, where: str, values: tuple[object, ...]) -> None:
        """Of events that are about to be removed. Almost always there are none, and then it costs nothing."""
        if self._connection.execute("SELECT 1 FROM refusals LIMIT 1").fetchone():
            self._connection.execute(
                f"DELETE FROM refusals WHERE id IN (SELECT id FROM buffer_events WHERE {where})",  # noqa: S608
                values,
            )

    def _moved_to(self, status: Status, after: Status) -> int:
        changed = int(self._connection.changes())
        self._moved["status", status.name] -= changed
        self._moved["status", after.name] += changed
        return changed

    def arrays(self, sql: str, values: tuple[object, ...]) -> list[list[Any]]:
        """The one row that a SELECT of JSON arrays gives."""
        return list(map(orjson.loads, self._connection.execute(sql, values).fetchone()))

    def _save_receipts(self) -> None:
        group = self.receipts.take_group()
        if group is not None:
            self._on_this(ReceiptGroup.insert(count=group[0], entries=group[1])).execute()
            self._stored_receipts += group[0]
        if self._stored_receipts >= 2 * KEPT:  # seldom: it looks at each group
            self._prune_receipts()

    def _prune_receipts(self) -> None:
        """Delete the groups of which no receipt is among the newest KEPT."""
        self._database.execute_sql(
            "DELETE FROM receipts WHERE id IN (SELECT id FROM"
            " (SELECT id, sum(count) OVER (ORDER BY id DESC) - count AS newer FROM receipts)"
            " WHERE newer >= ?)",
            (KEPT,),
        )
        self._stored_receipts = int(
            self._connection.execute("SELECT coalesce(sum(count), 0) FROM receipts").fetchone()[0]
        )

    def _save_counts(self) -> None:
        moved = [[name, label, by] for (name, label), by in self._moved.items() if by]
        if moved:
            self._database.execute_sql(
                "INSERT INTO counters (name, label, value)"
                " SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),"
                " json_extract(value, '$[2]') FROM json_each(?) WHERE true"
                " ON CONFLICT (name, label) DO UPDATE SET value = value + excluded.value",
                (orjson.dumps(moved).decode(),),
            )


_RETRIES = {
    DeliveryEvent.FAILURE: ", retry_count = retry_count + 1",
    DeliveryEvent.RETRY: ", retry_count = 0",
}


def _insert_sql(rows: int) -> str:
    fields = [BufferEvent._meta.fields[name] for name in _COLUMNS]
    sql, _ = BufferEvent.insert_many([[b"" if f.name in _BLOBS else 0 for f in fields]] * rows, fields).sql()
    return str(sql)


_BLOBS = {"event_id", "payload"}
_INSERTS = {size: _insert_sql(size) for size in (1, 2, 4, 8, 16, 32, 64, 128, 256)}
