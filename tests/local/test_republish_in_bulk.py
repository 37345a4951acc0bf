"""On a real broker: results are published in bulk, in their order, with retained ones among them."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.buffer.store import REPUBLISHED_ID, NewEvent, Store
from gateway.buffer.writer import Writer
from gateway.core.events import Kind
from gateway.local.republish import IN_FLIGHT, Republish
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.link import Link
from tests.conftest import MosquittoFactory
from tests.support.buffers import append, event
from tests.support.gateways import wait_until
from tests.support.publishing import Watcher

RESULTS = 10 * IN_FLIGHT


def result(number: int) -> NewEvent:
    """Every hundredth is retained; of each ten the last is of a window before the others'."""
    name = "kept" if number % 100 == 50 else "plain"
    start_ms = 0 if number % 10 == 9 else 60_000 * (number // 10 + 1)
    bounds = {"start_ms": start_ms, "end_ms": start_ms + 60_000, "kind": "on_time", "revision": 0}
    payload = json.dumps({"window": name, "key": "a", "number": number, **bounds}).encode()
    return event(f"gateway/g1/aggregates/{name}/a", payload, kind=Kind.AGGREGATE)


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_results_come_in_bulk_and_in_order(
    mosquitto: MosquittoFactory, tmp_path: Path, protocol: str
) -> None:
    broker, path = mosquitto(["max_queued_messages 0"]), tmp_path / "events.db"
    with ExitStack() as cleanup:
        store = Store(path)
        store.open()
        cleanup.callback(store.close)
        append(store, [result(number) for number in range(RESULTS)])
        writer = Writer(store)
        writer.start()
        cleanup.callback(writer.stop)
        session = Republish(path, writer, "gateway/g1/status", "gateway/g1/b", lambda t: "/kept/" in t, 0)
        seen = cleanup.enter_context(Watcher(broker.port, "gateway/g1/aggregates/#"))
        link = Link("tested", Endpoint("127.0.0.1", broker.port, "t", protocol), session)  # type: ignore[arg-type]
        link.start()
        cleanup.callback(link.stop)
        wait_until(lambda: len(seen.messages) >= RESULTS, "all results")
        wait_until(lambda: session._settled == RESULTS, "all are acknowledged")
        link.stop()
        session.finish()
        wait_until(lambda: writer.call(lambda s: s.meta_int(REPUBLISHED_ID)) == RESULTS, "that is saved")
    found = [json.loads(message.payload) for message in seen.messages]
    assert [one["number"] for one in found] == [*range(RESULTS)]
    old = [one["number"] for one in found if one.get("superseded")]
    assert old == [number for number in range(RESULTS) if number % 10 == 9]
