"""The tables of the buffer, as peewee models, and the connection that writes them.

Invariants:
- One connection writes, in one thread. The others only read (`connection.open_reader`).
- `auto_vacuum` is set before the first table exists; later SQLite would silently ignore it.
- `id` is AUTOINCREMENT: commit order, and never reused after a delete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from gateway.buffer.connection import (
    BUSY_TIMEOUT_S,
    PAGE_BYTES,
    PAGE_CACHE_BYTES,
    WAL_CHECKPOINT_PAGES,
    teach,
)
from gateway.buffer.migration import migrate
from gateway.buffer.orm import (
    SQL,
    APSWDatabase,
    AutoField,
    BigIntegerField,
    BlobField,
    CompositeKey,
    IntegerField,
    Model,
    TextField,
)

# Later they change nothing, and yet `auto_vacuum` writes: on a full disk the file could not be opened.
_FOR_A_NEW_FILE = (("page_size", PAGE_BYTES), ("auto_vacuum", "incremental"))


class BufferEvent(Model):
    """A buffered event. Times are ms since the epoch; `payload` is stored as `codec` says."""

    id = AutoField(constraints=[SQL("AUTOINCREMENT")])
    event_id = BlobField()
    stream = IntegerField()
    sequence_num = BigIntegerField()
    event_time = BigIntegerField()
    ingest_time = BigIntegerField()
    device_time = BigIntegerField(null=True)
    status = IntegerField()
    priority = IntegerField()
    kind = IntegerField()
    flags = IntegerField()
    retry_count = IntegerField()
    payload = BlobField()
    codec = IntegerField()
    checksum = BigIntegerField()

    class Meta:
        table_name = "buffer_events"


class Stream(Model):
    """A topic's number, and the last sequence number that a checkpoint has seen."""

    id = AutoField()
    name = TextField(unique=True)
    last_sequence = BigIntegerField(default=0)

    class Meta:
        table_name = "streams"


class LastPayload(Model):
    """The fingerprint of a topic's newest message, as of the last checkpoint; see `streams`."""

    stream = IntegerField(primary_key=True)
    mark = BigIntegerField()

    class Meta:
        table_name = "last_payloads"


class Dictionary(Model):
    """A trained zstd dictionary. `codec` is its number in `buffer_events.codec`; rows are never changed."""

    codec = AutoField(constraints=[SQL("AUTOINCREMENT")])
    family = TextField()
    content = BlobField()
    checksum = BigIntegerField()  # of the content: read with a damaged dictionary, payloads turn into others
    trained_at = BigIntegerField()

    class Meta:
        table_name = "dictionaries"


class ReceiptGroup(Model):
    """The receipts of one commit: `count` entries of packet id and message hash, see `receipts`."""

    id = AutoField(constraints=[SQL("AUTOINCREMENT")])
    count = IntegerField()
    entries = BlobField()

    class Meta:
        table_name = "receipts"


class UndatedRow(Model):
    """A message that came before the time was known; see `undated`."""

    id = AutoField()
    topic = TextField()
    payload = BlobField()
    retain = IntegerField()
    boot = TextField()
    uptime_ms = BigIntegerField()

    class Meta:
        table_name = "undated"


class Held(Model):
    """A stream that waits in one priority, since the cloud has refused its event `first_id` and what came
    behind it: so often in a row, the last time at `refused_at`."""

    stream = IntegerField()
    priority = IntegerField()
    first_id = BigIntegerField()
    refusals = IntegerField()
    refused_at = BigIntegerField()
    retry_at = BigIntegerField()

    class Meta:
        table_name = "held"
        primary_key = CompositeKey("stream", "priority")
        without_rowid = True


class Refusal(Model):
    """The cloud's last refusal of an event. Removed together with the event."""

    id = IntegerField(primary_key=True)  # of the event
    reason = TextField()

    class Meta:
        table_name = "refusals"


class SeriesStart(Model):
    """The position of a stream when the buffer took its present id; see `identity`."""

    stream = IntegerField(primary_key=True)
    sequence = BigIntegerField()

    class Meta:
        table_name = "series_starts"


