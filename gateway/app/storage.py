"""The buffer's folder and file, the thread that changes them and the one that looks after them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from gateway.app.heartbeat import Heartbeat
from gateway.app.part import Part
from gateway.app.wakeups import Wakeups
from gateway.buffer.connection import PAGE_CACHE_BYTES
from gateway.buffer.dictionaries import DictionaryTrainer
from gateway.buffer.history.keeper import HistoryKeeper
from gateway.buffer.lock import DataDirLock, unusable_folder
from gateway.buffer.opening import open_buffer
from gateway.buffer.reader import Reader
from gateway.buffer.repair.damage import using
from gateway.buffer.store import Store
from gateway.buffer.writer import BACKLOG_BYTES, Writer
from gateway.cloud.bridge import Bridge
from gateway.config.origin import ConfigOrigin
from gateway.config.service_models import Buffer
from gateway.core.clock import Clock
from gateway.core.threads import HasThread
from gateway.flow.memory import MemoryBudget
from gateway.local.republish import Republish
from gateway.pipeline.commands import Tick
from gateway.pipeline.pipeline import Pipeline
from gateway.status.gateway_status import GatewayStatus

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 8.0


class OpenBuffer:
    """The buffer's file, mended where it has to be, and its folder, which no other gateway can use meanwhile.

    Everything is built on it, so it is opened first and closed last.
    """

    def __init__(
        self, path: Path, gateway_id: str, settings: Buffer, budget: MemoryBudget, clock: Clock
    ) -> None:
        self.path = path
        self._gateway_id = gateway_id
        self._settings = settings
        self._budget = budget
        self._clock = clock
        self._resources = ExitStack()

    def open(self) -> None:
        """Raises StoreError, BufferLockedError, and DamageError when a new start would mend the file."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise unusable_folder(self.path.parent, exc) from exc
        self._resources.enter_context(DataDirLock(self.path.parent))
        settings = self._settings
        opened = open_buffer(
            *(self.path, self._clock.now_ms(), settings.max_size, settings.synchronous),
            gateway_id=self._gateway_id,
            # The other half is for the connections that read.
            cache_bytes=min(PAGE_CACHE_BYTES, self._budget.cache_bytes // 2),
        )
        self.opened, self.store, self.space = opened, opened.store, opened.space
        self._resources.callback(self.store.close)
        if opened.recovery.alert:
            log.error("%s", opened.recovery.alert)
        with using(self.path):
            self.reader = Reader(self.path)
        self._resources.callback(self.reader.close)

    def close(self) -> None:
        self._resources.close()


def make_writer(buffer: OpenBuffer, settings: Buffer, budget: MemoryBudget, pipeline: Pipeline) -> Writer:
    """Return the writer of an open buffer, with the groups that its disk and the memory allow."""
    return Writer(
        buffer.store,
        group_limit=settings.group_limit,
        group_limit_bytes=buffer.space.group_bytes,
        group_time_s=settings.group_time_s,
        backlog_limit_bytes=min(BACKLOG_BYTES, budget.ingest_bytes),
        on_rollback=partial(pipeline.restore, buffer.store, buffer.reader),
        relief=pipeline.disk_guard,
        mark=buffer.opened.marker,
    )


class Writing(Part):
    """`gateway.writer`: brings the windows to the state of the last commit, then commits what comes.

    When it stops, what was read before is committed, with a last checkpoint.
    """

    def __init__(
        self,
        buffer: OpenBuffer,
        writer: Writer,
        pipeline: Pipeline,
        trainer: DictionaryTrainer,
        republish: Republish,
        bridges: Sequence[Bridge],
        history: HistoryKeeper | None = None,
        origin: ConfigOrigin | None = None,
    ) -> None:
        self._origin = origin or ConfigOrigin()
        self._buffer = buffer
        self._writer = writer
        self._pipeline = pipeline
        self._trainer = trainer
        self._republish = republish
        self._wakeups = Wakeups(buffer.store, republish, bridges, history)

    def start(self, status: GatewayStatus) -> None:
        """Raises DamageError when a new start would mend the file."""
        buffer, pipeline = self._buffer, self._pipeline
        with using(buffer.path):
            with buffer.store.transaction():
                _choose_windows(buffer.store, self._origin)
            replayed = pipeline.restore(buffer.store, buffer.reader)
        log.info("buffer open: %d events replayed into windows", replayed)
        self._writer.submit(buffer.opened.startup(pipeline.alert))
        heartbeat = Heartbeat(status, self._trainer, self._republish)
        self._writer.start(Tick(pipeline, heartbeat.beat), self._wakeups.committed)

    def stop(self) -> None:
        try:
            if works(self._writer):
                self._writer.call(self._pipeline.checkpoint, STOP_TIMEOUT_S)
        finally:
            if not self._writer.stop(STOP_TIMEOUT_S):
                log.error("the writer did not end in time; the broker sends unacknowledged messages again")

    @property
    def workers(self) -> Sequence[HasThread]:
        return (self._writer, self._trainer)


def _choose_windows(store: Store, origin: ConfigOrigin) -> None:
    """Set the windows aside where a trial begins, and bring them back where it was taken back."""
    owner = store.windows_aside.owner
    if owner is not None and owner != origin.number:
        store.bring_windows_back()
    if origin.on_trial:
        store.set_windows_aside(origin.number)
    elif owner is not None:
        store.windows_aside.forget()


def works(writer: Writer) -> bool:
    """Return True when a stop should wait for the disk. The next start repairs what the disk refuses now."""
    return writer.alive and not writer.metrics.storage_error
