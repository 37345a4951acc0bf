"""What a history costs: processor time, size, a day's chart, and intake while a month is exported over HTTP.

Run it by hand: `python -m benchmarks.history [--devices 1000] [--days 1] [--pairs 4] [--folder /tmp]`. It
compares gateways with and without one (`--only-cost`: nothing else). Then it fills a history with the results
of one-minute windows, asks for charts, and publishes as fast as a gateway takes it, in turns with and without
an export of everything. Only ratios of one run mean something.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import psutil

from benchmarks.programs import HOST, running_broker
from gateway.buffer.event_history import TimeRange
from gateway.buffer.history.blocks import PastResult
from gateway.buffer.history.past_results import PastResults
from gateway.buffer.history.results_file import PACKED_AT_ROWS, NewResult, ResultsFile
from gateway.core.events import Kind
from gateway.lab.load import connected, encode_publish, publish_all
from tests.support.gateways import GatewayProcess, gateway_config, wait_until

MINUTE_MS, DAY_MS = 60_000, 86_400_000
END_MS = 1_790_000_000_000 // DAY_MS * DAY_MS
WINDOW = "minute"
CHARTS = 15
PHASE_S = 6.0
_CHUNK = 2000
_IN_FLIGHT = 1000
DEVICES, MESSAGES, SETTLED_S = 1000, 100_000, 15.0


def fill(path: Path, devices: int, days: float) -> int:
    """Write the results of so many days as the gateway does; return how many bytes they have as JSON."""
    chance, raw_bytes, waiting, number = random.Random(1), 0, 0, 0
    sequences = [0] * devices
    means = [chance.uniform(15, 25) for _ in range(devices)]
    with closing(ResultsFile(path)) as file:
        some: list[NewResult] = []
        for minute in range(round(days * 1440)):
            start_ms = END_MS - round(days * DAY_MS) + minute * MINUTE_MS
            for device in range(devices):
                means[device] += chance.gauss(0, 0.05)
                number, sequences[device] = number + 1, sequences[device] + 1
                payload = result(device, start_ms, means[device], chance)
                raw_bytes += len(payload)
                row = PastResult(number, start_ms + MINUTE_MS, topic(device), payload)
                some.append(NewResult(row, sequences[device], start_ms + MINUTE_MS))
            if len(some) >= _CHUNK:
                with file.transaction():
                    file.add(some, 0)
                waiting, some = waiting + len(some), []
            if waiting >= PACKED_AT_ROWS:
                waiting -= file.pack_fresh()
        with file.transaction():
            file.add(some, 0)
        print(
            f"{file.held():,} results of {devices:,} devices over {days:g} days: "
            f"{file.used_bytes() / 1e6:.0f} MB, {file.used_bytes() / file.held():.1f} bytes each "
            f"({raw_bytes / file.held():.0f} as JSON)",
            flush=True,
        )
    return raw_bytes


def topic(device: int) -> str:
    return f"gateway/g1/aggregates/{WINDOW}/dev{device}"


def result(device: int, start_ms: int, mean: float, chance: random.Random) -> bytes:
    """A result of the plugin `stats` over six readings."""
    values = [round(mean + chance.gauss(0, 0.2), 1) for _ in range(6)]
    body = {
        "window": WINDOW,
        "key": f"dev{device}",
        "start_ms": start_ms,
        "end_ms": start_ms + MINUTE_MS,
        "kind": "on_time",
        "revision": 0,
        "count": len(values),
        "result": {
            "count": len(values),
            "min": min(values),
            "max": max(values),
            "mean": statistics.fmean(values),
            "stddev": statistics.pstdev(values),
            "first": values[0],
            "last": values[-1],
            "sum": sum(values),
        },
        "replaces": [],
    }
    return orjson.dumps(body)


def charts(path: Path, devices: int) -> None:
    """The last day of single devices, read out of the file."""
    took = []
    for device in range(0, devices, max(1, devices // CHARTS)):
        began_s = time.perf_counter()
        with closing(PastResults(path)) as past:
            wanted = TimeRange(topic(device), frozenset({Kind.AGGREGATE}), END_MS - DAY_MS, END_MS + 1)
            points = [orjson.loads(row.payload) for rows in past.found(wanted) for row in rows]
        took.append(1000 * (time.perf_counter() - began_s))
    print(f"a day of one device, {len(points)} points: {_middle(took)} from the file", flush=True)


def charts_over_http(gateway: GatewayProcess, devices: int) -> None:
    took = []
    for device in range(0, devices, max(1, devices // CHARTS)):
        query = f"window={WINDOW}&key=dev{device}&from_ms={END_MS - DAY_MS}&to_ms={END_MS + 1}&format=ndjson"
        began_s = time.perf_counter()
        points = ask(gateway, query).count(b"\n")
        took.append(1000 * (time.perf_counter() - began_s))
    print(f"a day of one device, {points} points: {_middle(took)} over HTTP", flush=True)


def ask(gateway: GatewayProcess, query: str) -> bytes:
    with urllib.request.urlopen(f"http://{gateway._listen}/api/aggregates?{query}", timeout=600) as answer:
        return bytes(answer.read())


def _middle(took_ms: list[float]) -> str:
    return f"median {statistics.median(took_ms):.0f} ms, longest {max(took_ms):.0f} ms"


class Export(threading.Thread):
    """Exports everything, again and again, until it is told to stop."""

    def __init__(self, gateway: GatewayProcess) -> None:
        super().__init__(daemon=True)
        self._gateway = gateway
        self.stopped = threading.Event()
        self.rows = 0

    def run(self) -> None:
        listen = self._gateway._listen
        query = "revisions=all&format=ndjson"
        while not self.stopped.is_set():
            with urllib.request.urlopen(f"http://{listen}/api/aggregates?{query}", timeout=600) as answer:
                while not self.stopped.is_set() and (some := answer.read(1 << 16)):
                    self.rows += some.count(b"\n")


def load(port: int, stopped: threading.Event) -> None:
    """Publish as fast as the broker passes it on: a window of unacknowledged messages, at the gateway too."""
    with connected(HOST, port, "load", clean=True) as sock:
        sock.settimeout(1.0)
        sent = acked_bytes = 0
        packets = [
            encode_publish(
                f"sensors/d{n % 1000}", json.dumps({"v": n % 97 / 10, "t": n}).encode(), n % 60_000 + 1
            )
            for n in range(1, 60_001)
        ]
        while not stopped.is_set():
            room = 2 * _IN_FLIGHT - (sent - acked_bytes // 4)
            if room > 0:
                sock.sendall(b"".join(packets[(sent + n) % 60_000] for n in range(room)))
                sent += room
            acked_bytes += len(sock.recv(65536))


def intake(gateway: GatewayProcess, pairs: int) -> None:
    """The rate of stored messages, in turns with and without an export beside it."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    rows = 0
    for turn in range(2 * pairs + 1):
        exporting = bool(turn % 2)
        export = Export(gateway)
        if exporting:
            export.start()
        rate = _rate(gateway)
        export.stopped.set()
        if exporting:
            export.join(10)
            rows += export.rows
        if turn:  # the first one warms up
            rates[exporting].append(rate)
    alone, beside = (statistics.median(rates[one]) for one in (False, True))
    print(
        f"stored: {alone:,.0f}/s alone, {beside:,.0f}/s beside an export of {rows / pairs / PHASE_S:,.0f} "
        f"results/s: ratio {beside / alone:.3f}",
        flush=True,
    )


