"""Reads the messages of the past for `gateway replay`: from files, a receiver's tables, a buffer.

Each source gives raw messages in the order in which the gateway took them in, in little memory: an id begins
with the time and counts up, so a file that a receiver wrote in another order is sorted by them, in parts on
the disk.
"""

from __future__ import annotations

import heapq
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from gateway.buffer.reader import Reader
from gateway.core.errors import DecodeError
from gateway.core.events import Kind
from gateway.core.topics import filter_matches
from gateway.pipeline.replay import Recorded, ReplayError, read_event
from gateway.receiver.event_lines import LINE_START, NO_FLAGS, RAW, StoredLine, event_of_line
from gateway.receiver.sinks.choice import PARQUET
from gateway.receiver.stored_output import count_of_table, events_of_table, is_table
from gateway.wire.event_format import id_text

T = TypeVar("T")
# Recorded._make without its detour through Python.
_RECORDED: Callable[[tuple[Any, ...]], Recorded] = partial(tuple.__new__, Recorded)

SORTED_BYTES = 64 * 1024 * 1024
"""Of lines that are sorted in memory at a time."""

_ID_START, _ID = b'{"event_id":"', slice(13, 49)
_PLAIN = (RAW, NO_FLAGS, b"}\n")
_NEVER_MS = 2**62
_AHEAD_MS = 24 * 3600 * 1000  # how far the time in an id may be ahead of the arrival, where a clock went back


@dataclass(frozen=True)
class Selection:
    """A choice of messages: arrived from `from_ms` on and before `to_ms`, on topics that `stream` matches."""

    from_ms: int = -_NEVER_MS
    to_ms: int = _NEVER_MS
    stream: str = "#"
    gateway_id: str | None = None
    """The only gateway whose messages are read; None: all."""


class Recording:
    """A source of messages. `done` of `total` is how far the reading is; `others` counts what other
    gateways sent, `corrupt` events with a wrong checksum, which are left out."""

    def __init__(self, wanted: Selection) -> None:
        self.done = self.total = 0
        self.corrupt = 0
        self.others: Counter[str] = Counter()
        self._wanted = wanted
        self._topics: dict[str, bool] = {}

    def messages(self) -> Iterator[Recorded]:
        """The messages that are wanted. Raises GatewayError for what cannot be read."""
        raise NotImplementedError

    def _fits(self, topic: str, time_ms: int) -> bool:
        return self._wanted.from_ms <= time_ms < self._wanted.to_ms and self._fits_topic(topic)

    def _takes_all(self, topics: Iterable[str], times_ms: Sequence[int]) -> bool:
        """Return True if all of these messages are wanted."""
        if not times_ms or min(times_ms) < self._wanted.from_ms or max(times_ms) >= self._wanted.to_ms:
            return False
        return all(map(self._fits_topic, {*topics}))

    def _fits_topic(self, topic: str) -> bool:
        fits = self._topics.get(topic)
        if fits is None:
            if len(self._topics) > 100_000:
                self._topics.clear()
            fits = self._topics[topic] = filter_matches(self._wanted.stream, topic)
        return fits

    def _recorded(self, stored: Iterable[StoredLine]) -> Iterator[Recorded]:
        """Yield the wanted messages among the events of a receiver, each once."""
        wanted, last_id = self._wanted.gateway_id, b""
        for gateway_id, event, _ in stored:
            if event.kind != Kind.RAW or event.event_id == last_id:
                continue
            if wanted is not None and gateway_id != wanted:
                self.others[gateway_id] += 1
                continue
            last_id = event.event_id
            if self._fits(event.stream, event.ingest_time_ms):
                moment = (event.ingest_time_ms, event.flags, event.sequence_num)
                yield Recorded(event.stream, event.payload, *moment)


