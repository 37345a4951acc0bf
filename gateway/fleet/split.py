"""First step of a run: a chunk of the input becomes sorted runs of records, one for each partition."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from zlib import crc32

from gateway.core.errors import DecodeError
from gateway.fleet.job import COMMON, PARTITIONS, Chunk, Input, whole
from gateway.fleet.records import (
    Packed,
    Trouble,
    by_arrival,
    lines_of,
    name_of,
    pack,
    pack_event,
    read_record,
    reason_of,
)
from gateway.receiver.ledger import MERGED
from gateway.receiver.sinks.choice import PARQUET
from gateway.receiver.sinks.sink import OutputError
from gateway.receiver.stored_output import events_of_output

MOST_TROUBLES = 20
"""Lines of one chunk that are named, for each reason; more are only counted."""
MOST_OPEN = 256
"""Files that are merged at a time: most systems let a process open 1024."""
_HELD_BYTES = 48 * 1024 * 1024  # of records that are sorted in memory at a time

EVERY = b""
"""Stands for all gateways, where the name of one is expected."""


class SplitReport(NamedTuple):
    """The outcome of one chunk."""

    lines: int
    events: int
    bytes_by_partition: dict[str, int]
    troubles: list[Trouble]
    trouble_counts: dict[str, int]
    common_gateways: list[str]
    """The gateways with events for windows over all of them."""


class ChunkReader:
    """Reads one chunk and counts. `wanted` names the gateways whose events are taken; empty: all. `is_common`
    tells the streams that windows over all gateways read."""

    def __init__(
        self,
        inputs: Sequence[Input],
        wanted: frozenset[bytes],
        is_common: Callable[[str], bool] | None = None,
    ) -> None:
        self.bytes: Counter[str] = Counter()
        """Bytes of the runs by partition, for whoever writes them."""
        self._is_common = is_common
        self._common_streams: dict[bytes, bool] = {}
        self._common_gateways: set[bytes] = set()
        self._inputs = inputs
        self._wanted = wanted
        self._lines = self._events = 0
        self._troubles: list[Trouble] = []
        self._counts: Counter[str] = Counter()

    def read(self, chunk: Chunk) -> Iterator[tuple[bytes, bytes]]:
        """Yield (gateway, record) of each raw event, and (EVERY, record by arrival) of each event that
        a window over all gateways reads. Raises OSError or OutputError."""
        for offset, packed in self._packed(chunk):
            if self._wanted and packed.gateway not in self._wanted:
                self._trouble(chunk, offset, f"of the gateway {packed.gateway.decode()}")
                continue
            if packed.is_raw:
                self._events += 1
                yield packed.gateway, packed.record
            if self._is_common is not None and self._reads(packed.stream) and not _is_merged(packed):
                self._common_gateways.add(packed.gateway)
                yield EVERY, by_arrival(packed)

    def report(self) -> SplitReport:
        """Return what was read."""
        gateways = sorted(map(name_of, self._common_gateways))
        counts = dict(self._counts)
        return SplitReport(self._lines, self._events, dict(self.bytes), self._troubles, counts, gateways)

    def _reads(self, stream: bytes) -> bool:
        found = self._common_streams.get(stream)
        if found is None:
            found = self._is_common is not None and self._is_common(name_of(stream))
            self._common_streams[stream] = found
        return found

    def _packed(self, chunk: Chunk) -> Iterator[tuple[int, Packed]]:
        source = self._inputs[chunk.file]
        if source.has_rows:
            yield from self._rows(source.place, chunk)
            return
        for offset, line in lines_of(Path(source.place), chunk.first, chunk.end):
            if line.isspace():
                continue
            self._lines += 1
            try:
                packed = pack(line, chunk.file, offset)
            except DecodeError as exc:
                self._trouble(chunk, offset, reason_of(line, exc))
            else:
                yield offset, packed

    def _rows(self, place: str, chunk: Chunk) -> Iterator[tuple[int, Packed]]:
        number = 0
        try:
            for number, stored in enumerate(events_of_output(place), 1):
                self._lines += 1
                yield number, pack_event(stored, chunk.file, number)
        except OutputError as exc:
            if not place.startswith(PARQUET):  # a database may be there again for the next run
                raise
            self._trouble(chunk, number + 1, str(exc))

    def _trouble(self, chunk: Chunk, offset: int, reason: str) -> None:
        self._counts[reason] += 1
        if self._counts[reason] <= MOST_TROUBLES and len(self._counts) <= MOST_TROUBLES:
            self._troubles.append(Trouble(chunk.file, offset, reason))


def _is_merged(packed: Packed) -> bool:
    """Return True for a result that a receiver has merged: its parts are in the input too."""
    return not packed.is_raw and read_record(packed.record).buffer_id == MERGED.encode()


def split(reader: ChunkReader, chunk: Chunk, runs: Path) -> SplitReport:
    """Write the runs of a chunk below the folder `runs`. Raises OSError or OutputError."""
    parts: defaultdict[int, list[bytes]] = defaultdict(list)
    number = held_bytes = 0
    for gateway, record in reader.read(chunk):
        parts[COMMON if gateway is EVERY else crc32(gateway) % PARTITIONS].append(record)
        held_bytes += len(record)
        if held_bytes > _HELD_BYTES:
            number, held_bytes = number + 1, 0
            _write(reader, parts, runs, f"{chunk.number:08}-{number:06}.run")
    _write(reader, parts, runs, f"{chunk.number:08}-{number + 1:06}.run")
    return reader.report()


def _write(reader: ChunkReader, parts: dict[int, list[bytes]], runs: Path, name: str) -> None:
    for partition, records in parts.items():
        records.sort()
        folder = runs / str(partition)
        folder.mkdir(exist_ok=True)
        with whole(folder / name) as file:
            file.writelines(records)
            reader.bytes[str(partition)] += file.tell()
    parts.clear()


def records_in_order(runs: Sequence[Path]) -> Iterator[bytes]:
    """Yield the records of sorted runs in one order; more runs than files may be open are merged first."""
    with ExitStack() as opened:
        while len(runs) > MOST_OPEN:
            folder = Path(opened.enter_context(TemporaryDirectory(dir=runs[0].parent, prefix="merge-")))
            runs = [
                _merge_to(folder / str(n), runs[n : n + MOST_OPEN]) for n in range(0, len(runs), MOST_OPEN)
            ]
        files = [opened.enter_context(run.open("rb")) for run in runs]
        yield from files[0] if len(files) == 1 else heapq.merge(*files)


def _merge_to(path: Path, runs: Sequence[Path]) -> Path:
    with path.open("wb") as file, ExitStack() as opened:
        file.writelines(heapq.merge(*(opened.enter_context(run.open("rb")) for run in runs)))
    return path
