"""The one thread that changes the buffer, and group commit.

Whatever must change the buffer is a command. The commands that waited while the previous commit ran are
the next group: one transaction, one fsync. So a lone command is committed at once, and a burst shares the
cost. Under load commits keep a least interval, unless a caller waits for one: a broker's in-flight window may
be as small as 20 messages.

Stopping: `stop` lets the commands that are already queued commit, runs a last tick, then ends the thread.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Generic, Protocol, TypeVar

import apsw

from gateway.buffer.commit_pace import CommitPace
from gateway.buffer.orm import DataError, IntegrityError, PeeweeException, ProgrammingError
from gateway.buffer.repair.commit_marker import CommitMarker
from gateway.buffer.store import Store
from gateway.core.errors import DisplacedError, LogHeldError, StoreError, plain_reason
from gateway.core.events import Status
from gateway.core.threads import RoleThread

log = logging.getLogger(__name__)

# What memory holds, after a transaction was rolled back.
_CURRENT, _RELOAD, _REOPEN = "current", "reload", "reopen"

_COMMAND_FAULTS = (
    *(apsw.ConstraintError, apsw.MismatchError, apsw.TooBigError, apsw.BindingsError),
    *(IntegrityError, ProgrammingError, DataError),
)


def is_storage_fault(error: Exception) -> bool:
    """Return True if the disk or the file is at fault, so that a later retry makes sense."""
    if isinstance(error, _COMMAND_FAULTS):
        return False
    return isinstance(error, (apsw.Error, PeeweeException, OSError, LogHeldError, DisplacedError))


def is_disk_full(error: Exception) -> bool:
    """Return True if a storage fault was caused by a full disk."""
    cause = _cause(error)
    if isinstance(cause, apsw.IOError):  # the index of the write-ahead log could not grow
        return bool(getattr(cause, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE)
    return isinstance(cause, apsw.FullError) or (isinstance(cause, OSError) and cause.errno == errno.ENOSPC)


def _cause(error: Exception) -> Exception:
    """The driver's own error: peewee keeps it as `orig`."""
    cause = getattr(error, "orig", error)
    return cause if isinstance(cause, Exception) else error


T = TypeVar("T")

RETRY_AFTER_S = 0.5
TICK_EVERY_S = 0.25
BULK_EVENTS = 1000  # a group of this size is worth its commit, however soon after the last one
LARGEST_STRETCH = 10.0
_SMOOTHING = 0.2  # of the newest commit; a single slow one changes little
BACKLOG_BYTES = 64 * 1024 * 1024


class Command:
    """A change of the buffer. All three methods run on the writer's thread.

    What `apply` finds out it keeps in attributes, for `committed`.
    """

    weight = 0
    """Number of events it carries, for the limits of a group and of the backlog."""
    size_bytes = 0
    """Memory that they use while they wait."""
    urgent = False
    """True if a caller waits for the commit, so that nothing else comes before it."""

    def apply(self, store: Store) -> None:
        """Change the buffer, inside the transaction. Runs again when the commit failed."""
        raise NotImplementedError

    def committed(self) -> None:
        """Act on the commit: the change is on disk now. Must neither block nor raise."""

    def failed(self, error: Exception) -> None:
        """Act on a failure that will not be retried. Must neither block nor raise."""
        log.error("%s failed and is given up: %s", type(self).__name__, error)


class Recurring(Command):
    """Work that is repeated, `pause_s` after the last time."""

    pause_s = TICK_EVERY_S


class Do(Command):
    """A call of a store's method that nobody waits for."""

    def __init__(self, change: Callable[[Store], object]) -> None:
        self._change = change

    def apply(self, store: Store) -> None:
        self._change(store)


class _Call(Command, Generic[T]):
    """A function of the store as a command whose caller waits for the result."""

    urgent = True

    def __init__(self, function: Callable[[Store], T]) -> None:
        self._function = function
        self._done = threading.Event()
        self._result: list[T] = []
        self._error: Exception | None = None

    def apply(self, store: Store) -> None:
        self._result = [self._function(store)]

    def committed(self) -> None:
        self._done.set()

    def failed(self, error: Exception) -> None:
        self._error = error
        self._done.set()

    def wait(self, timeout_s: float) -> T:
        if not self._done.wait(timeout_s):
            raise StoreError(f"the buffer did not answer within {timeout_s:g} s")
        if self._error is not None:
            raise self._error
        return self._result[0]


