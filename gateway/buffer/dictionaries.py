"""Trains dictionaries beside the writer: a family's first payloads become its dictionary."""

from __future__ import annotations

import logging
import threading

from gateway.buffer.compression import train
from gateway.buffer.store import Store
from gateway.buffer.writer import Command, Writer
from gateway.clock import Clock

log = logging.getLogger(__name__)


class DictionaryTrainer:
    """Call `poll` on the writer's thread; training runs in a short-lived `gateway.dictionaries` thread."""

    def __init__(self, store: Store, writer: Writer, clock: Clock) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock

    def poll(self) -> None:
        """Start training for families that have collected enough samples."""
        ready = self._store.compressor.take_trainable()
        if ready:
            thread = threading.Thread(
                target=self._train, args=(ready,), name="gateway.dictionaries", daemon=True
            )
            thread.start()

    def _train(self, ready: list[tuple[str, list[bytes]]]) -> None:
        for family, samples in ready:
            content = train(samples)
            if content is None:
                log.info("payloads of %r have nothing in common, they are stored without dictionary", family)
                continue
            self._writer.submit(InstallDictionary(family, content, self._clock.now_ms()))


class InstallDictionary(Command):
    """Makes a trained dictionary the one of its family."""

    def __init__(self, family: str, content: bytes, now_ms: int) -> None:
        self._family = family
        self._content = content
        self._now_ms = now_ms

    def apply(self, store: Store) -> None:
        store.install_dictionary(self._family, self._content, self._now_ms)

    def committed(self) -> None:
        log.info("payloads of %r are now compressed with a dictionary of their own", self._family)