class SealedStream(Model):
    """The position up to which the delivered events of a stream are sealed; see `evidence_table`."""

    stream = IntegerField(primary_key=True)
    sequence = BigIntegerField()

    class Meta:
        table_name = "sealed_streams"


class SignedChain(Model):
    """The newest signed audit record of a buffer: its number and hash; see `evidence_table`."""

    buffer_id = TextField(primary_key=True)
    number = BigIntegerField()
    hash = BlobField()

    class Meta:
        table_name = "signed_chains"
        without_rowid = True


class SignedRecordRow(Model):
    """A signed audit record that the cloud broker has not acknowledged; see `evidence_table`."""

    number = IntegerField(primary_key=True)
    payload = BlobField()

    class Meta:
        table_name = "signed_records"


class LossRow(Model):
    """The number of events that retention removed from a stream before the cloud had them, by reason."""

    stream = IntegerField()
    reason = TextField()
    events = BigIntegerField()
    first_sequence = BigIntegerField()
    last_sequence = BigIntegerField()

    class Meta:
        table_name = "losses"
        primary_key = CompositeKey("stream", "reason")
        without_rowid = True


class LossRun(Model):
    """A run of lost numbers of a stream: first, first + step, …, last. Runs never overlap."""

    stream = IntegerField()
    last_sequence = BigIntegerField()
    first_sequence = BigIntegerField()
    step = BigIntegerField()
    reason = TextField()

    class Meta:
        table_name = "loss_runs"
        primary_key = CompositeKey("stream", "last_sequence")
        without_rowid = True


class ConfirmedRun(Model):
    """Numbers of a stream that a receiver has on its disk: first to last. No number stands in two of them."""

    stream = IntegerField()
    last_sequence = BigIntegerField()
    first_sequence = BigIntegerField()

    class Meta:
        table_name = "confirmed_runs"
        primary_key = CompositeKey("stream", "last_sequence")
        without_rowid = True


class ShedRangeRow(Model):
    """A time range in which messages of a stream were not taken in, with their number; see `shed`."""

    id = AutoField()
    reason = TextField()
    stream = TextField()
    first_ms = BigIntegerField()
    last_ms = BigIntegerField()
    messages = BigIntegerField()

    class Meta:
        table_name = "shed_ranges"


class WindowState(Model):
    """The checkpointed state of one window and key, as the windowing engine wrote it."""

    window = TextField()
    key = BlobField()
    state = BlobField()

    class Meta:
        table_name = "window_state"
        primary_key = CompositeKey("window", "key")
        without_rowid = True


class NewestResult(Model):
    """The newest window that was published on a stream of aggregates; see `newest_results`."""

    stream = IntegerField(primary_key=True)
    start_ms = BigIntegerField()
    end_ms = BigIntegerField()
    is_final = IntegerField()
    revision = IntegerField()

    class Meta:
        table_name = "newest_results"


class KnownDevice(Model):
    """A device: when it was first and last heard, as of the last save; see `known_devices`."""

    name = TextField(primary_key=True)
    first_ms = BigIntegerField()
    last_ms = BigIntegerField()
    messages = BigIntegerField()

    class Meta:
        table_name = "known_devices"
        without_rowid = True


class NotificationRow(Model):
    """A notification that waits to be sent; see `notification_table`."""

    id = AutoField(constraints=[SQL("AUTOINCREMENT")])
    target = TextField()
    payload = TextField()
    made_ms = BigIntegerField()
    state = IntegerField()

    class Meta:
        table_name = "notifications"


class AlarmStateRow(Model):
    """An alarm of a window and key with its state; see `alarm_table`."""

    window = TextField()
    key = TextField()
    state = TextField()
    priority = IntegerField()
    since_ms = BigIntegerField()
    changed_ms = BigIntegerField()
    details = TextField()

    class Meta:
        table_name = "alarms"
        primary_key = CompositeKey("window", "key")
        without_rowid = True


