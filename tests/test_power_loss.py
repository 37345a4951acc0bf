"""Power cuts at every moment, under the real store, writer and pipeline: what was acknowledged is there (P1).

A recording disk (`power.py`) notes each write and sync of a shift of work, and in between what was
acknowledged. Then it is rebuilt as a power cut would have left it, and a gateway starts on it.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import pytest
from buffers import EPOCH_MS
from power import TEARS, Content, Disk, Note, Operation, recorded, restore
from windowing import shipped

from gateway.buffer.audit import audit
from gateway.buffer.reading import Reader
from gateway.buffer.recovery import WHOLE, recover
from gateway.buffer.store import Store
from gateway.buffer.writer import Command, Writer
from gateway.delivery import Happening
from gateway.events import Kind, Message
from gateway.mqtt.bridge import Settle
from gateway.pipeline import AppendBatch, OutputTopics, Pipeline, Tick
from gateway.routes import RouteSpec, RouteTable
from gateway.testing import ManualClock
from gateway.windows.engine import WindowEngine
from gateway.windows.spec import WindowSpec

ROUTE = RouteSpec(
    "sensors", "s/{device}", timestamp_path="t", timestamp_format="unix_ms", timestamp="trusted"
)
WINDOW = WindowSpec("minute", "tumbling", route="sensors", fields=("v",), key="{device}", size_ms=60_000)
KEEP_SYNCED_MS = 60_000
WAL_CHECKPOINT_PAGES = 40  # so that a short shift has many checkpoints of the log
PATIENCE_S = 30.0
FILE = "events.db"
Synchronous: TypeAlias = Literal["full", "normal"]
NEXT_MESSAGE = 1_000_000

log = logging.getLogger(__name__)


class Stored(NamedTuple):
    """The gateway has acknowledged these messages to the local broker."""

    numbers: tuple[int, ...]


class Settled(NamedTuple):
    """The cloud has these messages; from here on they may become SYNCED, and retention may remove them."""

    numbers: tuple[int, ...]


class Shift:
    """A gateway's storage at work on one file: real store, writer, pipeline, windows, retention."""

    def __init__(self, folder: Path, synchronous: Synchronous, notes: list[Operation]) -> None:
        self.path = folder / FILE
        self.clock = ManualClock(EPOCH_MS)
        self._synchronous = synchronous
        self._notes = notes
        self._packet_id = 0

    @contextmanager
    def running(self) -> Iterator[Writer]:
        """As `gateway run` starts and stops it."""
        self.recovery = recover(self.path, self.clock.now_ms(), self._synchronous)
        self.store = Store(self.path, self._synchronous)
        self.store.open()
        self.store._connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_CHECKPOINT_PAGES}")
        self.pipeline = Pipeline(
            OutputTopics("gateway", "g1"),
            RouteTable([ROUTE]),
            partial(WindowEngine, [WINDOW], {WINDOW.name: shipped("stats")}),
            self.clock,
            checkpoint_interval_ms=3_000,
            keep_synced_ms=KEEP_SYNCED_MS,
        )
        self.reader = Reader(self.path)
        with self.store.transaction():
            self.store.release_all()
        self.pipeline.restore(self.store, self.reader)
        self.writer = Writer(self.store)
        self.writer.start()
        try:
            yield self.writer
        finally:
            assert self.writer.stop()
            self.reader.close()
            self.store.close()

    def message(self, number: int) -> Message:
        """A reading whose topic and payload follow from its number."""
        self._packet_id = self._packet_id % 65_535 + 1
        topic, payload = what_was_sent(number)
        return Message(topic, payload, 1, False, False, self._packet_id, 1, self.clock.now_ms())

    def take_in(self, numbers: Sequence[int]) -> AppendBatch:
        stored = Note(Stored(tuple(numbers)))
        return AppendBatch(
            self.pipeline,
            [self.message(number) for number in numbers],
            lambda _: self._notes.append(stored),
            lambda _, error: pytest.fail(str(error)),
        )

    def bridge(self, limit: int) -> None:
        """Claim, and settle in a later commit what the cloud is said to have taken."""
        ids = self.writer.call(lambda store: store.claim(limit))
        events = self.reader.by_ids(ids)
        raw = events.pick([at for at, kind in enumerate(events.kinds) if kind == Kind.RAW])
        self._notes.append(Note(Settled(tuple(map(number_of, self.reader.payloads(raw))))))
        self.writer.submit(Settle(ids, Happening.PUBACK))

    def work(self, chance: random.Random, rounds: int) -> int:
        """Some rounds of messages, ticks and settling; returns how many messages there were."""
        sent = 0
        for _ in range(rounds):
            self.clock.advance(chance.randrange(5_000))
            with held(self.writer):  # what comes now is one group
                for _ in range(chance.randint(1, 4)):
                    count = chance.randint(1, 12)
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


def recorded_shift(
    folder: Path, synchronous: Synchronous, chance: random.Random, rounds: int
) -> tuple[list[Operation], Path]:
    """What a new buffer wrote, synced and acknowledged in two runs; and a folder for what is left of it."""
    operations: list[Operation] = []
    (left := folder / "left").mkdir()
    with recorded(operations):
        shift = Shift(folder, synchronous, operations)
        with shift.running():
            sent = shift.work(chance, rounds)
        with shift.running() as writer:  # a clean stop removed the log; it is made anew
            writer.submit(shift.take_in(range(sent, sent + 20)))
    return operations, left


