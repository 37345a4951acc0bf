"""Looks after a buffer in use, beside the writer: verifies what is in it, and keeps its backup fresh.

Invariants:
- It only reads the buffer. What it finds out reaches the buffer as a command to the writer.
- It works in small steps and rests after each, because ingest and bridge come first.
- A damaged buffer is not backed up: the last good backup stays.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import apsw

from gateway.buffer.orm import PeeweeException
from gateway.buffer.reader import Reader
from gateway.buffer.repair.backup import back_up
from gateway.buffer.repair.damage import note_damage, noted_damage
from gateway.buffer.repair.recovery import backup_path
from gateway.buffer.repair.verification import DAMAGES, Verification
from gateway.buffer.retention.log_guard import copy_allowance_bytes
from gateway.buffer.store import Store
from gateway.buffer.writer import Command, Do, Writer
from gateway.core.clock import Clock
from gateway.core.errors import DamageError, StoreError
from gateway.core.events import Status
from gateway.core.threads import RoleThread
from gateway.delivery.states import DeliveryEvent

log = logging.getLogger(__name__)

VERIFY_EVERY_S = 24 * 3600.0  # bits rot while a gateway runs for months, too
RESTS_PER_STEP = 3.0
FIRST_BACKUP_S = 600.0  # a gateway that is restarted again and again has other worries
BACKUP_AGAIN_S = 3600.0  # after one that failed
PROGRESS_EVERY_S = 10.0
_BACKUP_REST_S = 0.005
_IDLE_S = 1.0
_TRY_AGAIN_S = 60.0


class UpkeepMetrics:
    """Plain numbers, written by the upkeep's thread (`mismatches` by the writer's), read by any."""

    def __init__(self) -> None:
        self.verified_events = 0
        self.verified_share = 0.0  # of the current walk, 0 to 1
        self.mismatches = 0
        self.damage = ""  # what is wrong with the file itself; only a restart mends it
        self.failed_backups = 0  # since the last one that was made


@dataclass(frozen=True)
class BackupPlan:
    """Backup interval and the largest size of the buffer: that much space is left to it."""

    every_ms: int
    max_size_bytes: int


class _Stopped(Exception):  # noqa: N818 - no error: the gateway stops while a backup is being made
    pass


class Upkeep:
    """Runs `gateway.upkeep`. It never writes the buffer and never raises; it says by `alert(name, message)`
    what the operator should know. It calls `beside` with the monotonic time, for what else has to be
    looked at now and then."""

    def __init__(
        self,
        path: Path,
        writer: Writer,
        alert: Callable[[str, str], None],
        clock: Clock,
        backups: BackupPlan | None = None,
        beside: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.metrics = UpkeepMetrics()
        self._backups = backups
        self._beside = beside
        self._next_backup_s = 0.0
        self._path = path
        self._writer = writer
        self._alert = alert
        self._clock = clock
        self._walk: _Walk | None = None
        self._next_walk_s = 0.0
        self._stop = threading.Event()
        self.thread = RoleThread("upkeep", self._run)

    def start(self) -> None:
        self.thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        self._stop.set()
        self.thread.join(timeout_s)

    # --- the thread ---

    def _run(self) -> None:
        self._next_backup_s = self._clock.monotonic_s() + self._until_backup_s()
        while not self._stop.is_set():
            started_s = self._clock.monotonic_s()
            self._beside(started_s)
            try:
                worked = self._work(started_s)
            except DamageError as exc:
                self._damaged(str(exc))
                worked = False
            except (apsw.Error, PeeweeException, OSError) as exc:
                log.warning("the buffer cannot be verified now: %s", exc)
                self._end_walk(started_s + _TRY_AGAIN_S)
                worked = False
            took_s = self._clock.monotonic_s() - started_s
            self._stop.wait(took_s * RESTS_PER_STEP if worked else _IDLE_S)
        self._end_walk(0.0)

    def _work(self, now_s: float) -> bool:
        """Take the next step of what there is to do; False when there was nothing."""
        if self._writer.metrics.damage:
            self._damaged(self._writer.metrics.damage)
        elif not self.metrics.damage and (found := noted_damage(self._path)):
            self._damaged(found)  # by a command that read it meanwhile
        if self.metrics.damage:
            return False
        if self._backups is not None and now_s >= self._next_backup_s:
            self._back_up(self._backups)
            return False
        if now_s < self._next_walk_s:
            return False
        if self._walk is None:
            self._walk = _Walk(self._path, now_s)
        self._verify(self._walk, now_s)
        return True

    # --- backup ---

    def _until_backup_s(self) -> float:
        """Return how long the existing backup is still recent enough."""
        backup = backup_path(self._path)
        every_s = 0.0 if self._backups is None else self._backups.every_ms / 1000
        age_s = self._clock.now_ms() / 1000 - backup.stat().st_mtime if backup.exists() else every_s
        return max(min(FIRST_BACKUP_S, every_s), every_s - max(0.0, age_s))

    def _back_up(self, plan: BackupPlan) -> None:
        started_s = self._clock.monotonic_s()
        every_s = plan.every_ms / 1000
        may_grow_bytes = max(0, plan.max_size_bytes - self._path.stat().st_size)
        try:
            back_up(
                self._path,
                progress=self._rest,
                keep_free_bytes=may_grow_bytes,
                log_limit_bytes=copy_allowance_bytes(plan.max_size_bytes),
            )
        except _Stopped:
            return
        except (StoreError, apsw.Error, OSError) as exc:
            if not self.metrics.failed_backups:  # the first of a row
                self._alert("backup_failed", f"the buffer was not backed up: {exc}")
            self.metrics.failed_backups += 1
            log.warning("the buffer was not backed up, the last backup stays: %s", exc)
            self._next_backup_s = started_s + min(BACKUP_AGAIN_S, every_s)
            return
        self.metrics.failed_backups = 0
        self._next_backup_s = started_s + every_s
        log.info("the buffer is backed up, in %.1f s", self._clock.monotonic_s() - started_s)

    def _rest(self, _done: int, _total: int) -> None:
        """Rest between two steps of a backup: briefly, because the write-ahead log cannot be reset
        meanwhile."""
        if self._stop.wait(_BACKUP_REST_S):
            raise _Stopped

    # --- verification ---

    def _verify(self, walk: _Walk, now_s: float) -> None:
        verification, metrics = walk.verification, self.metrics
        events, wrong = verification.step()
        metrics.verified_events += events
        metrics.verified_share = verification.done / verification.total if verification.total else 1.0
        walk.events += events
        if wrong:
            self._writer.submit(MarkCorrupt(wrong, metrics, walk))
        if verification.finished:
            self._finish(walk, now_s)
        elif now_s >= walk.next_word_s:
            walk.next_word_s = now_s + PROGRESS_EVERY_S
            log.info("%d events verified, %.0f %%", walk.events, 100 * metrics.verified_share)

    def _finish(self, walk: _Walk, now_s: float) -> None:
        log.info("%d events verified in %.1f s", walk.events, now_s - walk.started_s)
        self._writer.submit(Afterwards(lambda: self._say_marked(walk.marked)))
        unused = walk.verification.unused_codecs
        if unused:
            self._writer.submit(Do(lambda store: store.dictionaries.forget(unused)))
        self._end_walk(now_s + VERIFY_EVERY_S)

    def _say_marked(self, marked: int) -> None:
        if marked:
            found = f"{marked} pending events have a wrong checksum; they are kept and never sent"
            log.error("%s", found)
            self._alert("corrupt_events", f"{found}: gateway buffer list --status corrupt")

    def _end_walk(self, next_walk_s: float) -> None:
        walk, self._walk = self._walk, None
        self._next_walk_s = next_walk_s
        if walk is not None:
            walk.reader.close()

    def _damaged(self, problem: str) -> None:
        """The file itself is damaged: have the next start look at all of it, and say so until then."""
        self._end_walk(0.0)
        if self.metrics.damage:
            return
        self.metrics.damage = problem
        log.error("the buffer's file is damaged: %s", problem)
        try:
            note_damage(self._path, problem)
        except OSError as exc:
            log.error("the damage cannot be noted for the next start: %s", exc)
        self._alert(
            "buffer_damaged",
            f"the buffer's file is damaged ({problem}); a restart of the gateway saves what is readable",
        )


class _Walk:
    """A verification on its way."""

    def __init__(self, path: Path, now_s: float) -> None:
        try:
            self.reader = Reader(path)
        except DAMAGES as exc:
            raise DamageError(f"it cannot be opened: {exc}") from exc
        self.verification = Verification(self.reader)
        self.started_s = now_s
        self.next_word_s = now_s + PROGRESS_EVERY_S
        self.events = 0
        self.marked = 0


class Afterwards(Command):
    """Goes on when everything that was submitted before is committed."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def apply(self, store: Store) -> None:
        pass

    def committed(self) -> None:
        self._then()


class MarkCorrupt(Command):
    """Takes PENDING and KEPT events with a wrong checksum out of the way of the bridge. Those that
    the bridge has claimed it looks at itself."""

    def __init__(self, ids: Sequence[int], metrics: UpkeepMetrics, walk: _Walk) -> None:
        self._ids = ids
        self._metrics = metrics
        self._walk = walk
        self._marked = 0

    def apply(self, store: Store) -> None:
        waiting = (Status.PENDING, Status.KEPT)
        self._marked = sum(store.move(self._ids, status, DeliveryEvent.MISMATCH) for status in waiting)

    def committed(self) -> None:
        self._metrics.mismatches += self._marked
        self._walk.marked += self._marked