class LinesRecording(Recording):
    """A file: lines of topic, payload and time_ms in the order of arrival, or what a receiver wrote."""

    def __init__(self, path: Path, wanted: Selection) -> None:
        super().__init__(wanted)
        self._path = path
        self.total = path.stat().st_size

    def messages(self) -> Iterator[Recorded]:
        with self._path.open("rb") as file:
            first = next((line for line in file if line.strip()), b"")
            file.seek(0)
            if b'"event_id"' not in first:
                for event in self._parsed(self._counted(file), read_event):
                    if self._fits(event.topic, event.time_ms):
                        yield event
                return
        with ExitStack() as folders:
            yield from self._received(self._in_order(folders))

    def _received(self, lines: Iterable[bytes]) -> Iterator[Recorded]:
        """Yield the wanted messages among a receiver's lines, each once. Most lines need not be parsed."""
        wanted = None if self._wanted.gateway_id is None else self._wanted.gateway_id.encode()
        last_id = b""
        for number, line in enumerate(lines, 1):
            found = LINE_START.match(line)
            if found is None or not found[9] or (found[6], found[7], line[-2:]) != _PLAIN:
                last_id, message = self._message_of_line(line, number, last_id)
                if message is not None:
                    yield message
                continue
            event_id, gateway, stream, sequence_num, ingest_ms = found.group(1, 2, 3, 4, 5)
            if event_id == last_id:
                continue
            if wanted is not None and gateway != wanted:
                self.others[gateway.decode()] += 1
                continue
            last_id, topic, time_ms = event_id, stream.decode(), int(ingest_ms)
            if self._fits(topic, time_ms):
                yield Recorded(topic, line[found.end() - 1 : -2], time_ms, 0, int(sequence_num))

    def _message_of_line(self, line: bytes, number: int, last_id: bytes) -> tuple[bytes, Recorded | None]:
        """Return the id of the newest wanted message, and that message if it is new. Ids are text here."""
        for stored in self._parsed([line], event_of_line, number):
            event_id = id_text(stored.event.event_id).encode()
            if event_id != last_id:
                for message in self._recorded([stored]):
                    return event_id, message
        return last_id, None

    def _counted(self, file: BinaryIO) -> Iterator[bytes]:
        for line in iter(file.readline, b""):
            self.done += len(line)
            yield line

    def _parsed(self, lines: Iterable[bytes], parse: Callable[[bytes], T], first: int = 1) -> Iterator[T]:
        for number, line in enumerate(lines, first):
            if line.strip():
                try:
                    yield parse(line)
                except DecodeError as exc:
                    raise ReplayError(f"{self._path}, line {number}: {exc}", hint=exc.hint) from exc

    def _in_order(self, folders: ExitStack) -> Iterator[bytes]:
        """Yield the lines in the order of their ids."""
        if self._is_in_order():
            with self._path.open("rb") as file:
                for line in file:
                    self.done += len(line)
                    if line[-1:] == b"\n" or _is_event(line):  # else it is still being written
                        yield line
            return
        folder = Path(folders.enter_context(tempfile.TemporaryDirectory(prefix="gateway-replay-")))
        parts = []
        with self._path.open("rb") as file:
            for number, lines in enumerate(iter(lambda: file.readlines(SORTED_BYTES), [])):
                if not lines[-1].endswith(b"\n"):
                    lines[-1] = lines[-1] + b"\n" if _is_event(lines[-1]) else b""
                lines.sort(key=_id_of)
                parts.append(folder / str(number))
                parts[-1].write_bytes(b"".join(lines))
        files = [folders.enter_context(part.open("rb")) for part in parts]
        for line in heapq.merge(*files, key=_id_of):
            self.done += len(line)
            yield line

    def _is_in_order(self) -> bool:
        last = b""
        with self._path.open("rb") as file:
            for line in file:
                if _is_raw(line):
                    found = line[_ID]
                    if found < last:
                        return False
                    last = found
        return True


class TableRecording(Recording):
    """The table that a receiver writes in SQLite or PostgreSQL."""

    def __init__(self, place: str, wanted: Selection) -> None:
        super().__init__(wanted)
        self._place = place
        self.total = count_of_table(place)

    def messages(self) -> Iterator[Recorded]:
        first_ms = max(0, self._wanted.from_ms)
        stored = events_of_table(self._place, (first_ms << 80).to_bytes(16, "big"))
        return self._recorded(self._counted(stored))

    def _counted(self, stored: Iterable[StoredLine]) -> Iterator[StoredLine]:
        end_ms = self._wanted.to_ms + _AHEAD_MS
        for one in stored:
            self.done += 1
            if int.from_bytes(one.event.event_id[:6], "big") > end_ms and one.event.kind == Kind.RAW:
                return
            yield one


class BufferRecording(Recording):
    """The buffer of a gateway that may run: each stretch of rows is read by itself, and none is locked."""

    def __init__(self, path: Path, wanted: Selection) -> None:
        super().__init__(wanted)
        self._path = path

    def messages(self) -> Iterator[Recorded]:
        with closing(Reader(self._path)) as reader:
            first_id = max(1, reader.first_since(self._wanted.from_ms))
            ((last_id,),) = reader.arrays("SELECT json_array(coalesce(max(id), 0)) FROM buffer_events")
            self.total = max(0, last_id - first_id + 1)
            for stored in reader.raw_after(first_id - 1, to_id=last_id):
                events, corrupt = reader.without_corrupt(stored)
                self.corrupt += len(corrupt)
                names, payloads = reader.names(events.stream_ids), reader.payloads(events)
                columns = (events.ingest_times_ms, events.flags, events.sequence_nums)
                rows = map(_RECORDED, zip(names, payloads, *columns, strict=True))
                if self._takes_all(names, events.ingest_times_ms):
                    yield from rows
                else:
                    yield from (row for row in rows if self._fits(row.topic, row.time_ms))
                if stored.ids:
                    self.done = stored.ids[-1] - first_id + 1
                if stored.ingest_times_ms and stored.ingest_times_ms[0] > self._wanted.to_ms + _AHEAD_MS:
                    return


def recording_of(place: str, wanted: Selection) -> Recording:
    """The recording that `--input` names: a path, or a database as `gateway receive` takes it."""
    if place.startswith(PARQUET):
        hint = (
            "replay what a receiver wrote as lines or as a table, or the gateway's buffer (--from-buffer); "
            "`gateway fleet run` takes Parquet too"
        )
        raise ReplayError("Parquet files are not in the order of arrival", hint=hint)
    return TableRecording(place, wanted) if is_table(place) else LinesRecording(Path(place), wanted)


def _id_of(line: bytes) -> bytes:
    return line[_ID] if line.startswith(_ID_START) else b""


def _is_event(line: bytes) -> bool:
    try:
        event_of_line(line)
    except DecodeError:
        return False
    return True


def _is_raw(line: bytes) -> bool:
    """True if its id is of version 7, as of raw events; the id of a result has no time in it."""
    return line[27:28] == b"7"