class _CallOutside(_Call[T]):
    """A function that must run between two transactions."""

    def __init__(self, function: Callable[[Store], T], store: Store) -> None:
        super().__init__(function)
        self._store = store

    def apply(self, store: Store) -> None:
        pass

    def committed(self) -> None:
        try:
            self._result = [self._function(self._store)]
        except Exception as exc:  # noqa: BLE001 - whatever it is, the caller gets it
            self._error = exc
        self._done.set()


class Relief(Protocol):
    """A way to make space on a full disk. On the writer's thread, outside of a transaction."""

    def check(self, store: Store, size_bytes: int) -> None:
        """Make room for a group that carries so much; asked before each. Raises OSError (ENOSPC) when what is
        left is needed to make room, and LogHeldError when the group has to wait."""

    def release(self) -> None:
        """Give away what can be given away without the database."""

    def relieve(self, store: Store) -> None:
        """Make room in transactions of its own. Raises what the disk raises."""


class WriterMetrics:
    """Plain numbers, written by the writer's thread, read by any."""

    def __init__(self) -> None:
        self.groups = 0
        self.grouped_events = 0
        self.failures = 0
        self.last_commit_s = 0.0  # how long the last COMMIT with its fsync took
        self.last_commit_at_s = 0.0  # monotonic
        self.commit_seconds = 0.0
        self.smoothed_commit_s = 0.0
        self.stretch = 1.0  # how much larger than configured a group may be, because the disk is slow
        self.storage_error = ""  # why the writer cannot commit right now; empty when it can
        self.damage = ""  # what SQLite said when it found the file damaged
        self.displaced = ""  # that the file was deleted or replaced; what it held is safe by then


