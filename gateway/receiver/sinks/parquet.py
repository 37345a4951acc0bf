"""Parquet files by day, for DuckDB, Spark and the like; needs the extra `parquet` (pyarrow).

`DIR/day=2026-11-28/000012.parquet` holds events of that day (UTC, by event time).

Invariants:
- An event is on the disk before its message is acknowledged: in a line of the journal `DIR/000012.ndjson`.
- Each journal becomes one file a day, all with its number, written aside and renamed, and only then is the
  journal removed. After a crash in between it is done again, with the same names: no event is there twice.
- Memory is bounded by the size of a journal.
"""

from __future__ import annotations

import fcntl
import io
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gateway.core.errors import DecodeError
from gateway.core.events import Message
from gateway.host.files import replace_file, sync_folder, write_whole
from gateway.receiver.device_names import DeviceNames
from gateway.receiver.event_lines import kind_name, priority_name
from gateway.receiver.ledger import Identity, identity
from gateway.receiver.sinks.journal import events_of_journal_line, journal_line
from gateway.receiver.sinks.ndjson import EventFile, write_durably
from gateway.receiver.sinks.rows import payload_columns
from gateway.receiver.sinks.sink import IN_USE_HINT, OutputError, Received
from gateway.wire.event_format import id_text

log = logging.getLogger(__name__)

JOURNAL_EVENTS = 50_000
_JOURNAL_BYTES = 32 * 1024 * 1024
_JOURNAL_S = 300.0
_BATCH = 10_000  # rows of a file in memory, when it is read back

_DAY_MS = 86_400_000
_EPOCH = date(1970, 1, 1)
_NAME = pa.dictionary(pa.int32(), pa.string())
_TIME = pa.timestamp("ms", tz="UTC")
SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("gateway", _NAME),
        ("stream", _NAME),
        ("device", _NAME),
        ("sequence_num", pa.int64()),
        ("event_time", _TIME),
        ("ingest_time", _TIME),
        ("device_time", _TIME),
        ("priority", _NAME),
        ("kind", _NAME),
        ("flags", pa.int32()),
        ("payload", pa.string()),
        ("payload_bytes", pa.binary()),
        ("buffer", _NAME),
    ]
)
_ORDER = ("stream", "ingest_time", "sequence_num")
_IDENTITY = ["gateway", "event_id", "stream", "sequence_num", "ingest_time", "buffer"]


