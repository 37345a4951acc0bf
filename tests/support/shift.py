"""A gateway's storage at work, whose acknowledgements somebody outside of it notes: for tests that break it.

Each message follows from its number, so what is found can be compared with what was sent.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import pytest

from gateway.buffer.connection import WAL_CHECKPOINT_PAGES
from gateway.buffer.reader import Reader
from gateway.buffer.repair.commit_marker import CommitMarker
from gateway.buffer.repair.recovery import recover
from gateway.buffer.startup_command import StartupCommand
from gateway.buffer.store import Store
from gateway.buffer.writer import Command, Writer
from gateway.cloud.commands import SettleEvents
from gateway.core.events import Kind, Message
from gateway.core.own_topics import OwnTopics
from gateway.decode.routes import RouteSpec, RouteTable
from gateway.delivery.states import DeliveryEvent
from gateway.pipeline.commands import AppendBatch, Tick
from gateway.pipeline.pipeline import Pipeline
from gateway.testing import ManualClock
from gateway.windows.engine import WindowEngine
from gateway.windows.spec import WindowSpec
from tests.support.buffers import EPOCH_MS
from tests.support.windowing import shipped

PATIENCE_S = 30.0
ROUTE = RouteSpec(
    "sensors", "s/{device}", timestamp_path="t", timestamp_format="unix_ms", timestamp="trusted"
)
WINDOW = WindowSpec("minute", "tumbling", route="sensors", fields=("v",), key="{device}", size_ms=60_000)
KEEP_SYNCED_MS = 60_000
FILE = "events.db"
Synchronous: TypeAlias = Literal["full", "normal"]


class Sent(NamedTuple):
    """So many messages are on their way to the gateway, or were."""

    messages: int


class Stored(NamedTuple):
    """The gateway has acknowledged these messages to the local broker."""

    numbers: tuple[int, ...]


class Settled(NamedTuple):
    """The cloud has these messages; from here on they may become SYNCED, and retention may remove them."""

    numbers: tuple[int, ...]


class Marked(NamedTuple):
    """The mark beside the buffer says so from here on."""

    last_id: int


class _NotedMark(CommitMarker):
    def __init__(self, path: Path, note: Callable[[object], None]) -> None:
        super().__init__(path)
        self._note = note

    def write(self, last_id: int) -> None:
        super().write(last_id)
        self._note(Marked(last_id))


class Shift:
    """A gateway's storage at work on one file: real store, writer, pipeline, windows, retention."""

    def __init__(
        self,
        folder: Path,
        synchronous: Synchronous,
        note: Callable[[object], None] = lambda _: None,
        log_pages: int = WAL_CHECKPOINT_PAGES,
    ) -> None:
        self.path = folder / FILE
        self.clock = ManualClock(EPOCH_MS)
        self._synchronous = synchronous
        self._note = note
        self._log_pages = log_pages

    @contextmanager
    def running(self) -> Iterator[Writer]:
        """As `gateway run` starts and stops it."""
        self.recovery = recover(self.path, self.clock.now_ms(), self._synchronous)
        self.store = Store(self.path, self._synchronous)
        self.store.open()
        self.store._connection.execute(f"PRAGMA wal_autocheckpoint = {self._log_pages}")
        self.pipeline = Pipeline(
            OwnTopics("gateway", "g1"),
            RouteTable([ROUTE]),
            partial(WindowEngine, [WINDOW], {WINDOW.name: shipped("stats")}),
            self.clock,
            checkpoint_interval_ms=3_000,
            keep_synced_ms=KEEP_SYNCED_MS,
        )
        self.reader = Reader(self.path)
        mark = _NotedMark(self.path, self._note)
        self.opening = StartupCommand(self.recovery, self.pipeline.alert, mark.read())
        self.pipeline.restore(self.store, self.reader)
        self.writer = Writer(self.store, mark=mark if self._synchronous == "full" else None)
        self.writer.submit(self.opening)
        self.writer.start()
        try:
            yield self.writer
        finally:
            assert self.writer.stop()
            self.reader.close()
            self.store.close()

    def take_in(self, numbers: Sequence[int], *, dup: bool = False) -> AppendBatch:
        """A command that stores these messages; `dup`: the broker delivers them again."""
        return AppendBatch(
            self.pipeline,
            [self._message(number, dup) for number in numbers],
            lambda _: self._note(Stored(tuple(numbers))),
            lambda _, error: pytest.fail(str(error)),
        )

    def _message(self, number: int, dup: bool) -> Message:
        topic, payload = what_was_sent(number)
        packet_id = number % 65_535 + 1  # as a broker hands them out, in turn
        return Message(topic, payload, 1, False, dup, packet_id, 1, self.clock.now_ms())

    def bridge(self, limit: int) -> None:
        """Claim, and settle in a later commit what the cloud is said to have taken."""
        ids = self.writer.call(lambda store: store.claim(limit))
        events = self.reader.by_ids(ids)
        raw = events.pick([at for at, kind in enumerate(events.kinds) if kind == Kind.RAW])
        self._note(Settled(tuple(map(number_of, self.reader.payloads(raw)))))
        self.writer.submit(SettleEvents(ids, DeliveryEvent.PUBACK))

    def work(self, chance: random.Random, rounds: int, sent: int = 0) -> int:
        """Some rounds of messages, ticks and settling; `sent` messages came before, returns how many now."""
        for _ in range(rounds):
            self.clock.advance(chance.randrange(5_000))
            with held(self.writer):  # what comes now is one group
                for _ in range(chance.randint(1, 4)):
                    count = chance.randint(1, 12)
                    self._note(Sent(sent + count))
                    self.writer.submit(self.take_in(range(sent, sent + count)))
                    sent += count
                if chance.random() < 0.5:
                    self.writer.submit(Tick(self.pipeline, lambda: None))
            if chance.random() < 0.3:
                self.bridge(chance.randint(1, 60))
        self.writer.call(lambda _: None)
        return sent


