"""A million topics, one message each, with a window over all of them: what it takes of memory and time.

Run `.venv/bin/python -m benchmarks.topics --topics 1000000 --memory 512MiB`: one process, no brokers.
`--memory` is what the gateway shares out (`flow.memory`).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import apsw
import psutil

from gateway.buffer.proof.balance import audit
from gateway.buffer.reader import Reader
from gateway.buffer.store import Store
from gateway.core.events import Message
from gateway.core.own_topics import OwnTopics
from gateway.core.units import parse_size_bytes
from gateway.decode.routes import RouteSpec, RouteTable
from gateway.flow.memory import memory_budget
from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.plugins_loader import load_plugins
from gateway.testing import ManualClock
from gateway.windows.engine import WindowEngine
from gateway.windows.spec import WindowSpec

GROUP = 1000
CHECKPOINT_EVERY = 20  # groups
NOW_MS = 1_700_000_000_000


class Seen(NamedTuple):
    topics: int
    seconds: float
    rss_bytes: int
    keys: int
    rejected: int


def flood(folder: Path, topics: int, memory_bytes: int) -> Iterator[Seen]:
    """Take in one message on each of `topics` topics; what is seen after each checkpoint, and at the end."""
    budget = memory_budget(memory_bytes)
    apsw.soft_heap_limit(budget.cache_bytes)
    window = WindowSpec(
        "w",
        "tumbling",
        route="r",
        fields=("v",),
        key="{device}",
        size_ms=60_000,
        max_keys=budget.most_keys(1),
    )
    plugins = load_plugins([window], None)
    store = Store(folder / "events.db")
    store.open()
    with closing(store), closing(Reader(folder / "events.db")) as reader:
        engine = partial(
            WindowEngine, [window], plugins.plugins, fetch=store.windows.state, hot_keys=budget.hot_keys(1)
        )
        pipeline = Pipeline(
            OwnTopics("gateway", "g1"),
            RouteTable([RouteSpec("r", "s/{device}")]),
            engine,
            ManualClock(NOW_MS),
        )
        with store.transaction():
            pipeline.restore(store, reader)
        started_s = time.monotonic()
        for group, start in enumerate(range(0, topics, GROUP), 1):
            messages = [
                Message(f"s/device{n}", b'{"v":21.5}', 0, False, False, 0, 0, NOW_MS)
                for n in range(start, min(topics, start + GROUP))
            ]
            with store.transaction():
                pipeline.take_in(store, messages)
            if group % CHECKPOINT_EVERY == 0:
                with store.transaction():
                    pipeline.checkpoint(store)
                counters = pipeline.windows.counters["w"]
                yield Seen(
                    start + len(messages),
                    time.monotonic() - started_s,
                    psutil.Process().memory_info().rss,
                    counters.keys,
                    counters.keys_rejected,
                )
        with store.transaction():
            pipeline.checkpoint(store)
        assert audit(reader).problems == ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topics", type=int, default=1_000_000)
    parser.add_argument("--memory", type=parse_size_bytes, default=512 * 1024 * 1024)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number, seen in enumerate(flood(Path(folder), given.topics, given.memory), 1):
            if number % 5 == 0:
                print(
                    f"{seen.topics:>9,} topics  {seen.seconds:6.1f} s  {seen.rss_bytes / 1e6:6.0f} MB"
                    f"  {seen.keys:,} keys, {seen.rejected:,} rejected",
                    flush=True,
                )


if __name__ == "__main__":
    main()
