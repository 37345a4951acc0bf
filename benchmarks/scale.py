"""Processor time of the writer for each message, as the numbers of windows, topics, routes and bytes grow.

Run `.venv/bin/python -m benchmarks.scale --svg docs/scale-curves.svg`: one process, no brokers; the median of
five rounds. `--budget` prints what each part of the way takes instead. Waiting, as for fsync, does not count.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cbor2

from benchmarks.scale_plot import Curve, drawn
from gateway.buffer.compression import train
from gateway.buffer.insertion import insert_events
from gateway.buffer.reader import Reader
from gateway.buffer.row_builder import NewRow, column_values
from gateway.buffer.store import NewEvent, Store
from gateway.core.clock import processor_ns
from gateway.core.events import Message
from gateway.core.own_topics import OwnTopics
from gateway.decode.routes import RouteSpec, RouteTable
from gateway.lab.device_payloads import PRESETS, DevicePayload
from gateway.pipeline.pipeline import Pipeline
from gateway.testing import ManualClock
from gateway.windows.engine import WindowEngine
from gateway.windows.spec import WindowSpec
from plugins.stats import Plugin as Stats

ROUNDS = 5
GROUP = 1000
NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000

Make = Callable[[int], tuple[str, bytes]]
"""Topic and payload of a message, by its number."""


def reading(number: int) -> dict[str, Any]:
    values = {"Temperature": 20 + number * 7 % 100 / 10, "Humidity": 50 + number * 3 % 200 / 10}
    return {"Time": NOW_MS + number * 10, "BME280": values, "TempUnit": "C"}


def window(name: str, route: str = "bench", **more: Any) -> WindowSpec:
    """A window as the configuration makes it, of an hour: hardly any message ends one."""
    spec = WindowSpec(
        *(name, "tumbling"), route=route, fields=("temperature",), key="{device}", size_ms=HOUR_MS,
        out_of_orderness_ms=10_000, idle_timeout_ms=HOUR_MS, idle_learns=True,
    )  # fmt: skip
    return replace(spec, **more)


def route(name: str = "bench", topic: str = "bench/{device}", **more: Any) -> RouteSpec:
    spec = RouteSpec(
        *(name, topic), fields={"temperature": "BME280.Temperature"}, timestamp_path="Time",
        timestamp_format="unix_ms", timestamp="trusted",
    )  # fmt: skip
    return replace(spec, **more)


@dataclass(frozen=True)
class Load:
    """What comes in, and what is done with it. The first `warm` messages do not count."""

    make: Make = lambda number: (f"bench/dev{number % 1000}", json.dumps(reading(number)).encode())
    windows: tuple[WindowSpec, ...] = (window("w"),)
    routes: tuple[RouteSpec, ...] = (route(),)
    messages: int = 10_000
    warm: int = 2_000

    def all(self) -> list[Message]:
        made = map(self.make, range(self.warm + self.messages))
        return [
            Message(topic, payload, 1, False, False, number % 65_535 + 1, 1, NOW_MS + number * 10)
            for number, (topic, payload) in enumerate(made)
        ]


@contextmanager
def gateway(load: Load) -> Iterator[tuple[Store, Pipeline]]:
    """A buffer with a trained dictionary, and the pipeline on it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.db"
        store = Store(path)
        store.open()
        plugins = {spec.name: Stats() for spec in load.windows}
        windows = partial(
            WindowEngine, load.windows, plugins, stopwatch_ns=processor_ns, fetch=store.windows.state
        )
        pipeline = Pipeline(OwnTopics("gateway", "g"), RouteTable(load.routes), windows, ManualClock(NOW_MS))
        with closing(store), closing(Reader(path)) as reader, store.transaction():
            pipeline.restore(store, reader)
            samples = [load.make(number)[1] for number in range(1_100)]
            dictionary = train(samples) if len(samples[0]) < 8_000 else None
            for spec in load.routes if dictionary else ():
                store.dictionaries.install(spec.name, dictionary or b"", NOW_MS)
        store.open()
        with closing(store):
            yield store, pipeline


def cost_us(load: Load) -> float:
    """Processor time for a message, in microseconds."""
    messages, took_s = load.all(), 0.0
    with gateway(load) as (store, pipeline):
        for start in range(0, len(messages), GROUP):
            if start == load.warm:
                gc.collect()
                gc.freeze()
            began_s = time.process_time()
            with store.transaction():
                pipeline.take_in(store, messages[start : start + GROUP])
            took_s += time.process_time() - began_s if start >= load.warm else 0.0
    return took_s / load.messages * 1e6


def of_topics(count: int) -> Load:
    def make(number: int) -> tuple[str, bytes]:
        return f"bench/dev{number % count}", json.dumps(reading(number)).encode()

    return Load(make, warm=max(2_000, count))


def of_windows(count: int) -> Load:
    def make(number: int) -> tuple[str, bytes]:
        return f"bench/dev{number % 100}", json.dumps(reading(number)).encode()

    return Load(make, tuple(window(f"w{number}") for number in range(count)), messages=5_000)