class ParquetFolder:
    """A sink: the files below `path`. See `gateway.receiver.sinks.sink` for what each method does."""

    def __init__(
        self, path: Path, devices: DeviceNames | None = None, journal_events: int = JOURNAL_EVENTS
    ) -> None:
        self.path = path
        self._devices = devices or DeviceNames()
        self._journal_events = journal_events
        self._beside = EventFile(path / "receiver")  # only for what is no event
        self._state_path = path / "receiver.state"
        self._lock: io.FileIO | None = None
        self._number = 1
        self._journal: io.FileIO | None = None
        self._rows: list[Received] = []
        self._journal_bytes = 0
        self._began_s = 0.0
        self._known_number = 0  # the journal in which the state was saved

    @property
    def name(self) -> str:
        return str(self.path)

    def open(self) -> bytes | None:
        self.path.mkdir(parents=True, exist_ok=True)
        lock = (self.path / ".lock").open("ab", buffering=0)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            lock.close()
            raise OutputError(f"another process writes to {self.path}", hint=IN_USE_HINT) from exc
        self._lock = lock
        self._resume_journals()
        return self._saved_state()

    def behind_state(self) -> Iterator[Identity]:
        return self._read(self._known_number)

    def everything(self) -> Iterator[Identity]:
        return self._read(0)

    def claims(self) -> bytes | None:
        return None

    def write(self, events: Sequence[Received]) -> int:
        if events:
            line = journal_line(events)
            write_durably(self._open_journal(), line)
            self._journal_bytes += len(line)
            self._rows += events
            if len(self._rows) >= self._journal_events or self._journal_bytes >= _JOURNAL_BYTES:
                self._convert()
        return len(events)

    def save(self, state: bytes) -> None:
        if self._rows and time.monotonic() - self._began_s >= _JOURNAL_S:
            self._convert()
        write_whole(self._state_path, b"%d\n" % self._number + state)

    def reject(self, message: Message, error: DecodeError) -> None:
        self._beside.reject(message, error)

    def keep_records(self, payloads: Sequence[bytes]) -> None:
        self._beside.keep_records(payloads)

    def records(self) -> Iterator[bytes]:
        return self._beside.records()

    def close(self) -> None:
        """Also turns what is in the journal into files."""
        if self._lock is None:
            return
        try:
            self._convert()
        finally:
            if self._journal is not None:
                self._journal.close()
            self._lock.close()
            self._journal = self._lock = None

    # --- the journal ---

    def _journal_path(self, number: int) -> Path:
        return self.path / f"{number:06}.ndjson"

    def _resume_journals(self) -> None:
        for leftover in self.path.glob("*/*.new"):
            leftover.unlink()
        numbers = [_number_of(each) for each in (*self.path.glob("*.ndjson"), *self._parts())]
        self._number = max(numbers, default=0) or 1
        path = self._journal_path(self._number)
        if not path.exists():
            self._number += 1 if numbers else 0
            return
        self._rows = [*self._lines(path)]
        self._journal_bytes, self._began_s = path.stat().st_size, time.monotonic()
        if any(_number_of(part) == self._number for part in self._parts()):
            self._convert()  # a crash came before the journal was removed

    def _open_journal(self) -> io.FileIO:
        if self._journal is None:
            self._journal = self._journal_path(self._number).open("ab", buffering=0)
            self._began_s = time.monotonic()
            sync_folder(self.path)
        return self._journal

    def _lines(self, path: Path) -> Iterator[Received]:
        """The events of a journal; a line that a crash left unfinished is cut off."""
        end = 0
        with path.open("r+b") as journal:
            for number, line in enumerate(journal, start=1):
                if not line.endswith(b"\n"):
                    log.warning("%s: an unfinished last line is cut off", path)
                    break
                try:
                    yield from events_of_journal_line(line)
                except DecodeError as exc:
                    raise OutputError(f"{path}, line {number}: {exc}") from exc
                end += len(line)
            journal.truncate(end)

    def _convert(self) -> None:
        """Turn the journal into a file for each of its days, and begin the next one."""
        if not self._rows:
            return
        for day, some in _by_day(self._rows):
            self._write_part(self.path / f"day={day}", some)
        if self._journal is not None:
            self._journal.close()
        self._journal_path(self._number).unlink()
        sync_folder(self.path)
        self._journal, self._rows, self._journal_bytes = None, [], 0
        self._number += 1

    def _write_part(self, folder: Path, events: Sequence[Received]) -> None:
        folder.mkdir(exist_ok=True)
        sync_folder(self.path)
        part = folder / f"{self._number:06}.parquet"
        fresh = part.with_name(part.name + ".new")
        pq.write_table(self._table(events), fresh, compression="zstd")
        replace_file(fresh, part)

    def _table(self, events: Sequence[Received]) -> Any:
        """Build a sorted table column by column: a tuple for each row would take as long as all the rest."""
        gateways, bare, buffers = zip(*events, strict=True)
        (ids, streams, numbers, times_ms, ingests_ms, device_times_ms, priorities, kinds, flags, payloads) = (
            zip(*bare, strict=True)
        )
        columns = (
            list(map(id_text, ids)),
            gateways,
            streams,
            list(map(self._devices.of, streams)),
            numbers,
            times_ms,
            ingests_ms,
            device_times_ms,
            [str(priority_name(each)) for each in priorities],
            [str(kind_name(each)) for each in kinds],
            flags,
            *_payload_columns(payloads),
            buffers,
        )
        arrays = [_column(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
        place = {name: number for number, name in enumerate(sorted({*streams}))}
        keys = pa.table([[place[name] for name in streams], ingests_ms, numbers], names=[*_ORDER])
        order = pc.sort_indices(keys, [(name, "ascending") for name in _ORDER])
        return pa.table(arrays, schema=SCHEMA).take(order)

    # --- reading ---

    def _parts(self) -> list[Path]:
        return sorted(self.path.glob("day=*/*.parquet"), key=lambda part: (part.name, part.parent.name))

    def _read(self, from_number: int) -> Iterator[Identity]:
        for part in self._parts():
            if _number_of(part) >= from_number:
                yield from _identities(part)
        yield from (identity(*each) for each in self._rows)

    def _saved_state(self) -> bytes | None:
        if not self._state_path.exists():
            return None
        number, _, state = self._state_path.read_bytes().partition(b"\n")
        if not number.isdigit():
            raise OutputError(
                f"the state {self._state_path} is damaged", hint="remove it, and it is made anew"
            )
        self._known_number = int(number)
        return state if self._known_number <= self._number else None


def _by_day(events: Sequence[Received]) -> Iterator[tuple[str, Sequence[Received]]]:
    """Yield the events of each day (UTC, by event time); nearly always it is one."""
    numbers = {each.event.event_time_ms // _DAY_MS for each in events}
    if len(numbers) == 1:
        yield _day_name(numbers.pop()), events
        return
    days: defaultdict[str, list[Received]] = defaultdict(list)
    for each in events:
        days[_day_name(each.event.event_time_ms // _DAY_MS)].append(each)
    yield from days.items()


def _payload_columns(payloads: Sequence[bytes]) -> tuple[Any, Any]:
    """The payloads as text, and as bytes where they are none; all at once if all are text."""
    found = pa.array(payloads, pa.binary())
    if b"\0" not in b"".join(payloads):
        try:
            return found.cast(pa.string()), pa.nulls(len(payloads), pa.binary())
        except pa.ArrowInvalid:
            pass  # not all are UTF-8
    texts, others = zip(*map(payload_columns, payloads), strict=True)
    return pa.array(texts, pa.string()), pa.array(others, pa.binary())


def _column(values: Any, kind: Any) -> Any:
    if isinstance(values, pa.Array):
        return values
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode()
    return pa.array(values, kind)


def _identities(part: Path) -> Iterator[Identity]:
    try:
        with pq.ParquetFile(part) as file:
            for batch in file.iter_batches(_BATCH, columns=_IDENTITY):
                columns = batch.to_pydict()
                ids = (bytes.fromhex(text.replace("-", "")) for text in columns["event_id"])
                ingest_ms = batch.column("ingest_time").cast(pa.int64()).to_pylist()
                names = (columns[name] for name in ("gateway", "stream", "sequence_num", "buffer"))
                gateways, streams, numbers, buffers = names
                yield from map(Identity, gateways, ids, streams, numbers, ingest_ms, buffers)
    except (pa.ArrowException, ValueError, KeyError) as exc:
        raise OutputError(f"{part} cannot be read: {exc}") from exc


def _number_of(path: Path) -> int:
    return int(path.stem) if path.stem.isdigit() else 0


@lru_cache(maxsize=1000)
def _day_name(day: int) -> str:
    try:
        return str(_EPOCH + timedelta(days=day))
    except OverflowError:  # outside of the years 1 to 9999
        return "unknown"
