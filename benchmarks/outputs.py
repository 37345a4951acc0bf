"""What the receiver's outputs cost: events a second, bytes an event, and the time of five usual questions.

Run it by hand: `python -m benchmarks.outputs [--events 1000000] [--folder DIR]`. The same frames of 1,000
sensor events go through decoding, the removal of duplicates and each output. Then DuckDB asks the Parquet
files and SQLite its table; the answers must be equal. Needs the extra `parquet` and DuckDB.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import duckdb

from gateway.core.events import WireEvent
from gateway.receiver.device_names import DeviceNames
from gateway.receiver.ledger import Ledger, identity
from gateway.receiver.sinks.choice import sink_of
from gateway.receiver.sinks.sink import Received
from gateway.wire.frame import decode_batch, encode_batch

DEVICES = 500
FRAME = 1000
EVERY_MS = 10
START_MS = 1_790_000_000_000
GATEWAY = "plant-7"
FIELD = "(payload ->> '$.BME280.Temperature')"

QUESTIONS = {
    "events per day and stream": "SELECT DAY, stream, count(*) FROM EVENTS GROUP BY 1, 2 ORDER BY 1, 2",
    "newest value of each device": (
        "SELECT device, VALUE FROM (SELECT device, payload, row_number() OVER"
        " (PARTITION BY device ORDER BY TIME DESC) AS age FROM EVENTS) AS x WHERE age = 1 ORDER BY 1"
    ),
    "hourly mean, lowest and highest of one device": (
        "SELECT TIME / 3600000 * 3600000 AS hour, round(avg(VALUE), 6), min(VALUE), max(VALUE) FROM EVENTS"
        " WHERE device = 'd42' GROUP BY 1 ORDER BY 1"
    ),
    "ten devices with the highest mean": (
        "SELECT device, round(avg(VALUE), 6) FROM EVENTS GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10"
    ),
    "numbers that are missing in each stream": (
        "SELECT stream, max(sequence_num) - min(sequence_num) + 1 - count(*) AS missing FROM EVENTS"
        " GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10"
    ),
}


def frames(events: int) -> Iterator[bytes]:
    """Frames of `events` events; one in a thousand is missing."""
    for first in range(0, events, FRAME):
        some = [_event(n) for n in range(first, min(first + FRAME, events)) if n % 1009]
        yield encode_batch(GATEWAY, os.urandom(16), some)


def _event(number: int) -> WireEvent:
    time_ms = START_MS + number * EVERY_MS
    head = time_ms << 80 | 7 << 76 | (number & 0xFFF) << 64 | 2 << 62
    device = number % DEVICES
    payload = (
        b'{"Time":"2026-09-21T14:13:20","BME280":{"Temperature":%d.%d,"Humidity":%d.2,"Pressure":1012.4},'
        b'"TempUnit":"C"}' % (10 + device % 17, number % 10, 40 + number % 20)
    )
    return WireEvent(
        (head | int.from_bytes(os.urandom(7), "big")).to_bytes(16, "big"),
        *(f"tele/d{device}/SENSOR", number // DEVICES + 1, time_ms, time_ms + 30, None, 2, 0, 0, payload),
    )


def receive(url: str, sent: list[bytes]) -> tuple[float, float]:
    """Events per second of wall time, and of processor time, through decoding, ledger and output."""
    sink, ledger, count = sink_of(url, DeviceNames(["tele/{device}/SENSOR"])), Ledger(), 0
    sink.open()
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    for frame in sent:
        batch = decode_batch(frame)
        events = [Received(batch.gateway_id, event, batch.buffer_id) for event in batch.events]
        count += sink.write([each for each in events if ledger.take(identity(*each))])
    sink.save(ledger.dump())
    sink.close()
    return count / (time.perf_counter() - began_s), count / (time.process_time() - began_cpu_s)


def ask_both(folder: Path) -> None:
    """Ask all questions of both, three times each; the best counts."""
    duck = duckdb.connect()
    lite = apsw.Connection(str(folder / "events.db"))
    for question, sql in QUESTIONS.items():
        of_duck = (
            sql.replace("EVENTS", f"read_parquet('{folder}/parquet/*/*.parquet')")
            .replace("TIME / 3600000 *", "epoch_ms(event_time) // 3600000 *")
            .replace("TIME", "event_time")
            .replace("DAY", "CAST(event_time AS DATE)::VARCHAR")
            .replace("VALUE", f"CAST({FIELD} AS DOUBLE)")
        )
        of_lite = (
            sql.replace("EVENTS", "gateway_events")
            .replace("TIME", "event_time_ms")
            .replace("DAY", "date(event_time_ms / 1000, 'unixepoch')")
            .replace("VALUE", FIELD)
        )
        duck.execute("SET TimeZone = 'UTC'")
        duck_s, duck_rows = _best(partial(_ask, duck, of_duck))
        lite_s, lite_rows = _best(partial(_ask, lite, of_lite))
        assert duck_rows == lite_rows, question
        print(f"{question:<48} {duck_s * 1000:>8,.0f} ms  {lite_s * 1000:>8,.0f} ms  {lite_s / duck_s:>5.1f}")


def _ask(connection: Any, sql: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in connection.execute(sql).fetchall()]


def _best(ask: Callable[[], Any]) -> tuple[float, Any]:
    took = []
    for _ in range(3):
        began_s = time.perf_counter()
        rows = ask()
        took.append(time.perf_counter() - began_s)
    return min(took), rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        sent = list(frames(options.events))
        outputs = {"lines": "events.ndjson", "SQLite": "events.db", "Parquet": "parquet"}
        urls = {"Parquet": f"parquet:{folder}/parquet", "SQLite": f"sqlite:///{folder}/events.db"}
        for output, file in outputs.items():
            wall, cpu = receive(urls.get(output, str(folder / file)), sent)
            found = [path for path in folder.rglob("*") if path.is_file() and file in str(path)]
            size = sum(path.stat().st_size for path in found) / options.events
            print(
                f"{output:<8} {wall:>9,.0f}/s  {cpu:>9,.0f}/s of processor time  {size:>6.1f} bytes an event",
                flush=True,
            )
        print(f"{'question':<48} {'DuckDB':>11}  {'SQLite':>11}  ratio")
        ask_both(folder)


if __name__ == "__main__":
    main()
