"""How fast the buffer appends, claims and settles, beside bare SQLite.

Run `.venv/bin/python tests/bench_buffer.py`. It is the whole store code: compression with a trained
dictionary, CRC-32, sequence numbers, FULL sync, groups of 1000.
"""

from __future__ import annotations

import json
import random
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.buffer import schema
from gateway.buffer.compression import train
from gateway.buffer.store import NewEvent, Store
from gateway.delivery import Happening
from gateway.events import Status

GROUP, GROUPS = 1000, 100


def event(number: int) -> NewEvent:
    reading = {"Time": f"2024-01-01T00:00:{number % 60:02}", "TempUnit": "C"}
    reading["BME280"] = {"Temperature": round(random.uniform(10, 30), 1), "Humidity": number % 90}
    topic, now_ms = f"tele/dev{number % 1000}/SENSOR", 1_700_000_000_000 + number
    return NewEvent(topic, "tasmota", now_ms, now_ms, None, 2, 0, 0, json.dumps(reading).encode())


@contextmanager
def timed(what: str, events: int) -> Iterator[None]:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    yield
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    print(f"{what:48} {events / wall_s:10,.0f}/s {cpu_s / events * 1e6:8.2f} µs CPU each")


def bare_executemany(path: Path, groups: list[list[NewEvent]]) -> None:
    """The same rows and indexes through the standard library, without compression and checksum."""
    database = schema.open_writer(path, "full")
    database.close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=full")
    rows = [
        [
            (bytes(16), 1, at, e[2], e[3], None, 0, 2, 0, 0, 0, e.payload, 0, 12345)
            for at, e in enumerate(group)
        ]
        for group in groups
    ]
    insert = "INSERT INTO buffer_events VALUES (NULL" + ",?" * 14 + ")"
    with timed("bare sqlite3.executemany", GROUP * GROUPS):
        for group in rows:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(insert, group)
            connection.execute("COMMIT")
    connection.close()


def store_rates(path: Path, groups: list[list[NewEvent]]) -> None:
    store = Store(path)
    store.open()
    with store.transaction():
        store.append(groups[0])
    ((family, samples, _),) = store.compressor.take_trainable()
    dictionary = train(samples)
    assert dictionary is not None
    with store.transaction():
        store.install_dictionary(family, dictionary, 0)
    append("append", store, groups)
    total = GROUP * (GROUPS + 1)
    with timed("claim and settle", total):
        for _ in range(GROUPS + 1):
            with store.transaction():
                ids = store.claim(GROUP)
            with store.transaction():
                store.move(ids, Status.SYNCING, Happening.PUBACK)
    with timed("evict", total), store.transaction():
        store.evict_synced(0, total, 2**60)
    with busy_thread():
        append("append beside a thread that holds the GIL", store, groups[:20])
    stored = sum(len(store.compressor.compress(family, e.payload)[1]) for e in groups[0])
    print(f"payload bytes at rest: {stored / sum(len(e.payload) for e in groups[0]):.2f} of the raw ones")
    store.close()


def append(what: str, store: Store, groups: list[list[NewEvent]]) -> None:
    with timed(what, GROUP * len(groups)):
        for group in groups:
            with store.transaction():
                store.append(group)


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


if __name__ == "__main__":
    everything = [[event(g * GROUP + n) for n in range(GROUP)] for g in range(GROUPS)]
    with tempfile.TemporaryDirectory(dir=".") as folder:
        bare_executemany(Path(folder) / "bare.db", everything)
        store_rates(Path(folder) / "store.db", everything)
