"""Commands of the pipeline in the writer's groups: take in a batch, and note that time has passed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.buffer.store import Store
from gateway.buffer.writer import TICK_EVERY_S, Command, Recurring, is_storage_fault
from gateway.core.events import Message
from gateway.pipeline.pipeline import Pipeline

IDLE_TICK_S = 1.0
"""Seconds between looks at the time while nothing comes in and nothing waits for it."""


class AppendBatch(Command):
    """Takes in what one turn of the ingest loop has read."""

    def __init__(
        self,
        pipeline: Pipeline,
        messages: Sequence[Message],
        acknowledge: Callable[[Sequence[Message]], None],
        retry: Callable[[Sequence[Message], Exception], None],
    ) -> None:
        self.weight = len(messages)
        self.size_bytes = sum(len(message.payload) for message in messages)
        self._pipeline = pipeline
        self._messages = messages
        self._acknowledge = acknowledge
        self._retry = retry

    def apply(self, store: Store) -> None:
        self._pipeline.take_in(store, self._messages)

    def committed(self) -> None:
        # Persist, then acknowledge: this is the only place from which a PUBACK starts.
        self._acknowledge(self._messages)

    def failed(self, error: Exception) -> None:
        # When it was the disk, the writer is stopping: what is not acknowledged comes again.
        if not is_storage_fault(error):
            self._retry(self._messages, error)


class Tick(Recurring):
    """Joins a group now and then, less often while nothing happens: what time alone brings about."""

    def __init__(self, pipeline: Pipeline, after: Callable[[], None]) -> None:
        self._pipeline = pipeline
        self._after = after

    def apply(self, store: Store) -> None:
        self._store = store
        self._pipeline.tick(store)
        self.pause_s = TICK_EVERY_S if self._pipeline.awaits_time else IDLE_TICK_S

    def committed(self) -> None:
        self._pipeline.ticked(self._store)
        self._after()
