"""How fast the buffer appends, claims, settles and evicts, beside bare SQLite, small and with many rows.

Run `.venv/bin/python -m benchmarks.buffer [--rows 10000000] [--folder .]`. It is the whole store code:
compression with a trained dictionary, CRC-32, sequence numbers, FULL sync, groups of 1000. Each figure is the
median of RUNS runs; those of bare SQLite and of the store alternate, so that what else the machine does meets
both.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from gateway.buffer import schema
from gateway.buffer.compression import train
from gateway.buffer.store import NewEvent, Store
from gateway.core.events import Priority, Status
from gateway.delivery.states import DeliveryEvent

GROUP, GROUPS, RUNS = 1000, 50, 5
EVENTS = GROUP * GROUPS
IDS_PER_EVICTION = 10_000  # as retention does


def event(number: int) -> NewEvent:
    reading: dict[str, object] = {"Time": f"2024-01-01T00:00:{number % 60:02}", "TempUnit": "C"}
    reading["BME280"] = {"Temperature": round(random.uniform(10, 30), 1), "Humidity": number % 90}
    topic, now_ms = f"tele/dev{number % 1000}/SENSOR", 1_700_000_000_000 + number
    return NewEvent(topic, "tasmota", now_ms, now_ms, None, 2, 0, 0, json.dumps(reading).encode())


def rate(work: Callable[[], object]) -> float:
    """Events a second of something that takes EVENTS events."""
    started_s = time.perf_counter()
    work()
    return EVENTS / (time.perf_counter() - started_s)


class Bare:
    """The same rows and indexes through the standard library, without compression and checksum."""

    def __init__(self, path: Path, groups: list[list[NewEvent]]) -> None:
        schema.open_writer(path, "full").close()
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA synchronous=full")
        self._names = [f.name for f in schema.BufferEvent._meta.sorted_fields if f.name != "id"]
        self._rows = [[self._row(e) for e in group] for group in groups]
        marks = ",".join("?" * len(self._names))
        self._insert = f"INSERT INTO buffer_events ({','.join(self._names)}) VALUES ({marks})"  # noqa: S608

    def _row(self, event: NewEvent) -> list[object]:
        known = {"event_time": event.event_time_ms, "ingest_time": event.ingest_time_ms, "priority": 2}
        values = {"event_id": bytes(16), "payload": event.payload, "checksum": 12345} | known
        return [values.get(name, 0) for name in self._names]

    def append(self) -> None:
        for group in self._rows:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(self._insert, group)
            self._connection.execute("COMMIT")


class Ours:
    """The store, with the dictionary that it would train."""

    def __init__(self, path: Path, groups: list[list[NewEvent]]) -> None:
        self.groups = groups
        self.store = Store(path)
        self.store.open()
        self._evicted_to = 0
        with self.store.transaction():
            self.store.append(groups[0])
        ((family, samples, _),) = self.store.compressor.take_trainable()
        dictionary = train(samples)
        assert dictionary is not None
        with self.store.transaction():
            self.store.dictionaries.install(family, dictionary, 0)

    def append(self) -> None:
        for group in self.groups:
            with self.store.transaction():
                self.store.append(group)

    def claim_and_settle(self) -> None:
        for _ in range(GROUPS):
            with self.store.transaction():
                ids = self.store.claim(GROUP)
            with self.store.transaction():
                self.store.move(ids, Status.SYNCING, DeliveryEvent.PUBACK)

    def evict(self) -> None:
        with self.store.transaction():
            self.store.checkpoint([])
        for _ in range(EVENTS // IDS_PER_EVICTION):
            with self.store.transaction():
                first, self._evicted_to = self._evicted_to + 1, self._evicted_to + IDS_PER_EVICTION
                assert self.store.removals.evict_synced(first, self._evicted_to, 2**60) == IDS_PER_EVICTION

    def give_way(self) -> tuple[float, float]:
        """Events a second that thinning takes of the newest EVENTS, and that go by age of what it left."""
        store = self.store
        self.append()
        with store.transaction():
            last_id = store.checkpoint([])
        starts = range(last_id - EVENTS + 1, last_id, IDS_PER_EVICTION)
        started_s, thinned = time.perf_counter(), 0
        for start in starts:
            with store.transaction():
                thinned += store.removals.thin(start, start + IDS_PER_EVICTION - 1, 2, Priority.NORMAL).events
        thinned_s, dropped = time.perf_counter(), 0
        for start in starts:
            with store.transaction():
                dropped += store.removals.drop_pending(range(start, start + IDS_PER_EVICTION)).events
        assert thinned + dropped == EVENTS
        return thinned / (thinned_s - started_s), dropped / (time.perf_counter() - thinned_s)

    def payload_at_rest(self) -> float:
        group = self.groups[0]
        stored = sum(len(self.store.compressor.compress(e.family, e.payload)[1]) for e in group)
        return stored / sum(len(e.payload) for e in group)


def measure(bare: Bare, ours: Ours) -> dict[str, float]:
    """The median rates, of buffers that have the rows that they have."""
    found: dict[str, list[float]] = {}
    for _ in range(RUNS):
        for what, work in (
            ("bare sqlite3.executemany", bare.append),
            ("append", ours.append),
            ("claim and settle", ours.claim_and_settle),
            ("evict", ours.evict),
        ):
            found.setdefault(what, []).append(rate(work))
    return {what: median(rates) for what, rates in found.items()}


def fill(bare: Bare, ours: Ours, rows: int) -> None:
    """Append to both until there are `rows`, and leave them pending."""
    for done in range(0, rows, EVENTS):
        bare.append()
        ours.append()
        if done % 1_000_000 == 0:
            print(f"\r{done:,} rows", end="", flush=True)
    print("\r", end="")


@contextmanager
def busy_thread() -> Iterator[None]:
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    yield
    stop.set()
    thread.join()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=0, help="measure again with so many pending rows")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the files go")
    given = parser.parse_args()
    groups = [[event(g * GROUP + n) for n in range(GROUP)] for g in range(GROUPS)]
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        bare, ours = Bare(Path(folder) / "bare.db", groups), Ours(Path(folder) / "store.db", groups)
        small = measure(bare, ours)
        print(f"payload bytes at rest: {ours.payload_at_rest():.2f} of the raw ones")
        large = small
        if given.rows:
            fill(bare, ours, given.rows)
            large = measure(bare, ours)
            print(f"file with {given.rows:,} pending events: {ours.store.path.stat().st_size / 1e6:,.0f} MB")
        for what, per_s in large.items():
            print(
                f"{what:28} {small[what]:10,.0f}/s small, {per_s:10,.0f}/s large: {per_s / small[what]:.2f}"
            )
        for size, rates in (("small", small), ("large", large)):
            print(f"append of bare, {size}: {rates['append'] / rates['bare sqlite3.executemany']:.2f}")
        thinned, dropped = map(median, zip(*(ours.give_way() for _ in range(RUNS)), strict=True))
        print(f"given up and noted: {thinned:,.0f}/s thinned, {dropped:,.0f}/s by age")
        with busy_thread():
            print(f"append beside a thread that holds the GIL: {rate(ours.append):,.0f}/s")


if __name__ == "__main__":
    main()