def with_and_without(broker_port: int, folder: Path, pairs: int) -> None:
    """The processor time of messages that give many results, in turns without and with a history."""
    span = {"type": "tumbling", "size": "1s"}
    window = {"name": WINDOW, "route": "sensors", "field": "v", "key": "{device}", "window": span}
    costs: dict[bool, list[float]] = {False: [], True: []}
    results, taken = 0.0, 'gateway_messages_total{outcome="buffered"}'
    for turn in range(2 * pairs):
        kept, place = bool(turn % 2), folder / f"turn-{turn}"
        place.mkdir()
        history: dict[str, Any] = {"history": {"aggregates": "1000000d"}} if kept else {}
        config = gateway_config(place, f"mqtt://{HOST}:{broker_port}", windows=[window], **history)
        with GatewayProcess(config) as gateway:
            gateway.wait_ready()
            process = psutil.Process(gateway.pid)
            before_s = sum(process.cpu_times()[:2])
            publish_all(HOST, broker_port, readings())
            while gateway.metric(taken) < MESSAGES:
                time.sleep(1)  # to ask more often would cost more than what is measured
            time.sleep(SETTLED_S)
            costs[kept].append((sum(process.cpu_times()[:2]) - before_s) / MESSAGES)
            results += gateway.metric('gateway_events_appended_total{kind="aggregate"}')
    without, beside = (statistics.median(costs[one]) for one in (False, True))
    per_result = (beside - without) * MESSAGES / (results / 2 / pairs)
    print(
        f"processor time of a message: {1e6 * without:.1f} µs without, {1e6 * beside:.1f} µs with a history: "
        f"{1e6 * per_result:.1f} µs a result",
        flush=True,
    )


def readings() -> Iterator[tuple[str, bytes]]:
    """Readings of DEVICES devices, each one a second by its own time."""
    for number in range(MESSAGES):
        body = {"v": number % 97 / 10, "t": END_MS + number // DEVICES * 1000}
        yield f"sensors/d{number % DEVICES}", json.dumps(body).encode()


def _rate(gateway: GatewayProcess) -> float:
    name = 'gateway_messages_total{outcome="buffered"}'
    before, began_s = gateway.metric(name), time.monotonic()
    time.sleep(PHASE_S)
    return (gateway.metric(name) - before) / (time.monotonic() - began_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--days", type=float, default=1.0)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only-cost", action="store_true", help="measure intake with and without a history")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, running_broker() as broker:
        with_and_without(broker.port, Path(folder), options.pairs)
        if options.only_cost:
            return
        data = Path(folder) / "data"
        data.mkdir(mode=0o700)
        fill(data / "history.db", options.devices, options.days)
        charts(data / "history.db", options.devices)
        config = gateway_config(
            Path(folder),
            f"mqtt://{HOST}:{broker.port}",
            history={"aggregates": "1000000d", "max_size": "100GiB"},
        )
        with GatewayProcess(config) as gateway:
            gateway.wait_ready()
            wait_until(lambda: gateway.metric("gateway_history_results") > 0, "the history")
            charts_over_http(gateway, options.devices)
            stopped = threading.Event()
            thread = threading.Thread(target=load, args=(broker.port, stopped), daemon=True)
            thread.start()
            try:
                intake(gateway, options.pairs)
            finally:
                stopped.set()
                thread.join(5)


if __name__ == "__main__":
    main()
