"""Copies results from the buffer into `history.db`, packs them, and removes the oldest.

Invariants:
- It only reads the buffer. A history that cannot be written stops nothing but itself: it is tried again, and
  an alert says so.
- The buffer keeps results until they are copied, unless it needs the room: what it had to remove before
  counts as missed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import apsw

from gateway.buffer.history.blocks import PastResult
from gateway.buffer.history.results_file import FILE_NAME, NewResult, ResultsFile
from gateway.buffer.reader import Reader
from gateway.buffer.retention.disk_space import DiskSpace
from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.core.events import Kind
from gateway.core.threads import RoleThread
from gateway.core.units import format_bytes

log = logging.getLogger(__name__)

COPIED_AFTER_S = 2.0
"""Results wait so long for company; until then they are read from the buffer."""
_CHUNK = 2000
_LOOK_EVERY_S = 60.0
_TRY_AGAIN_S = 10.0


@dataclass(frozen=True)
class HistoryPolicy:
    """Limits of the history: age of a result, and size of the file."""

    keep_ms: int
    max_bytes: int


class HistoryMetrics:
    """Plain numbers, written by the thread of the history, read by any."""

    def __init__(self) -> None:
        self.results = self.bytes = self.missed = 0
        self.oldest_ms: int | None = None
        self.removed = {"age": 0, "size": 0, "disk": 0}
        self.openings = 0
        """Number of times the file was opened; 0: it cannot be read yet."""
        self.error = ""
        """Reason why nothing is copied at present."""


class _Stopped(Exception):  # noqa: N818 - no error: the gateway stops while something is packed
    pass


class HistoryKeeper:
    """Runs `gateway.history` on one buffer. `wake` says that there are new results."""

    def __init__(
        self,
        buffer_path: Path,
        policy: HistoryPolicy,
        clock: Clock,
        space: DiskSpace,
        alert: Callable[[str, str], None],
    ) -> None:
        self.path = buffer_path.with_name(FILE_NAME)
        self.metrics = HistoryMetrics()
        self._copied_to = 0
        self._buffer_path = buffer_path
        self._policy = policy
        self._clock = clock
        self._space = space
        self._alert = alert
        self._news = threading.Event()
        self._stop = threading.Event()
        self._file: ResultsFile | None = None
        self._reader: Reader | None = None
        self._next_look_s = 0.0
        self.thread = RoleThread("history", self._run)

    def start(self) -> None:
        self._news.set()
        self.thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        self._stop.set()
        self._news.set()
        self.thread.join(timeout_s)

    def wake(self) -> None:
        """Say that the buffer has new results. From any thread; never blocks."""
        self._news.set()

    def floor(self) -> int:
        """Return the id of the buffer up to which results are in the history. From any thread."""
        return self._copied_to

    # --- the thread ---

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                wait_s = self._turn()
                if self._stop.wait(wait_s):
                    break
                self._news.wait(max(0.0, self._next_look_s - self._clock.monotonic_s()))
        finally:
            self._close()  # what is not copied now stays in the buffer until the next start

    def _turn(self) -> float:
        """Do what there is to do; return how long to wait at least."""
        try:
            self._news.clear()
            self._copy()
            self._look()
        except _Stopped:
            return 0.0
        except (apsw.CorruptError, apsw.NotADBError) as exc:
            self._set_aside(exc)
            return 0.0
        except (apsw.Error, StoreError, OSError) as exc:
            self._close()
            self._fail(exc)
            return _TRY_AGAIN_S
        if self.metrics.error:
            log.info("the history is written again")
            self.metrics.error = ""
        return COPIED_AFTER_S

    def _copy(self) -> None:
        """Copy the results that the history does not have yet."""
        file, reader = self._opened()
        position = file.numbers["position"]
        while True:
            events = reader.derived_after(position, _CHUNK)
            if not events.ids:
                break
            position = events.ids[-1]
            good, _ = reader.without_corrupt(events)  # what is corrupt counts as missed
            rows = zip(
                *(good.ids, good.event_times_ms, reader.names(good.stream_ids), reader.payloads(good)),
                *(good.sequence_nums, good.ingest_times_ms, good.kinds),
                strict=True,
            )
            found = [
                NewResult(PastResult(buffer_id, time_ms, topic, payload), sequence, stored_ms)
                for buffer_id, time_ms, topic, payload, sequence, stored_ms, kind in rows
                if kind == Kind.AGGREGATE
            ]
            with file.transaction():
                file.add(found, position)
            self._copied_to = position
            self._note(file)
            self._pack(file)
            self._rest()

    def _look(self) -> None:
        """Pack what waits, and remove what is too old or too much; once a minute."""
        file, _ = self._opened()
        if self._clock.monotonic_s() < self._next_look_s:
            return
        self._next_look_s = self._clock.monotonic_s() + _LOOK_EVERY_S
        now_ms = self._clock.now_ms()
        self._pack(file)
        while file.remove_before(now_ms - self._policy.keep_ms):
            self._rest()
        while file.used_bytes() > self._policy.max_bytes and file.remove_oldest("size"):
            self._rest()
        if self._space.low and file.remove_oldest("disk"):
            log.warning("the disk is low: the oldest results of the history were removed")
        file.give_back()
        self._note(file)

    def _pack(self, file: ResultsFile) -> None:
        while file.is_packing_due(self._clock.now_ms()):
            file.pack_fresh(self._rest)

    def _rest(self) -> None:
        """Let ingest and bridge come first."""
        if self._stop.wait(0.02):
            raise _Stopped

    def _opened(self) -> tuple[ResultsFile, Reader]:
        if self._reader is None:
            self._reader = Reader(self._buffer_path)
        if self._file is None:
            self._file = ResultsFile(self.path)
            newest = self._reader.newest_id()
            if newest < self._file.numbers["position"]:
                log.warning("the buffer is a new one: the history goes on with its first result")
                self._file.begin_again()
            self._copied_to = self._file.numbers["position"]
            self._note(self._file)
            self.metrics.openings += 1
        return self._file, self._reader

    def _note(self, file: ResultsFile) -> None:
        numbers, metrics = file.numbers, self.metrics
        metrics.results, metrics.missed = file.held(), numbers["missed"]
        metrics.removed = {reason: numbers[f"removed_{reason}"] for reason in metrics.removed}
        metrics.bytes, metrics.oldest_ms = file.used_bytes(), file.oldest_ms()

    def _fail(self, error: Exception) -> None:
        if not self.metrics.error:
            log.error("the history cannot be written, and is tried again: %s", error)
            self._alert("history_failed", f"the history of results cannot be written: {error}")
        self.metrics.error = str(error) or type(error).__name__

    def _set_aside(self, error: Exception) -> None:
        """Begin a new file; the damaged one is kept, and only one of them."""
        self._close()
        aside = self.path.with_name(f"{FILE_NAME}.damaged")
        for suffix in ("-wal", "-shm"):
            self.path.with_name(FILE_NAME + suffix).unlink(missing_ok=True)
        size = format_bytes(self.path.stat().st_size) if self.path.exists() else "nothing"
        self.path.replace(aside)
        text = f"the history was damaged ({error}); it begins anew, and {aside.name} has the old one ({size})"
        log.error("%s", text)
        self._alert("history_damaged", text)

    def _close(self) -> None:
        file, reader, self._file, self._reader = self._file, self._reader, None, None
        for one in (file, reader):
            if one is not None:
                with suppress(apsw.Error):
                    one.close()
