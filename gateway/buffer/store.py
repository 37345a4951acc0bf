"""The buffer as the writer's thread sees it: append, claim, settle, checkpoint.

Invariants:
- Every method that changes something runs inside `transaction()`; nothing is true before its commit.
- After a rollback `reload()` brings everything that is cached in memory back to what is committed.
- Each status moves as `gateway.delivery.states` says, and its count moves in the same transaction.
- SQLite gives up the GIL for every step of a statement, and gets it back only when another thread lets
  go of it. So each method takes few steps: many rows per INSERT, id lists as one JSON value.

What leaves the buffer does so through `removals`; `search` finds what may. `file` is the space on the disk,
`windows` the checkpointed window states, `dictionaries` those of the compressor, `undated` and `dropped` the
messages that wait for a time or were not taken in, `evidence` the signed audit records that wait, `alarms`
the alarms with their states.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import apsw
import orjson

from gateway.buffer.alarm_table import AlarmTable
from gateway.buffer.backlog import Backlog
from gateway.buffer.claims import Claims
from gateway.buffer.compression import PayloadCompressor
from gateway.buffer.confirmed_runs import ConfirmedRuns
from gateway.buffer.connection import PAGE_CACHE_BYTES, WAL_CHECKPOINT_PAGES
from gateway.buffer.dropped_messages import DroppedRanges
from gateway.buffer.event_search import EventSearch
from gateway.buffer.evidence_table import EvidenceTable
from gateway.buffer.file_space import FileSpace
from gateway.buffer.identity import BufferIdentity
from gateway.buffer.insertion import insert_events
from gateway.buffer.known_devices import KnownDevices
from gateway.buffer.migration import SCHEMA_VERSION, VERSION
from gateway.buffer.newest_results import Row, save_newest
from gateway.buffer.notification_table import NotificationTable
from gateway.buffer.orm import PeeweeException
from gateway.buffer.pending_time import PendingTime
from gateway.buffer.receipts import Receipts, ReceiptTable
from gateway.buffer.removals import Removals
from gateway.buffer.repair.rescue import is_displaced, rescue
from gateway.buffer.row_builder import NewRow, column_values
from gateway.buffer.schema import open_writer
from gateway.buffer.stored_dictionaries import StoredDictionaries
from gateway.buffer.stored_events import BATCH_BYTES, among
from gateway.buffer.streams import Streams, payload_mark
from gateway.buffer.tally import Tally
from gateway.buffer.window_states import WindowStates
from gateway.buffer.windows_aside import WindowsAside
from gateway.core.errors import StoreError
from gateway.core.events import Status
from gateway.core.identifiers import EventIds
from gateway.core.sequence_sets import Stretch, Stretches
from gateway.delivery.states import Backoff, DeliveryEvent, target

CHECKPOINT_ID = "checkpoint_id"
REPUBLISHED_ID = "republished_id"
_FIRST_FREE = "sequence_floor"
"""In `meta`: the number of events lost together with the names of their streams."""


class NewEvent(NamedTuple):
    """An event from the pipeline. `event_id` None: the store makes a UUIDv7."""

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
    kept: bool = False
    """True for an event that stays at the edge until it is requested: KEPT, not PENDING."""


class Store:
    """An open buffer, for one thread at a time. Passes on peewee's and apsw's errors unchanged."""

    def __init__(
        self,
        path: Path,
        synchronous: Literal["full", "normal"] = "full",
        wal_pages: int = WAL_CHECKPOINT_PAGES,
        cache_bytes: int = PAGE_CACHE_BYTES,
    ) -> None:
        self.path = path
        self.synchronous = synchronous
        self._wal_pages = wal_pages
        self._cache_bytes = cache_bytes
        self.receipts = Receipts()
        self.compressor = PayloadCompressor()
        self.windows = WindowStates(lambda: self._connection)
        self.windows_aside = WindowsAside(lambda: self._connection)
        self._tally = Tally()
        self._ids = EventIds()

    # --- life ---

    def open(self) -> None:
        """Open or create the file. Raises StoreError when it belongs to a newer gateway."""
        self._connect()
        self._begin()

    def _connect(self) -> None:
        self._database = open_writer(self.path, self.synchronous, self._wal_pages, self._cache_bytes)
        connection: apsw.Connection = self._database.connection()
        self._connection = connection
        self._streams = Streams(self._database)
        self._claims = Claims(connection)
        self._receipt_table = ReceiptTable(connection, self.receipts)
        self.undated = PendingTime(connection)
        self.dropped = DroppedRanges(connection)
        self.confirmed = ConfirmedRuns(connection)
        self.removals = Removals(connection, self._tally)
        self.search = EventSearch(connection)
        self.file = FileSpace(connection)
        self.identity = BufferIdentity(connection)
        self.evidence = EvidenceTable(connection)
        self.alarms = AlarmTable(connection)
        self.devices = KnownDevices(connection)
        self.notifications = NotificationTable(connection)
        self.dictionaries = StoredDictionaries(connection, self.compressor)

    def _begin(self) -> None:
        with self.transaction():
            self._connection.execute("DELETE FROM refusals WHERE id NOT IN (SELECT id FROM buffer_events)")
            if self.meta_int(VERSION) != SCHEMA_VERSION:
                self.set_meta(VERSION, SCHEMA_VERSION)
            self.reload()
            if not self.identity.buffer_id:
                self.identity.renew()

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

    @property
    def is_displaced(self) -> bool:
        """True if the file was deleted or replaced: commits from now on are lost when it is closed."""
        return is_displaced(self._connection)

    def rescue(self) -> None:
        """Write what the displaced file holds to where the next start takes it up; outside of a
        transaction."""
        rescue(self._connection, self.path)

    def close(self) -> None:
        self._database.close()

    def reload(self) -> None:
        """Forget what memory holds and read it again from what is committed."""
        self._tally.load(self._connection)
        self._streams.recount(self.meta_int(CHECKPOINT_ID), self.meta_int(_FIRST_FREE))
        self._claims.reload()
        self.undated.reload()
        self.dropped.reload()
        self.alarms.reload()
        self._receipt_table.load()
        self.dictionaries.load()

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
            self._receipt_table.save()
            self.dropped.save()
            self.alarms.save()
            self._tally.save(self._connection)
        self._tally.commit()
        self.alarms.commit()

    # --- counts and single values ---

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """Every counter at the last commit, by (name, label). Any thread may read it."""
        return self._tally.committed

    def count(self, name: str, label: str = "", by: int = 1) -> None:
        """Add to a counter that is committed with this transaction."""
        self._tally.moved[name, label] += by

    def events_that_are(self, *statuses: Status) -> int:
        """Return the number of events in any of these statuses, including changes of this transaction."""
        return self._tally.events_that_are(*statuses)

    def meta_int(self, name: str, default: int = 0) -> int:
        row = self._connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return default if row is None else int(row[0])

    def set_meta(self, name: str, value: int) -> None:
        self._connection.execute("REPLACE INTO meta (name, value) VALUES (?, ?)", (name, str(value)))

    def save_republished(self, event_id: int, newest: Sequence[Row]) -> None:
        """Note how far the local broker has the results, and which of them are the newest."""
        self.set_meta(REPUBLISHED_ID, event_id)
        save_newest(self._connection, newest)

    def last_id(self) -> int:
        """The id of the newest event that was ever stored."""
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'buffer_events'")
        return int(next(iter(row), (0,))[0])

    # --- events ---

    def is_last_payload(self, topic: str, payload: bytes) -> bool:
        """Return True if the newest stored message of `topic` had these bytes."""
        return self._streams.mark(topic) == payload_mark(payload)

    def note_last_payload(self, topic: str, payload: bytes) -> None:
        """Tell it of a message behind the last checkpoint, at a start or after a rollback."""
        self._streams.note_mark(topic, payload_mark(payload))

    def last_number(self, topic: str) -> int:
        """Return the sequence number of the newest event of `topic`. Inside a transaction only."""
        return self._streams.position(topic).last_sequence

    def append(self, events: Sequence[NewRow]) -> None:
        """Store `events` as PENDING or KEPT, in this order, each with the next number of its stream."""
        if not events:
            return
        values = column_values(events, self._streams, self._ids, self.compressor)
        insert_events(self._connection, values, len(events))
        kept = sum([event[-1] for event in events])
        self._tally.moved["status", Status.PENDING.name] += len(events) - kept
        if kept:
            self._tally.moved["status", Status.KEPT.name] += kept

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
            raise StoreError(f"{happening.value} removes entries; see `removals`")
        if not ids:
            return 0
        retry = _RETRIES.get(happening, "")
        where, *values = among(ids)
        self._connection.execute(
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

    def forward(self, ids: Sequence[int]) -> int:
        """Send those of `ids` that were kept at the edge, after all; returns how many there were."""
        forwarded = self.move(ids, Status.KEPT, DeliveryEvent.FORWARD)
        self.count("forwarded", by=forwarded)
        return forwarded

    def confirm(self, topic: str, have: Sequence[Stretch]) -> bool:
        """A receiver has these numbers of a stream on its disk. False, and nothing changes, where the buffer
        never gave them out."""
        stream = self._streams.known(topic)
        if stream is None or (have and have[-1][1] > stream.last_sequence):
            return False
        self.confirmed.add(stream.id, have)
        return True

    def resend(self, ids: Sequence[int]) -> int:
        """Send those of `ids` again that the cloud broker had, but no receiver; returns how many."""
        for stream, numbers in self._numbers_of(ids).items():
            self.confirmed.take_back(stream, numbers)
        resent = self.move(ids, Status.SYNCED, DeliveryEvent.RESEND)
        self.count("resent", by=resent)
        return resent

    def release_all(self) -> int:
        """Put every SYNCING event back, after a restart. Returns how many there were."""
        after = target(Status.SYNCING, DeliveryEvent.FAILURE) or Status.PENDING
        self._connection.execute(
            "UPDATE buffer_events SET status = ?, retry_count = retry_count + 1"
            " WHERE status = ? AND status < 2",
            (int(after), int(Status.SYNCING)),
        )
        self._claims.forget()
        return self._moved_to(Status.SYNCING, after)

    def release_held(self) -> int:
        """Let no stream wait any longer; returns how many did."""
        return self._claims.release()

    # --- checkpoint, session ---

    def checkpoint(self, window_changes: Iterable[tuple[str, bytes, bytes | None]]) -> int:
        """Store changed window states and sequence numbers as of the newest event; returns its id."""
        self.save_windows(window_changes)
        included = self.last_id()
        self.set_meta(CHECKPOINT_ID, included)
        return included

    def set_windows_aside(self, owner: int) -> None:
        """Keep the state of the last checkpoint, for the time in which configuration `owner` is on trial."""
        self.windows_aside.keep(owner, self.meta_int(CHECKPOINT_ID))

    def bring_windows_back(self) -> None:
        """Go back to the checkpoint that was set aside: a `restore` of the windows has to follow."""
        self.set_meta(CHECKPOINT_ID, self.windows_aside.bring_back())
        self.alarms.reload()

    def save_windows(self, changes: Iterable[tuple[str, bytes, bytes | None]]) -> None:
        """Store changed window states, and sequence numbers; a `checkpoint` has to follow in the same
        transaction."""
        self.windows.save(changes)
        self._streams.save()

    def forget_receipts(self) -> None:
        """The broker started a new session: its packet ids mean nothing to us."""
        self._receipt_table.forget()

    # --- numbers that are not given out; see `restore` and `startup_command` ---

    def skip_numbers(self, last_id: int, last_sequences: str) -> None:
        """Give out no id up to `last_id`, and no sequence number up to those of `last_sequences`, a JSON
        array of [topic, number]. Those that are skipped are counted: the audit must know of them."""
        self._connection.execute(
            "INSERT INTO sqlite_sequence (name, seq) SELECT 'buffer_events', 0 WHERE NOT EXISTS"
            " (SELECT 1 FROM sqlite_sequence WHERE name = 'buffer_events')"
        )
        self._connection.execute(
            "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'buffer_events'", (last_id,)
        )
        self.count("skipped", "restore", self._streams.skip(last_sequences))

    def skip_lost(self, last_id: int) -> None:
        """Events up to `last_id` are lost, of unknown streams: give out none of their ids, and in
        each stream none of the numbers that they may have had. Streams that are met later begin as far on."""
        lost = last_id - self.last_id()
        self.skip_numbers(last_id, "[]")
        self.set_meta(_FIRST_FREE, self._streams.floor + lost)
        self._streams.skip_all(lost)

    # --- inside ---

    def _note_refusal(self, ids: Sequence[int], reason: str) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO refusals (id, reason) SELECT value, ? FROM json_each(?)",
            (reason, orjson.dumps(list(ids)).decode()),
        )

    def _numbers_of(self, ids: Sequence[int]) -> dict[int, list[Stretch]]:
        """The sequence numbers of those of `ids` that are SYNCED, by stream."""
        where, *values = among(ids)
        (found,) = self._connection.execute(
            "SELECT json_group_array(stream), json_group_array(sequence_num) FROM"  # noqa: S608 - constants
            f" (SELECT * FROM buffer_events WHERE {where} AND status = ? ORDER BY stream, sequence_num)",
            (*values, int(Status.SYNCED)),
        )
        by_stream: dict[int, list[Stretch]] = {}
        for stream, number in zip(*map(orjson.loads, found), strict=True):
            by_stream.setdefault(stream, []).append((number, number))
        return {stream: [*Stretches(numbers)] for stream, numbers in by_stream.items()}

    def _moved_to(self, status: Status, after: Status) -> int:
        changed = int(self._connection.changes())
        self._tally.change_status(status, after, changed)
        return changed


_RETRIES = {
    DeliveryEvent.FAILURE: ", retry_count = retry_count + 1",
    DeliveryEvent.RETRY: ", retry_count = 0",
    DeliveryEvent.RESEND: ", retry_count = 0",
}
