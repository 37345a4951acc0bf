"""The thread of the history beside a real buffer: copies once, survives what happens to its file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import orjson
import pytest

from gateway.buffer.event_history import TimeRange
from gateway.buffer.history.keeper import HistoryKeeper, HistoryPolicy
from gateway.buffer.history.past_results import PastResults
from gateway.buffer.retention.disk_space import DiskSpace
from gateway.buffer.store import NewEvent, Store
from gateway.core.clock import SteadyClock
from gateway.core.events import Kind, Priority
from tests.support.buffers import append, event, opened
from tests.support.gateways import wait_until

DAY_MS = 24 * 3600 * 1000
SIZE_BYTES = 64 * 1024 * 1024


class LaterClock(SteadyClock):
    """The real clock, set ahead."""

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


class Bench:
    """A buffer with the history beside it, and the alerts of both."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = LaterClock()
        self.alerts: list[str] = []
        self.ends: list[int] = []

    @contextmanager
    def keeping(self, keep_ms: int = DAY_MS, max_bytes: int = SIZE_BYTES) -> Iterator[HistoryKeeper]:
        path = self.store.path
        policy = HistoryPolicy(keep_ms, max_bytes)
        space = DiskSpace(path, SIZE_BYTES)
        keeper = HistoryKeeper(path, policy, self.clock, space, lambda name, _: self.alerts.append(name))
        keeper.start()
        try:
            yield keeper
        finally:
            keeper.stop()

    def results(self, count: int, topic: str = "g/aggregates/m/a") -> None:
        """Append results that arrive now, and an event and an alert between them."""
        now_ms = self.clock.now_ms()
        payload = orjson.dumps({"window": "m", "key": "a", "start_ms": 0})
        times = (now_ms, now_ms, None)
        made = [
            NewEvent(topic, "f", *times, Priority.NORMAL, Kind.AGGREGATE, 0, payload) for _ in range(count)
        ]
        append(self.store, [event(), *made, event("g/alerts", kind=Kind.ALERT)])

    def found(self, keeper: HistoryKeeper) -> list[int]:
        wanted = TimeRange("#", frozenset({Kind.AGGREGATE}), 0, 1 << 62)
        with closing(PastResults(keeper.path)) as past:
            return [row.id for rows in past.found(wanted) for row in rows]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened(tmp_path / "events.db") as store:
        yield Bench(store)


def is_copied(bench: Bench, keeper: HistoryKeeper) -> bool:
    keeper.wake()
    return keeper.floor() >= bench.store.last_id()


def test_results_are_copied_once_whatever_stops_in_between(bench: Bench) -> None:
    bench.results(3)
    with bench.keeping() as keeper:
        wait_until(lambda: is_copied(bench, keeper), "copied")
        assert bench.found(keeper) == [2, 3, 4]
    bench.results(2)
    with bench.keeping() as keeper:
        wait_until(lambda: is_copied(bench, keeper), "copied")
        assert bench.found(keeper) == [2, 3, 4, 7, 8]
        assert (keeper.metrics.results, keeper.metrics.missed) == (5, 0)
    assert bench.alerts == []


def test_what_is_old_goes(bench: Bench) -> None:
    bench.results(3)
    with bench.keeping() as keeper:
        wait_until(lambda: is_copied(bench, keeper), "copied")
    bench.clock.ahead_ms = 2 * DAY_MS
    with bench.keeping() as keeper:
        wait_until(lambda: keeper.metrics.removed["age"] == 3, "removed")
        bench.results(1)
        wait_until(lambda: is_copied(bench, keeper), "copied")
        assert bench.found(keeper) == [7]


def test_what_is_too_much_goes(bench: Bench) -> None:
    bench.results(3)
    with bench.keeping() as keeper:
        wait_until(lambda: is_copied(bench, keeper), "copied")
    bench.clock.ahead_ms = DAY_MS // 2
    with bench.keeping(max_bytes=1) as keeper:
        wait_until(lambda: keeper.metrics.removed["size"] == 3, "removed")


def test_a_damaged_file_is_put_aside_and_begun_anew(bench: Bench) -> None:
    bench.results(3)
    with bench.keeping() as keeper:
        wait_until(lambda: is_copied(bench, keeper), "copied")
    keeper.path.write_bytes(b"no database" * 1000)
    with bench.keeping() as keeper:
        wait_until(lambda: is_copied(bench, keeper), "copied")
        assert bench.found(keeper) == [2, 3, 4]
    assert bench.alerts == ["history_damaged"]
    assert keeper.path.with_name("history.db.damaged").exists()


def test_a_history_that_cannot_be_written_is_said_and_tried_again(bench: Bench) -> None:
    bench.results(3)
    path = bench.store.path.with_name("history.db")
    path.mkdir()
    with bench.keeping() as keeper:
        wait_until(lambda: bool(keeper.metrics.error), "the error")
        assert keeper.floor() == 0, "the buffer keeps what is not copied"
        assert bench.alerts == ["history_failed"]
    path.rmdir()
    with bench.keeping() as keeper:
        wait_until(lambda: is_copied(bench, keeper), "copied")
        assert keeper.metrics.error == ""


def test_a_buffer_that_was_replaced_is_copied_from_its_first_result(bench: Bench, tmp_path: Path) -> None:
    bench.results(3)
    with bench.keeping() as keeper:
        wait_until(lambda: is_copied(bench, keeper), "copied")
    (tmp_path / "new").mkdir()
    keeper.path.rename(tmp_path / "new" / keeper.path.name)
    with opened(tmp_path / "new" / "events.db") as store:
        other = Bench(store)
        other.results(1)
        with other.keeping() as keeper:
            wait_until(lambda: is_copied(other, keeper), "copied")
            assert len(other.found(keeper)) == 4
            assert keeper.metrics.missed == 0