class Outcome(NamedTuple):
    """What a start after a power cut found."""

    missing: frozenset[int]  # acknowledged messages that are neither there nor in the cloud
    problems: tuple[str, ...]


def start_after_cut(
    files: Content, folder: Path, notes: Sequence[object], synchronous: Synchronous = "full"
) -> Outcome:
    """Start a gateway on what is left, and compare with what was acknowledged before the cut."""
    restore(files, folder)
    shift = Shift(folder, synchronous, [])
    with shift.running() as writer:
        here = contents(shift.reader)
        writer.submit(shift.take_in([NEXT_MESSAGE]))  # and it goes on
        writer.submit(Tick(shift.pipeline, lambda: None))
        writer.call(lambda _: None)
        problems = audit(shift.reader).problems
        went_on = NEXT_MESSAGE in contents(shift.reader)
    if shift.recovery != WHOLE:
        problems += (f"a power cut was taken for damage: {shift.recovery}",)
    if not went_on:
        problems += ("what came after the start is not there",)
    problems += tuple(f"{sent} was never sent" for n, sent in here.items() if sent != what_was_sent(n))
    acknowledged = {n for note in notes if isinstance(note, Stored) for n in note.numbers}
    in_the_cloud = {n for note in notes if isinstance(note, Settled) for n in note.numbers}
    return Outcome(frozenset(acknowledged - in_the_cloud - here.keys()), problems)


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


def cut_and_start(
    operations: Sequence[Operation],
    folder: Path,
    chance: random.Random,
    share: float,
    synchronous: Synchronous = "full",
) -> dict[str, list[Outcome]]:
    """Cut the power before that share of the operations, in each way; what the starts found, by way."""
    disk, notes = Disk({}), list[object]()
    found: dict[str, list[Outcome]] = {tear.__name__: [] for tear in TEARS}
    for operation in operations:
        if chance.random() < share:
            for tear in TEARS:
                left = disk.after_power_cut(tear, chance)
                found[tear.__name__].append(start_after_cut(left, folder, notes, synchronous))
        if isinstance(operation, Note):
            notes.append(operation.what)
        disk.apply(operation)
    return found


def cut_the_start(
    left: Content, folder: Path, notes: Sequence[object], chance: random.Random
) -> list[Outcome]:
    """Start on what a power cut has left, and cut the power at every moment of that start too."""
    restore(left, folder)
    operations: list[Operation] = []
    with recorded(operations):
        shift = Shift(folder, "full", operations)
        with shift.running() as writer:
            writer.submit(shift.take_in(range(2 * NEXT_MESSAGE, 2 * NEXT_MESSAGE + 5)))
    disk, notes, found = Disk(left), list(notes), []
    for operation in operations:
        found.append(start_after_cut(disk.after_power_cut(chance.choice(TEARS), chance), folder, notes))
        if isinstance(operation, Note):
            notes.append(operation.what)
        disk.apply(operation)
    return found


def summary(found: dict[str, list[Outcome]]) -> str:
    return "; ".join(
        f"{way}: {len(outcomes)} cuts, {sum(bool(o.missing) for o in outcomes)} of them lost acknowledged"
        f" messages, {max(len(o.missing) for o in outcomes)} at worst"
        for way, outcomes in found.items()
    )


@pytest.fixture
def seed() -> int:
    seed = random.SystemRandom().randrange(2**32)
    log.warning("seed %d", seed)  # pytest shows it when a test fails
    return seed


@pytest.mark.parametrize(
    ("rounds", "share"),
    [pytest.param(25, 0.03, id="short"), pytest.param(60, 1.0, id="long", marks=pytest.mark.slow)],
)
def test_no_power_cut_loses_an_acknowledged_message(
    tmp_path: Path, seed: int, rounds: int, share: float
) -> None:
    chance = random.Random(seed)
    found = cut_and_start(*recorded_shift(tmp_path, "full", chance, rounds), chance, share)
    log.warning("FULL: %s", summary(found))
    for outcomes in found.values():
        assert len(outcomes) > 5
        assert {*outcomes} == {Outcome(frozenset(), ())}


def test_the_same_power_cuts_show_the_losses_of_synchronous_normal(tmp_path: Path, seed: int) -> None:
    """The negative control: a harness that finds nothing here would find nothing at all."""
    chance = random.Random(seed)
    found = cut_and_start(*recorded_shift(tmp_path, "normal", chance, 25), chance, 0.03, "normal")
    log.warning("NORMAL: %s", summary(found))
    for way, outcomes in found.items():
        assert any(outcome.missing for outcome in outcomes), way
        assert not any(outcome.problems for outcome in outcomes), "less is there, but all of it is right"


@pytest.mark.parametrize("cuts", [pytest.param(2, id="short"), pytest.param(60, marks=pytest.mark.slow)])
def test_a_second_power_cut_during_the_start_loses_nothing_either(
    tmp_path: Path, seed: int, cuts: int
) -> None:
    chance = random.Random(seed)
    operations, folder = recorded_shift(tmp_path, "full", chance, 25)
    disk, notes, found = Disk({}), list[object](), list[Outcome]()
    first_cuts = {*chance.sample(range(len(operations)), cuts)}
    for at, operation in enumerate(operations):
        if at in first_cuts:
            found += cut_the_start(disk.after_power_cut(chance.choice(TEARS), chance), folder, notes, chance)
        if isinstance(operation, Note):
            notes.append(operation.what)
        disk.apply(operation)
    log.warning("%d first cuts, %d second ones", cuts, len(found))
    assert len(found) > cuts
    assert {*found} == {Outcome(frozenset(), ())}
