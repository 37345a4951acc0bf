"""A day without the cloud in a few minutes: how large the buffer's files get, and what memory it takes.

Run `.venv/bin/python -m benchmarks.outage 2GiB 256MiB --svg docs/outage.svg`. Simulated time: an outage at
RATE_PER_S readings, then the cloud is back and the backlog drains while readings go on. Pipeline, writer,
windows, retention, dictionaries, claims, frames and settling are the gateway's own; only brokers and sockets
are missing. Each buffer size has a process of its own.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.outage_plot import Line, Panel, drawn
from gateway.buffer.dictionaries import DictionaryTrainer
from gateway.buffer.proof.balance import Audit, audit
from gateway.buffer.reader import Reader
from gateway.buffer.store import Store
from gateway.buffer.writer import Writer
from gateway.cloud.commands import SettleEvents
from gateway.core.events import Message
from gateway.core.own_topics import OwnTopics
from gateway.core.units import parse_size_bytes
from gateway.decode.routes import RouteSpec, RouteTable
from gateway.delivery.states import DeliveryEvent
from gateway.pipeline.commands import AppendBatch, Tick
from gateway.pipeline.pipeline import Pipeline
from gateway.testing import ManualClock
from gateway.windows.engine import WindowEngine
from gateway.windows.spec import WindowSpec
from gateway.wire.frame import encode_columns
from tests.support.buffers import EPOCH_MS
from tests.support.windowing import shipped

HOURS = 24.0
RATE_PER_S = 100
DEVICES = 100
OUTAGE_STEP_S = 10  # one tick for all of it, where a gateway has 40: retention and vacuum have it harder
DRAIN_STEP_S = 1
TICKS_PER_DRAIN_STEP = 4
DRAINED_PER_S = 5_000
AFTER_DRAIN_S = 5_400  # longer than `keep_synced`
SAMPLE_EVERY_S = 120
MIB = 1024 * 1024


class Sample(NamedTuple):
    """What was seen at one moment of the simulated time."""

    hours: float
    file_bytes: int
    log_bytes: int
    memory_bytes: int
    pending: int


class Result(NamedTuple):
    size: str
    samples: list[Sample]
    took_s: float
    readings: int
    audit: Audit


class Day:
    """One gateway's storage, and the clock that it believes."""

    def __init__(self, folder: Path, max_size_bytes: int) -> None:
        self.path = folder / "events.db"
        self.clock = ManualClock(EPOCH_MS)
        self.store = Store(self.path)
        self.store.open()
        route = RouteSpec("sensors", "s/{device}")
        window = WindowSpec(
            "minute", "tumbling", route="sensors", fields=("v",), key="{device}", size_ms=60_000
        )
        self.pipeline = Pipeline(
            OwnTopics("gateway", "g1"),
            RouteTable([route]),
            partial(WindowEngine, [window], {window.name: shipped("stats")}),
            self.clock,
            max_size_bytes=max_size_bytes,
        )
        self.reader = Reader(self.path)
        self.writer = Writer(self.store)
        self.trainer = DictionaryTrainer(self.store, self.writer, self.clock)
        self.readings = 0
        self.samples: list[Sample] = []
        self._chance = random.Random(1)
        self._process = psutil.Process()

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.store.transaction():
            self.pipeline.restore(self.store, self.reader)
        self.writer.start()
        yield
        assert self.writer.stop()
        self.reader.close()
        self.store.close()

    def step(self, seconds: int, ticks: int, drained: int) -> None:
        """Let some seconds pass, with their readings, ticks and frames, and wait until all is committed."""
        messages = [self._message(seconds * 1000 * n // 1000) for n in range(seconds * RATE_PER_S)]
        self.clock.advance(seconds * 1000)
        self.writer.submit(AppendBatch(self.pipeline, messages, lambda _: None, _give_up))
        for _ in range(ticks):
            self.writer.submit(Tick(self.pipeline, self.trainer.poll))
        if drained:
            self._bridge(drained)
        self.writer.call(lambda _: None)
        self._sample()

    def _message(self, after_ms: int) -> Message:
        self.readings += 1
        number, chance = self.readings, self._chance
        payload = b'{"device": "d%d", "n": %d, "v": %.2f, "humidity": %d, "battery": %d, "unit": "C"}' % (
            *(number % DEVICES, number, chance.gauss(20, 3)),
            *(chance.randrange(30, 70), 100 - number % 60),
        )
        topic = f"s/d{number % DEVICES}"
        return Message(
            topic, payload, 1, False, False, number % 65_535 + 1, 1, self.clock.now_ms() + after_ms
        )

    def _bridge(self, limit: int) -> None:
        """What a bridge does with a claim, short of sending the frame."""
        ids = self.writer.call(lambda store: store.claim(limit))
        events, corrupt = self.reader.without_corrupt(self.reader.by_ids(ids))
        assert not corrupt
        start, all_events = 0, len(events.ids)
        while start < all_events:
            end = events.fitting(start, min(start + 1000, all_events), 4 * MIB)
            encode_columns("g1", uuid.uuid4().bytes, self.reader.columns(events.part(start, end)))
            start = end
        self.writer.submit(SettleEvents(ids, DeliveryEvent.PUBACK))

    @property
    def hours(self) -> float:
        return self.clock.monotonic_s() / 3600

    def _sample(self) -> None:
        if self.samples and self.hours - self.samples[-1].hours < SAMPLE_EVERY_S / 3600:
            return
        wal = self.path.with_name(self.path.name + "-wal")
        self.samples.append(
            Sample(
                self.hours,
                self.path.stat().st_size,
                wal.stat().st_size if wal.exists() else 0,
                self._process.memory_info().rss,
                self.writer.pending_events,
            )
        )


def _give_up(messages: Sequence[Message], error: Exception) -> None:
    raise AssertionError(f"{len(messages)} messages were refused: {error}")


def live_through(size: str, hours: float, folder: Path) -> Result:
    """A day of outage and the drain behind it."""
    logging.basicConfig(level=logging.ERROR)
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder) as own:
        day = Day(Path(own), parse_size_bytes(size))
        with day.running():
            for _ in range(int(hours * 3600 / OUTAGE_STEP_S)):
                day.step(OUTAGE_STEP_S, 1, 0)
            while day.writer.pending_events > DRAINED_PER_S:
                day.step(DRAIN_STEP_S, TICKS_PER_DRAIN_STEP, DRAINED_PER_S)
            for _ in range(AFTER_DRAIN_S // DRAIN_STEP_S):
                day.step(DRAIN_STEP_S, TICKS_PER_DRAIN_STEP, DRAINED_PER_S)
            found = audit(day.reader)
        return Result(size, day.samples, time.monotonic() - started_s, day.readings, found)


def summary(result: Result) -> str:
    samples, megabyte = result.samples, 1e6
    early = [s for s in samples if s.hours > 1] or samples
    return (
        f"max_size {result.size}: {result.readings:,} readings in {result.took_s:.0f} s;"
        f" files at most {max(s.file_bytes + s.log_bytes for s in samples) / megabyte:.0f} MB,"
        f" log at most {max(s.log_bytes for s in samples) / megabyte:.1f} MB,"
        f" file at the end {samples[-1].file_bytes / megabyte:.0f} MB;"
        f" memory {early[0].memory_bytes / megabyte:.0f} MB after {early[0].hours:.0f} h,"
        f" {max(s.memory_bytes for s in samples) / megabyte:.0f} MB at most,"
        f" {samples[-1].memory_bytes / megabyte:.0f} MB at the end;"
        f" most pending {max(s.pending for s in samples):,}; evicted {dict(result.audit.evicted)};"
        f" audit: {'; '.join(result.audit.problems) or 'balances'}"
    )


def plot(results: Sequence[Result]) -> str:
    def lines(what: Callable[[Sample], float]) -> list[Line]:
        return [Line(f"max_size: {r.size}", [(s.hours, what(s)) for s in r.samples]) for r in results]

    return drawn(
        [
            Panel("buffer file and log, MB", lines(lambda s: (s.file_bytes + s.log_bytes) / 1e6)),
            Panel("memory of the process (RSS), MB", lines(lambda s: s.memory_bytes / 1e6)),
        ],
        "hours of simulated time; the cloud is back at 24",
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="+", metavar="SIZE", help="buffer.max_size, such as 2GiB")
    parser.add_argument("--hours", type=float, default=HOURS, help="how long the outage is")
    parser.add_argument("--folder", type=Path, default=None, help="where the buffers go")
    parser.add_argument("--svg", type=Path, help="where the plot goes")
    given = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(given.sizes), mp_context=spawn) as processes:
        days = [processes.submit(live_through, size, given.hours, given.folder) for size in given.sizes]
        results = [day.result() for day in days]
    for result in results:
        print(summary(result), flush=True)
    if given.svg:
        given.svg.write_text(plot(results))


if __name__ == "__main__":
    main()