def of_bytes(count: int) -> Load:
    def make(number: int) -> tuple[str, bytes]:
        more = [{"n": at, "v": number * at % 1000 / 7} for at in range(count // 32)]
        return f"bench/dev{number % 1000}", json.dumps({**reading(number), "more": more}).encode()

    return Load(make, messages=5_000)


def of_routes(count: int) -> Load:
    def make(number: int) -> tuple[str, bytes]:
        topic = f"site{number % count}/hall/dev{number % 1000}/data"
        return topic, json.dumps(reading(number)).encode()

    routes = [route(f"r{number}", f"site{number}/+/{{device}}/data") for number in range(count)]
    return Load(make, tuple(window(f"w{one.name}", one.name) for one in routes), tuple(routes))


def of_formats() -> dict[str, Load]:
    """Loads of other payloads than JSON, by the name of the format."""

    def sparkplug(number: int) -> tuple[str, bytes]:
        device = f"dev{number % 1000}"
        measured = DevicePayload(
            device, number // 1000, NOW_MS + number * 10, 20 + number % 70 / 10, 50.5, 1013
        )
        return PRESETS["sparkplug"](measured)[:2]

    nodes = RouteSpec("bench", "spBv1.0/{group}/{type}/{device}", decoder="sparkplug_b")
    of_metrics = window("w", fields=("value",), key="{device}/{name}")

    def cbor(number: int) -> tuple[str, bytes]:
        return f"bench/dev{number % 1000}", cbor2.dumps(reading(number))

    def bare(number: int) -> tuple[str, bytes]:
        return f"bench/dev{number % 1000}", f"{20 + number % 70 / 10}".encode()

    numbers = RouteSpec("bench", "bench/{device}", decoder="number")
    return {
        "JSON": Load(),
        "CBOR": Load(cbor, routes=(route(decoder="cbor"),)),
        "a number": Load(bare, (window("w", fields=("value",)),), (numbers,)),
        "Sparkplug B, two metrics by alias": Load(sparkplug, (of_metrics,), (nodes,)),
        "JSON, a window of a minute (every sixth message ends one)": Load(
            windows=(window("w", size_ms=60_000),)
        ),
        "JSON, a hopping window of an hour, by the minute": Load(
            windows=(window("w", type="hopping", slide_ms=60_000),)
        ),
        "JSON, watermark: per_key": Load(windows=(window("w", watermark="per_key"),)),
    }


CURVES: dict[str, tuple[Callable[[int], Load], Sequence[int]]] = {
    "windows on one route": (of_windows, (0, 1, 3, 10, 30, 100)),
    "topics": (of_topics, (10, 100, 1_000, 10_000, 100_000)),
    "bytes of a payload": (of_bytes, (100, 300, 1_000, 3_000, 12_000)),
    "routes, with a window each": (of_routes, (1, 3, 10, 30, 100)),
}


def measured(load: Load) -> float:
    return median(cost_us(load) for _ in range(ROUNDS))


def curves() -> list[Curve]:
    found = []
    for title, (make, numbers) in CURVES.items():
        points = []
        for number in numbers:
            points.append((number, measured(make(number))))
            print(f"{title:30} {number:>8,} {points[-1][1]:8.1f} µs a message", flush=True)
        found.append(Curve(f"µs a message, by {title}", points))
    return found


def budget() -> dict[str, float]:
    """Microseconds of each part for a plain message with one window, each done by itself."""
    load = Load(messages=30_000)
    messages = load.all()[load.warm :]
    parts: dict[str, float] = {}

    def note(name: str, run: Callable[[], object]) -> None:
        began_s = time.process_time()
        run()
        parts[name] = (time.process_time() - began_s) / len(messages) * 1e6

    with gateway(load) as (store, pipeline):
        (one,) = RouteTable(load.routes).routes
        read = one.read_plain
        assert read is not None
        plans = pipeline.intake._plans
        note("receipts", lambda: store.receipts.unseen(messages))
        note("plan of the topic", lambda: [plans.of(message.topic) for message in messages])
        plain = [read(message.payload, {}, message.arrival_ms) for message in messages]
        note("reading the payload", lambda: [read(message.payload, {}, 0) for message in messages])
        bound = [(plans.of(message.topic).bind(pipeline.windows), message) for message in messages]
        process = pipeline.windows.process_one
        note(
            "window",
            lambda: [
                process(found, at[0], at[3], message.arrival_ms)
                for (found, message), at in zip(bound, plain, strict=True)
                if at is not None
            ],
        )
        rows: list[NewRow] = [
            NewEvent(one.topic, "bench", NOW_MS, NOW_MS, NOW_MS, 2, 0, 0, one.payload) for one in messages
        ]
        groups = [rows[start : start + GROUP] for start in range(0, len(rows), GROUP)]
        payloads = [[row[8] for row in group] for group in groups]
        note(
            "compression",
            lambda: [store.compressor.compress_all(["bench"] * len(some), some) for some in payloads],
        )
        with store.transaction():
            values: list[list[object]] = []
            build = partial(
                column_values, streams=store._streams, ids=store._ids, compressor=store.compressor
            )
            note("row: id, number, checksum", lambda: values.extend(map(build, groups)))
            parts["row: id, number, checksum"] -= parts["compression"]
            insert = partial(insert_events, store._connection)
            note(
                "INSERT",
                lambda: [insert(some, len(group)) for some, group in zip(values, groups, strict=True)],
            )
    parts["all of it, in groups of 1000, with the commits"] = cost_us(load)
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--budget", action="store_true")
    given = parser.parse_args()
    if given.budget:
        rounds = [budget() for _ in range(ROUNDS)]
        for name in rounds[0]:
            print(f"{name:50} {median(one[name] for one in rounds):6.2f} µs")
        return
    found = curves()
    for name, load in of_formats().items():
        print(f"{name:60} {measured(load):8.1f} µs a message", flush=True)
    if given.svg:
        given.svg.write_text(drawn(found))


if __name__ == "__main__":
    main()
