"""The hashes that bridges make with their messages: those of the events that the cloud receives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.cloud.delivered_hashes import DeliveredHashes
from gateway.wire.evidence import event_hash
from tests.conftest import MosquittoFactory
from tests.support.buffers import event
from tests.support.sending import Consumer, sending

ALL = (1, 2**62)


@pytest.mark.parametrize(
    "spec",
    [
        {"batch_events": 70},
        {"connections": 2},
        {"format": "event"},
        {"format": "event", "short_identity": False},
        {"format": "event", "envelope": "always", "protocol": "3.1.1"},
    ],
)
def test_each_event_that_was_acknowledged_has_its_hash(
    mosquitto: MosquittoFactory, tmp_path: Path, spec: dict[str, Any]
) -> None:
    cloud = mosquitto(["max_queued_messages 0"])
    sent = [event(f"t/{n % 7}", f"{n}".encode()) for n in range(300)]
    pool = DeliveredHashes()
    with (
        Consumer(cloud.port) as consumer,
        sending(tmp_path / "events.db", cloud.port, sent, hashes=pool, **spec) as sender,
    ):
        consumer.wait_for(len(sent))
        sender.wait_drained()
    found = pool.take(dict.fromkeys(range(1, 8), ALL))
    assert found.events == len(sent)
    hashes = {digest for _, digests in found.values() for digest in digests}
    assert hashes == {event_hash(each) for each in consumer.events}
    assert all(numbers == [*range(1, len(numbers) + 1)] for numbers, _ in found.values())