class _Hold(Command):
    """Keeps the writer's thread busy, so that what is submitted meanwhile becomes one group."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()

    def apply(self, store: Store) -> None:
        pass

    def committed(self) -> None:
        self.reached.set()
        self.go_on.wait(PATIENCE_S)


@contextmanager
def held(writer: Writer) -> Iterator[None]:
    hold = _Hold()
    writer.submit(hold)
    assert hold.reached.wait(PATIENCE_S)
    yield
    hold.go_on.set()


def what_was_sent(number: int) -> tuple[str, bytes]:
    reading = {"n": number, "v": number % 97, "t": EPOCH_MS + number * 250, "pad": "x" * (number * 7 % 300)}
    return f"s/d{number % 5}", json.dumps(reading).encode()


def contents(reader: Reader) -> dict[int, tuple[str, bytes]]:
    """Topic and payload of each message that is there, by number; fails on one that is there twice."""
    here: dict[int, tuple[str, bytes]] = {}
    for events in reader.raw_after(0):
        good, corrupt = reader.without_corrupt(events)
        assert not corrupt
        for topic, payload in zip(reader.names(good.stream_ids), reader.payloads(good), strict=True):
            number = number_of(payload)
            assert number not in here, f"message {number} is there twice"
            here[number] = topic, payload
    return here


def number_of(payload: bytes) -> int:
    return int(json.loads(payload)["n"])


def missing(notes: Sequence[object], here: Container[int]) -> frozenset[int]:
    """What was acknowledged and is neither here nor in the cloud."""
    acknowledged = {n for note in notes if isinstance(note, Stored) for n in note.numbers}
    in_the_cloud = {n for note in notes if isinstance(note, Settled) for n in note.numbers}
    return frozenset(n for n in acknowledged - in_the_cloud if n not in here)
