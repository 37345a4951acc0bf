"""A backlog that could not drain within `cloud.drain_target`: thinned evenly, counted and declared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gateway.buffer.proof.balance import audit
from gateway.buffer.retention.downsampling import (
    EDGE_MS,
    IDS_PER_STEP,
    STEPS_PER_RUN,
    Downsampling,
    DownsamplingNote,
)
from gateway.buffer.store import NewEvent, Store
from gateway.core.events import Kind, Priority
from tests.conftest import MosquittoFactory
from tests.receiver.test_proof import Consumer
from tests.support.buffers import EPOCH_MS, append, event, reading, sql
from tests.support.faulty_line import FaultyLine
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish

HOUR_MS = 3_600_000
NOW_MS = EPOCH_MS + HOUR_MS
STREAMS = 7


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "events.db")
    store.open()
    yield store
    store.close()


def backlog(count: int, **nature: Any) -> list[NewEvent]:
    return [event(f"s/{n % STREAMS}", b"%d" % n, **nature) for n in range(count)]


def announced(
    store: Store, downsampling: Downsampling, rate_per_s: float | None, ticks: int
) -> list[DownsamplingNote]:
    said: list[DownsamplingNote] = []
    for _ in range(ticks):
        with store.transaction():
            store.checkpoint([])
            said += downsampling.run(store, NOW_MS, store.last_id(), rate_per_s)
        downsampling.committed()
    return said


def run(store: Store, downsampling: Downsampling, rate_per_s: float | None, ticks: int = 1) -> list[str]:
    """What is said of the passes that begin."""
    said = announced(store, downsampling, rate_per_s, ticks)
    return [each.message for each in said if "keep_one_in" in each.details]


def numbers(store: Store) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    query = "SELECT name, sequence_num FROM buffer_events JOIN streams ON streams.id = stream ORDER BY 2"
    for name, number in sql(store.path, query):
        found.setdefault(str(name), []).append(int(str(number)))
    return found


@pytest.mark.parametrize(("rate_per_s", "one_in"), [(1.0, 1), (0.9, 2), (0.4, 4), (0.2, 8)])
def test_of_every_stream_so_much_is_left_evenly_as_drains_in_time(
    store: Store, rate_per_s: float, one_in: int
) -> None:
    append(store, backlog(2100))
    said = run(store, Downsampling(2_000_000), rate_per_s, ticks=6)
    assert all(kept == [*range(one_in, 301, one_in)] for kept in numbers(store).values())
    assert len(said) == one_in.bit_length() - 1
    left = STREAMS * (300 // one_in)
    assert store.counts["evicted", "downsampled"] == 2100 - left
    with reading(store.path) as reader:
        assert audit(reader).problems == ()
    ((runs,),) = sql(store.path, "SELECT count(*) FROM loss_runs WHERE reason = 'downsampled'")
    assert runs == STREAMS * len(said), "one run with a step for each pass and stream"


def test_what_is_urgent_derived_or_live_is_not_touched(store: Store) -> None:
    append(store, [*backlog(100, priority=Priority.HIGH), *backlog(100, kind=Kind.AGGREGATE)])
    append(store, backlog(100, at=HOUR_MS - EDGE_MS + 1))
    assert run(store, Downsampling(HOUR_MS), 0.01, ticks=3) == []
    assert store.counts["evicted", "downsampled"] == 0


def test_nothing_behind_the_window_checkpoint_is_touched(store: Store) -> None:
    append(store, backlog(1000))
    with store.transaction():
        (begun, _) = Downsampling(HOUR_MS).run(store, NOW_MS, 500, 0.1)
        assert "ids 1 and 500 " in begun.message
    assert sql(store.path, "SELECT count(*) FROM buffer_events WHERE id > 500") == [(500,)]


def test_an_unknown_rate_thins_nothing(store: Store) -> None:
    append(store, backlog(1000))
    assert run(store, Downsampling(1000), None, ticks=3) == []


def test_a_little_too_much_thins_nothing_and_one_pass_is_followed_by_none_that_is_not_needed(
    store: Store,
) -> None:
    append(store, backlog(1050))
    downsampling = Downsampling(1_000_000)
    assert run(store, downsampling, 1.0, ticks=3) == []
    append(store, backlog(1050))
    assert len(run(store, downsampling, 1.0, ticks=5)) == 1
    assert 1000 < sum(map(len, numbers(store).values())) < 1100


def test_a_tick_takes_a_bounded_number_of_steps_and_goes_on_with_the_next(store: Store) -> None:
    per_tick = IDS_PER_STEP * STEPS_PER_RUN
    append(store, backlog(2 * per_tick))
    downsampling = Downsampling(1000)
    (said,) = run(store, downsampling, 1.2 * per_tick)
    assert f"between buffer ids 1 and {2 * per_tick}" in said
    assert store.counts["evicted", "downsampled"] == pytest.approx(per_tick / 2, abs=STREAMS)
    assert run(store, downsampling, 1.2 * per_tick) == []
    assert store.counts["evicted", "downsampled"] == pytest.approx(per_tick, abs=STREAMS)


def test_after_a_rollback_the_pass_begins_and_is_announced_again(store: Store) -> None:
    append(store, backlog(2100))
    downsampling = Downsampling(1_000_000)
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.checkpoint([])
        assert downsampling.run(store, NOW_MS, store.last_id(), 1.5)
        _ = 1 / 0
    store.reload()
    downsampling.rolled_back()
    assert "one in 2 " in run(store, downsampling, 1.5)[0]
    assert all({b - a for a, b in pairwise(kept)} == {2} for kept in numbers(store).values())


def test_the_end_of_a_pass_says_of_which_streams_it_took_how_many_events_also_of_ticks_before_a_rollback(
    store: Store,
) -> None:
    per_tick = IDS_PER_STEP * STEPS_PER_RUN
    append(store, backlog(per_tick + 700))
    downsampling = Downsampling(1000)
    (begun,) = announced(store, downsampling, per_tick / 1.5, ticks=1)
    assert begun.details["last_id"] == per_tick + 700
    with pytest.raises(ZeroDivisionError), store.transaction():
        downsampling.run(store, NOW_MS, store.last_id(), None)
        _ = 1 / 0
    with store.transaction():
        store.reload()
    downsampling.rolled_back()
    (done,) = announced(store, downsampling, per_tick / 1.5, ticks=3)
    assert done.details["events"] == store.counts["evicted", "downsampled"]
    assert {loss["stream"] for loss in done.details["streams"]} == {f"s/{n}" for n in range(STREAMS)}


@pytest.mark.slow
def test_behind_a_slow_line_the_backlog_drains_in_time_and_is_complete_with_what_is_declared(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local, folder = mosquitto(["max_queued_messages 0"]), tmp_path / "cloud"
    folder.mkdir()
    cloud = mosquitto(["max_queued_messages 0"], persistence=folder)
    line = FaultyLine(cloud.port)
    consumer = Consumer(cloud, str(tmp_path / "events.ndjson"))
    consumer.once()
    settings = {"url": line.url, "audit": "500ms", "drain_target": "4s", "encoding": "none"}
    sent = 4000
    with GatewayProcess(gateway_config(tmp_path, local.url, cloud=settings)) as gateway:
        gateway.wait_ready()
        messages = [(f"sensors/d{n % 10}", b'{"n":%d,"v":1,"t":1700000000000}' % n) for n in range(sent)]
        publish(local.port, messages)
        wait_until(
            lambda: gateway.metric('gateway_events_appended_total{kind="raw"}') == sent, "all are stored"
        )
        with line.running():
            line.rate_bytes_per_s = 20_000  # 4 s carry about a quarter of the backlog
            found = consumer.wait_until_audited(gateway, local, sent)
            lost = gateway.metric('gateway_events_evicted_total{reason="downsampled"}')
            assert gateway.metric("gateway_bridge_wire_bytes_total") < 100 * (sent - lost) + 100_000
    assert found["complete"], found
    assert found["declared"] == {"downsampled": lost}
    assert sent / 4 < lost < sent
    lines = map(json.loads, (tmp_path / "events.ndjson").read_text().splitlines())
    received = list(lines)
    raw = [e for e in received if e["kind"] == "raw" and e["payload"]["n"] >= 0]
    assert len(raw) == sent - lost
    assert any(e["kind"] == "alert" and e["payload"]["alert"] == "downsampled" for e in received)