class CountRow(Model):
    """A counter that moves in the same transaction as what it counts, so that the sums always balance."""

    name = TextField()
    label = TextField(default="")
    value = BigIntegerField()

    class Meta:
        table_name = "counters"
        primary_key = CompositeKey("name", "label")
        without_rowid = True


class MetaRow(Model):
    """Single values: the schema version, positions of checkpoints."""

    name = TextField(primary_key=True)
    value = TextField()

    class Meta:
        table_name = "meta"
        without_rowid = True


MODELS: tuple[type[Model], ...] = (
    BufferEvent,
    Stream,
    LastPayload,
    Dictionary,
    ReceiptGroup,
    UndatedRow,
    Held,
    Refusal,
    SeriesStart,
    SealedStream,
    SignedChain,
    SignedRecordRow,
    LossRow,
    LossRun,
    ConfirmedRun,
    ShedRangeRow,
    WindowState,
    CountRow,
    MetaRow,
    NewestResult,
    AlarmStateRow,
    KnownDevice,
    NotificationRow,
)

# What the bridge scans, and what a restart puts back: it only holds what is on its way, so it stays small
# and in the cache. An index over all statuses would cost a fifth of the write rate (docs/performance.md).
# SQLite uses a partial index only where the query repeats its condition: write `AND status < 2`.
UNSETTLED_INDEX = (
    "CREATE INDEX IF NOT EXISTS buffer_events_unsettled"
    " ON buffer_events (status, priority, id, stream) WHERE status < 2"
)
# Aggregates that wait, for their share of a round; see `backlog`.
UNSETTLED_DERIVED_INDEX = (
    "CREATE INDEX IF NOT EXISTS buffer_events_unsettled_derived"
    " ON buffer_events (status, kind, id) WHERE status < 2 AND kind <> 0"
)
# What the republisher follows: aggregates and alerts are a small part of all rows.
DERIVED_INDEX = "CREATE INDEX IF NOT EXISTS buffer_events_derived ON buffer_events (id) WHERE kind <> 0"
# What is failed, corrupt or stays at the edge: an audit asks for it every minute. One index for all: each
# condition is checked for each row that is appended, which costs some 2 %.
KEPT_INDEX = (
    "CREATE INDEX IF NOT EXISTS buffer_events_kept"
    " ON buffer_events (stream, status, sequence_num) WHERE status > 2"
)


def open_writer(
    path: Path,
    synchronous: Literal["full", "normal"],
    wal_pages: int = WAL_CHECKPOINT_PAGES,
    cache_bytes: int = PAGE_CACHE_BYTES,
) -> APSWDatabase:
    """The one connection that writes. Creates the tables in a new file, and migrates an old one.

    Raises StoreError, and changes nothing, when the file belongs to a newer gateway.
    """
    database = APSWDatabase(
        str(path),
        timeout=BUSY_TIMEOUT_S,
        thread_safe=False,  # one connection, handed from the starting thread to the writer's
        pragmas=[
            *(_FOR_A_NEW_FILE if not path.exists() or path.stat().st_size == 0 else ()),
            ("journal_mode", "wal"),
            ("synchronous", synchronous),
            ("wal_autocheckpoint", wal_pages),
            # A log that was larger for once would let as much wait in it, more than the ballast has room for.
            ("journal_size_limit", wal_pages * PAGE_BYTES),
            ("cache_size", -(cache_bytes // 1024)),  # negative: KiB, else pages
            ("temp_store", "memory"),
        ],
    )
    try:
        database.connect()
        migrate(database, path)
        teach(database.connection())
        with database.bind_ctx(MODELS, bind_refs=False, bind_backrefs=False):
            database.create_tables(MODELS)
        database.execute_sql(UNSETTLED_INDEX)
        database.execute_sql(UNSETTLED_DERIVED_INDEX)
        database.execute_sql(DERIVED_INDEX)
        database.execute_sql(KEPT_INDEX)
    except BaseException:
        database.close()
        raise
    return database
