"""Trains dictionaries beside the writer: a family's first payloads become its dictionary, and when that fits
no longer, recent ones become the next, if it is better."""

from __future__ import annotations

import logging
from functools import partial

from gateway.buffer.compression import Trained, Training, learn
from gateway.buffer.store import Store
from gateway.buffer.writer import Command, Writer
from gateway.core.clock import Clock
from gateway.core.threads import RoleThread
from gateway.host.memory import give_back

log = logging.getLogger(__name__)


class DictionaryTrainer:
    """Call `poll` on the writer's thread; training runs in a short-lived `gateway.dictionaries` thread."""

    def __init__(self, store: Store, writer: Writer, clock: Clock) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock
        self.thread: RoleThread | None = None
        """The first training that failed, else the newest one."""

    def poll(self) -> None:
        """Start training for families that have collected enough samples. Cheap when there are none."""
        ready = self._store.compressor.take_trainable()
        if ready:
            thread = RoleThread("dictionaries", partial(self._train, ready), brief=True)
            if self.thread is None or not self.thread.failure:
                self.thread = thread
            thread.start()

    def _train(self, ready: list[Training]) -> None:
        for training in ready:
            self._writer.submit(Take(training, learn(training), self._clock.now_ms()))
        give_back()  # some 6 MB


class Take(Command):
    """Takes over what a training gave: a dictionary for the family, or the word that none does better."""

    def __init__(self, training: Training, trained: Trained, now_ms: int) -> None:
        self._family = training.family
        self._is_first = training.old is None
        self._trained = trained
        self._now_ms = now_ms

    def apply(self, store: Store) -> None:
        dictionary, ratio = self._trained
        if dictionary is None:
            store.dictionaries.keep(self._family, ratio)
        else:
            store.dictionaries.install(self._family, dictionary, self._now_ms, ratio)

    def committed(self) -> None:
        share = f"{100 * self._trained.ratio:.0f} %"
        if self._trained.dictionary is not None:
            log.info("payloads of %r are compressed with a new dictionary, to %s", self._family, share)
        elif self._is_first:
            log.info(
                "payloads of %r have nothing in common, they are stored without dictionary", self._family
            )
        else:
            log.info(
                "payloads of %r changed and compress to %s; no dictionary does better", self._family, share
            )
