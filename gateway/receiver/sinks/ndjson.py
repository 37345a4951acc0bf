"""A file of event lines, with the receiver's state beside it.

`FILE.state` says up to which byte of the file it holds; a line that a crash left unfinished is cut off. What
could not be read is in `FILE.rejected`, signed audit records are in `FILE.records`.
"""

from __future__ import annotations

import fcntl
import io
import logging
import mmap
import os
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from gateway.core.errors import DecodeError
from gateway.core.events import Message
from gateway.host.files import sync_folder, write_whole
from gateway.receiver.event_lines import event_line, identity_of_line
from gateway.receiver.ledger import Identity
from gateway.receiver.sinks.sink import IN_USE_HINT, OutputError, Received

log = logging.getLogger(__name__)


class EventFile:
    """A sink: the file at `path`. See `gateway.receiver.sinks.sink` for what each method does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state_path = path.with_name(path.name + ".state")
        self._rejected_path = path.with_name(path.name + ".rejected")
        self._records_path = path.with_name(path.name + ".records")
        self._file: io.FileIO | None = None
        self._position = 0  # what the state knows

    @property
    def name(self) -> str:
        return str(self.path)

    def open(self) -> bytes | None:
        is_new = not self.path.exists()
        self._file = self.path.open("ab", buffering=0)  # what failed must not be tried again on closing
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise OutputError(f"another process writes to {self.path}", hint=IN_USE_HINT) from exc
        if is_new:
            sync_folder(self.path.parent)
        position, state = self._saved()
        if state is None or not self._ends_a_line(position):
            return None
        self._position = position
        return state

    def claims(self) -> bytes | None:
        return self._saved()[1]

    def behind_state(self) -> Iterator[Identity]:
        return self._read(self._position)

    def everything(self) -> Iterator[Identity]:
        return self._read(0)

    def write(self, events: Sequence[Received]) -> int:
        if self._file is not None and events:
            write_durably(self._file, b"".join([event_line(*each) for each in events]))
        return len(events)

    def save(self, state: bytes) -> None:
        if self._file is None:
            return
        write_whole(self._state_path, b"%d\n" % os.fstat(self._file.fileno()).st_size + state)

    def reject(self, message: Message, error: DecodeError) -> None:
        _append(self._rejected_path, _rejected_line(message, error))

    def keep_records(self, payloads: Sequence[bytes]) -> None:
        _append(self._records_path, b"".join(payload.replace(b"\n", b" ") + b"\n" for payload in payloads))

    def records(self) -> Iterator[bytes]:
        if self._records_path.exists():
            with self._records_path.open("rb") as records:
                yield from (line[:-1] for line in records if line.endswith(b"\n"))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _saved(self) -> tuple[int, bytes | None]:
        if not self._state_path.exists():
            return 0, None
        position, _, state = self._state_path.read_bytes().partition(b"\n")
        return (int(position), state) if position.isdigit() else (0, b"")

    def _ends_a_line(self, position: int) -> bool:
        """Return True if the file still matches the state: it may have been moved away, or edited."""
        if position > self.path.stat().st_size:
            return False
        with self.path.open("rb") as file:
            file.seek(max(0, position - 1))
            return position == 0 or file.read(1) == b"\n"

    def _read(self, start: int) -> Iterator[Identity]:
        end = start
        with self.path.open("rb") as written:
            written.seek(start)
            for number, line in enumerate(written, start=1):
                if not line.endswith(b"\n"):
                    self._cut_off(end)
                    return
                end += len(line)
                yield self._identity(number, line)

    def _cut_off(self, end: int) -> None:
        log.warning("%s: an unfinished last line is cut off", self.path)
        if self._file is not None:
            self._file.truncate(end)

    def _identity(self, number: int, line: bytes) -> Identity:
        try:
            return identity_of_line(line)
        except DecodeError as exc:
            hint = "give another --output, or remove the line if a disk error left it"
            raise OutputError(f"{self.path}, line {number}: {exc}", hint=hint) from exc


def write_durably(file: io.FileIO, data: bytes) -> None:
    """Write all of `data`, and wait until it is on the disk. Raises OSError."""
    unwritten = memoryview(data)
    while unwritten:
        unwritten = unwritten[file.write(unwritten) :]
    os.fsync(file.fileno())


def _append(path: Path, lines: bytes) -> None:
    """Append whole lines. What a crash left of a line is cut off: its message was not acknowledged."""
    is_new = not path.exists()
    with path.open("a+b", buffering=0) as file:
        end = _end_of_lines(file)
        if end < os.fstat(file.fileno()).st_size:
            log.warning("%s: an unfinished last line is cut off", path)
            file.truncate(end)
        write_durably(file, lines)
    if is_new:
        sync_folder(path.parent)


def _end_of_lines(file: io.FileIO) -> int:
    """Return how many bytes of a file are whole lines."""
    if not os.fstat(file.fileno()).st_size:
        return 0
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.rfind(b"\n") + 1


def _rejected_line(message: Message, error: DecodeError) -> bytes:
    fields = {
        "topic": message.topic,
        "arrival_ms": message.arrival_ms,
        "reason": error.reason,
        "error": str(error),
        "payload_b64": b64encode(message.payload).decode(),
    }
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
