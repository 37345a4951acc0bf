"""One watermark closes the windows of very many keys: what comes out is complete, and never all in memory."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from gateway.buffer.proof.balance import audit
from gateway.buffer.row_builder import NewRow
from gateway.buffer.store import Store
from gateway.core.events import Message
from gateway.core.own_topics import OwnTopics
from gateway.decode.routes import RouteSpec, RouteTable
from gateway.flow.memory import MIB, memory_budget
from gateway.pipeline.pipeline import Pipeline
from gateway.testing import ManualClock
from gateway.windows.emission import MANY
from gateway.windows.engine import WindowEngine
from tests.support.buffers import EPOCH_MS, opened, reading, sql
from tests.support.windowing import shipped, spec

BUDGET_MIB = 256
MINUTE = spec(size_ms=60_000, key="{k}", topic=None, route="r", fields=("v",))


class Watched(Store):
    """Notes how many events were appended at once."""

    largest = 0

    def append(self, events: Sequence[NewRow]) -> None:
        self.largest = max(self.largest, len(events))
        super().append(events)


@contextmanager
def watched(path: Path) -> Iterator[Watched]:
    store = Watched(path)
    store.open()
    yield store
    store.close()


def pipeline(store: Store, hot_keys: int) -> Pipeline:
    routes = RouteTable(
        [RouteSpec("r", "t", timestamp_path="t", timestamp_format="unix_ms", timestamp="trusted")]
    )
    engine = partial(
        WindowEngine, [MINUTE], {"w": shipped("stats")}, fetch=store.windows.state, hot_keys=hot_keys
    )
    return Pipeline(OwnTopics("gateway", "g"), routes, engine, ManualClock(EPOCH_MS))


def message(key: int, at_ms: int) -> Message:
    payload = b'{"k": "device-%07d", "v": 1.5, "t": %d}' % (key, EPOCH_MS // 60_000 * 60_000 + at_ms)
    return Message("t", payload, qos=0, retain=False, dup=False, packet_id=0, epoch=1, arrival_ms=EPOCH_MS)


def run(path: Path, keys: int, hot_keys: int) -> int:
    """Give each key a reading, checkpoint now and then, close all windows at once; the largest append."""
    with watched(path) as store:
        taken_in = pipeline(store, hot_keys)
        for start in range(0, keys, 1000):
            with store.transaction():
                taken_in.take_in(store, [message(key, 0) for key in range(start, min(keys, start + 1000))])
                taken_in.checkpoint(store)
        with store.transaction():
            taken_in.take_in(store, [message(0, 60_000), message(1, 61_000)])
        return store.largest


def test_windows_that_close_together_are_appended_in_parts_and_in_order(tmp_path: Path) -> None:
    path, keys = tmp_path / "events.db", 3 * MANY + 500
    assert run(path, keys, hot_keys=100) <= MANY + 1
    names = [f"gateway/g/aggregates/w/device-{key:07}" for key in range(keys)]
    derived = sql(
        path,
        "SELECT name FROM buffer_events JOIN streams ON stream = streams.id WHERE kind <> 0"
        " ORDER BY buffer_events.id",
    )
    assert [name for (name,) in derived] == names
    with reading(path) as reader:
        assert audit(reader).problems == ()


def test_a_crash_right_behind_them_repeats_none_and_goes_on(tmp_path: Path) -> None:
    path, keys = tmp_path / "events.db", 2 * MANY + 500
    run(path, keys, hot_keys=100)
    with opened(path) as store, reading(path) as reader:
        again = pipeline(store, 100)
        assert again.restore(store, reader) == 0  # the state was stored, so the checkpoint was, too
        with store.transaction():
            again.tick(store)
            again.take_in(store, [message(2, 120_000)])
    derived = sql(path, "SELECT count(*), count(DISTINCT event_id) FROM buffer_events WHERE kind <> 0")
    assert derived == [(keys + 2, keys + 2)]
    with reading(path) as reader:
        assert audit(reader).problems == ()


def peak_mib(path: Path, keys: int) -> None:
    run(path, keys, memory_budget(BUDGET_MIB * MIB).hot_keys(1))
    (path.parent / "peak").write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024))


@pytest.mark.slow
def test_a_million_keys_that_close_at_once_do_not_fill_the_memory(tmp_path: Path) -> None:
    child = get_context("spawn").Process(target=peak_mib, args=(tmp_path / "events.db", 1_000_000))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert int((tmp_path / "peak").read_text()) < BUDGET_MIB, "all of their results together take 1.6 GB"