class Writer:
    """Runs `gateway.writer`. It never does network I/O, and never loses a command: when the disk fails it
    rolls back, calls `on_rollback`, and tries the same group again until it commits or `stop` is called.
    When the disk is full it lets `relief` make room before that. When its commits take longer than
    `group_time_s`, groups may be larger by as much, up to LARGEST_STRETCH times: fewer of them cost less.
    `mark` is told how far each commit came, before anybody else is; only for commits that are synced.
    `pace` says how soon a commit may follow another.
    """

    def __init__(
        self,
        store: Store,
        *,
        group_limit: int = 2000,
        group_limit_bytes: int = 4 * 1024 * 1024,
        group_time_s: float = 0.1,
        backlog_limit: int = 20_000,
        backlog_limit_bytes: int = BACKLOG_BYTES,
        on_rollback: Callable[[], object] = lambda: None,
        relief: Relief | None = None,
        mark: CommitMarker | None = None,
        pace: CommitPace | None = None,
    ) -> None:
        self.metrics = WriterMetrics()
        self._pace = pace or CommitPace()
        self._store = store
        self._group_limit = group_limit
        self._group_limit_bytes = group_limit_bytes
        self._group_time_s = group_time_s
        self._backlog_limit = backlog_limit
        self._backlog_limit_bytes = backlog_limit_bytes
        self._tick: Recurring | None = None
        self._after_commit: Callable[[], object] = lambda: None
        self._on_rollback = on_rollback
        self._relief = relief
        self._mark = mark
        self._full = False
        self._queue: deque[Command] = deque()
        self._backlog = self._backlog_bytes = 0
        self._wakeup = threading.Condition()
        self._stopping = False
        self._pausing = False  # until it is time for the next commit, or there is a reason for it
        self._urgent = False  # a command in the queue is
        self._state = _CURRENT
        self._stop_waiting = threading.Event()
        self.thread = RoleThread("writer", self._run)

    def start(self, tick: Recurring | None = None, after_commit: Callable[[], object] = lambda: None) -> None:
        """Begin with what is queued already. `tick` joins a group when it is due, and makes one of its own
        when there is nothing else to do. `after_commit` follows when the commands have heard of theirs."""
        self._tick, self._after_commit = tick, after_commit
        self.metrics.last_commit_at_s = time.monotonic()
        self.thread.start()

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Commit what is queued and end the thread. False when the disk did not let it in time."""
        with self._wakeup:
            self._stopping = True
            self._wakeup.notify()
        self._stop_waiting.set()
        self.thread.join(timeout_s)
        return not self.thread.is_alive()

    @property
    def alive(self) -> bool:
        return self.thread.is_alive()

    @property
    def backlog(self) -> int:
        """Number of events that wait for their commit."""
        return self._backlog

    @property
    def pending_events(self) -> int:
        """Number of events that wait for the bridge, at the last commit."""
        return self._store.counts["status", Status.PENDING.name]

    @property
    def fill(self) -> float:
        """Fill level of the backlog, from 0 to 1 and a little above."""
        return max(self._backlog / self._backlog_limit, self._backlog_bytes / self._backlog_limit_bytes)

    @property
    def has_room(self) -> bool:
        """True while sources may go on reading. They must check it: `submit` does not refuse."""
        return self.fill < 1

    def submit(self, command: Command) -> None:
        """Queue `command`; its `committed` or `failed` will be called. Never blocks."""
        with self._wakeup:
            self._queue.append(command)
            self._backlog += command.weight
            self._backlog_bytes += command.size_bytes
            self._urgent |= command.urgent
            if not self._pausing or self._is_hurried():
                self._wakeup.notify()

    def call(self, function: Callable[[Store], T], timeout_s: float = 30.0) -> T:
        """Run `function(store)` in the next group and wait for its commit. Raises what it raises."""
        call = _Call(function)
        self.submit(call)
        return call.wait(timeout_s)

    def call_outside(self, function: Callable[[Store], T], timeout_s: float = 30.0) -> T:
        """Run `function(store)` between two transactions and wait for it. Raises what it raises."""
        call = _CallOutside(function, self._store)
        self.submit(call)
        return call.wait(timeout_s)

    # --- the thread ---

    def _run(self) -> None:
        next_tick = 0.0
        while True:
            group, stopping = self._take_group(next_tick)
            now = time.monotonic()
            tick = self._tick if stopping or now >= next_tick else None
            if tick is not None:
                group.append(tick)
            if group:
                if not any(command.urgent for command in group):  # else no caller chose this time
                    self._pace.committed(now)
                self._commit_until_done(group)
            if tick is not None:
                next_tick = now + tick.pause_s
            if stopping and not self._queue:
                return

    def _take_group(self, deadline_s: float) -> tuple[list[Command], bool]:
        group: list[Command] = []
        timeout_s = None if self._tick is None else max(0.0, deadline_s - time.monotonic())
        with self._wakeup:
            if not self._queue and not self._stopping:
                self._wakeup.wait(timeout_s)
            self._wait_for_company()
            weight = size_bytes = 0
            limit = self._group_limit * self.metrics.stretch
            while self._queue:
                command = self._queue[0]
                weight, size_bytes = weight + command.weight, size_bytes + command.size_bytes
                if group and (weight > limit or size_bytes > self._group_limit_bytes):
                    break
                group.append(self._queue.popleft())
                self._backlog -= command.weight
                self._backlog_bytes -= command.size_bytes
            self._urgent = self._urgent and bool(self._queue)
            return group, self._stopping

    def _wait_for_company(self) -> None:
        """Let more commands come, while the last commit was a moment ago and nothing presses."""
        self._pausing = True
        while self._queue and not self._is_hurried():
            pause_s = self._pace.pause_s(time.monotonic())
            if pause_s <= 0:
                break
            self._wakeup.wait(pause_s)
        self._pausing = False

    def _is_hurried(self) -> bool:
        return self._urgent or self._stopping or self._backlog >= BULK_EVENTS

    def _commit_until_done(self, group: list[Command]) -> None:
        while group:
            try:
                count = self._commit(group)
            except LogHeldError as exc:  # nothing was begun, and nothing has to be opened anew
                self.metrics.failures += 1
                self._wait(exc)
                if self._stopping:
                    _fail_all(group, exc)
                    return
            except Exception as exc:  # noqa: BLE001 - told apart below; this thread must go on
                self.metrics.failures += 1
                # No command is at fault either when memory could not be brought back to what the disk holds.
                if is_storage_fault(exc) or self._state != _CURRENT:
                    self._wait_for_storage(exc)
                    if self._stopping:
                        _fail_all(group, exc)
                        return
                else:
                    # A defect in a command must not stop the pipeline nor take the group with it.
                    self._state = _RELOAD
                    self._isolate(group, exc)
                    return
            else:
                for command in group[:count]:
                    _tell(command.committed)
                _tell(self._after_commit)
                group = group[count:]

    def _isolate(self, group: list[Command], error: Exception) -> None:
        if len(group) == 1:
            log.error("a command of the buffer failed and will not be retried", exc_info=error)
            _tell(partial(group[0].failed, error))
            return
        for command in group:
            self._commit_until_done([command])

    def _commit(self, group: list[Command]) -> int:
        """Commit as many of `group` as its time allows, in one transaction; returns how many."""
        self._catch_up()
        if self._relief:
            self._relief.check(self._store, sum(command.size_bytes for command in group))
        group_time_s = self._group_time_s * self.metrics.stretch
        count, started_s = 0, time.monotonic()
        with self._store.transaction():
            for command in group:
                command.apply(self._store)
                count += 1
                applied_s = time.monotonic()
                # While the disk fails, the smallest transaction has the best chance.
                if applied_s - started_s > group_time_s or self.metrics.storage_error:
                    break
        if self._store.is_displaced:  # before anybody hears of this commit
            raise DisplacedError(f"{self._store.path} was deleted or replaced while the gateway ran")
        if self._mark:
            self._mark.write(self._store.last_id())
        self._note_commit(applied_s, sum(command.weight for command in group[:count]))
        return count

    def _note_commit(self, started_s: float, events: int) -> None:
        metrics, now = self.metrics, time.monotonic()
        metrics.groups += 1
        metrics.grouped_events += events
        metrics.last_commit_s = now - started_s
        metrics.commit_seconds += metrics.last_commit_s
        if events:  # a tick often writes nothing, and says nothing about the disk
            metrics.smoothed_commit_s += _SMOOTHING * (metrics.last_commit_s - metrics.smoothed_commit_s)
            slowness = metrics.smoothed_commit_s / max(self._group_time_s, 0.001)
            metrics.stretch = min(max(1.0, slowness), LARGEST_STRETCH)
        metrics.last_commit_at_s = now
        if metrics.storage_error:
            log.warning("the buffer can be written again")
            metrics.storage_error = ""

    def _catch_up(self) -> None:
        """Bring memory back to the state of the disk after a rollback, before anything else."""
        relief = self._relief if self._full else None
        if relief:
            relief.release()  # even to open the file may take room
        if self._state == _REOPEN:
            self._rescue()
            self._store.reopen()
        elif self._state == _RELOAD:
            with self._store.transaction():
                self._store.reload()
        if self._state != _CURRENT:
            self._on_rollback()
            self._state = _CURRENT
        if relief:
            self._state = _REOPEN  # until it has worked out
            relief.relieve(self._store)
            self._state, self._full = _CURRENT, False

    def _rescue(self) -> None:
        """Check, before a file is opened anew, that it still holds what was acknowledged. Raises
        DisplacedError when it does not; a new start goes on with what is written here, as soon as there is a
        place for it."""
        if not self._store.is_displaced:
            return
        problem = f"{self._store.path} was deleted or replaced while the gateway ran"
        if not self.metrics.displaced:
            try:
                self._store.rescue()
            except (apsw.Error, OSError) as exc:
                raise DisplacedError(
                    f"{problem}, and what it held cannot be written again: {plain_reason(exc)}"
                ) from exc
            self.metrics.displaced = problem
        raise DisplacedError(problem)

    def _wait_for_storage(self, error: Exception) -> None:
        # After a failed fsync the operating system may have dropped the pages: start from the file again.
        self._state = _REOPEN
        self._full = is_disk_full(error)
        if isinstance(_cause(error), (apsw.CorruptError, apsw.NotADBError)):
            self.metrics.damage = str(error) or type(error).__name__
        self._wait(error)

    def _wait(self, error: Exception) -> None:
        if not self.metrics.storage_error:
            log.error("the buffer cannot be written; messages are not acknowledged until it can: %s", error)
        self.metrics.storage_error = str(error) or type(error).__name__
        self._stop_waiting.wait(RETRY_AFTER_S)


def _fail_all(group: list[Command], error: Exception) -> None:
    for command in group:
        _tell(partial(command.failed, error))


def _tell(callback: Callable[[], object]) -> None:
    """The commands behind this one must hear of their commit, and the thread must go on."""
    try:
        callback()
    except Exception:
        log.exception("what should follow a commit failed")
