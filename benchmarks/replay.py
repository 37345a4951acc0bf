"""Rate of `gateway replay`, from a receiver's file and from a buffer: by the clock, and in processor time.

Run `.venv/bin/python -m benchmarks.replay [--events 500000] [--rounds 3]` on a quiet machine: the rate by the
clock is of one core. The processor time of a message leaves out the start of the program.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import yaml

from gateway.buffer.store import NewEvent, Store
from gateway.core.events import Priority, WireEvent
from gateway.core.identifiers import EventIds
from gateway.receiver.event_lines import event_line
from tests.support.buffers import EPOCH_MS, append

DEVICES = 1000
_AT_ONCE = 10_000
_CONFIG = {
    "gateway": {"id": "g", "data_dir": "data"},
    "routes": [
        {
            "name": "sensors",
            "topic": "sensors/{device}",
            "fields": {"temperature": "T"},
            "timestamp_path": "t",
            "timestamp_format": "unix_ms",
        }
    ],
    "windows": [
        {
            "name": "all",
            "route": "sensors",
            "field": "temperature",
            "key": "{device}",
            "window": {"type": "tumbling", "size": "1m"},
            "out_of_orderness": "2s",
        }
    ],
}


def readings(count: int) -> Iterator[tuple[str, bytes, int]]:
    """Topic, payload and time of readings of 1,000 devices, a thousand a second."""
    for number in range(count):
        time_ms = EPOCH_MS + number
        payload = b'{"t":%d,"T":%.1f,"H":%.1f}' % (time_ms, 20 + number % 97 / 10, 50 + number % 89 / 10)
        yield f"sensors/d{number % DEVICES}", payload, time_ms


def write_file(path: Path, count: int) -> None:
    """Write the readings as a receiver does."""
    ids = EventIds()
    with path.open("wb") as file:
        for number, (topic, payload, time_ms) in enumerate(readings(count)):
            times = (time_ms, time_ms, time_ms)
            fixed = (number // DEVICES + 1, *times, Priority.NORMAL, 0, 0, payload)
            file.write(event_line("g", WireEvent(ids.next(time_ms), topic, *fixed), "b" * 32))


def fill_buffer(path: Path, count: int) -> None:
    """Put the readings into a buffer."""
    path.parent.mkdir(parents=True)
    store = Store(path, "normal")
    store.open()
    batch: list[NewEvent] = []
    for topic, payload, time_ms in readings(count):
        batch.append(NewEvent(topic, "sensors", time_ms, time_ms, time_ms, Priority.NORMAL, 0, 0, payload))
        if len(batch) == _AT_ONCE:
            append(store, batch)
            batch = []
    append(store, batch)
    store.close()


def replayed(folder: Path, *source: str) -> tuple[float, float]:
    """Seconds by the clock and of processor time of one replay."""
    command = [sys.executable, "-m", "gateway", "replay", "-c", str(folder / "gateway.yaml")]
    output = ["--output", str(folder / "results.ndjson")]
    began_s, before = time.monotonic(), os.times()
    subprocess.run([*command, *output, *source], check=True, capture_output=True)
    after = os.times()
    spent_s = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - began_s, spent_s


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=500_000)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "gateway.yaml").write_text(yaml.safe_dump(_CONFIG))
        write_file(folder / "few.ndjson", 1)
        write_file(folder / "received.ndjson", given.events)
        fill_buffer(folder / "data" / "events.db", given.events)
        start = [replayed(folder, "--input", str(folder / "few.ndjson")) for _ in range(given.rounds)]
        start_s = [median(column) for column in zip(*start, strict=True)]
        for what, source in (
            ("file", ["--input", str(folder / "received.ndjson")]),
            ("buffer", ["--from-buffer"]),
        ):
            rounds = [replayed(folder, *source) for _ in range(given.rounds)]
            clock_s, spent_s = (median(column) for column in zip(*rounds, strict=True))
            rate = given.events / (clock_s - start_s[0])
            spent_us = 1e6 * (spent_s - start_s[1]) / given.events
            sys.stdout.write(
                f"{what:<8} {rate:>9,.0f} events/s by the clock, {spent_us:.2f} µs of processor time an event"
                f" ({1e6 / spent_us:,.0f}/s)\n"
            )


if __name__ == "__main__":
    main()
