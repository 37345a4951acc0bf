"""The bridge's share of the memory: frames and claims become smaller, and everything still arrives."""

from __future__ import annotations

import random
from pathlib import Path

from gateway.buffer.stored_events import BATCH_BYTES
from gateway.cloud.bridge_spec import FRAME_BYTES, LEAST_FRAME_BYTES, BridgeSpec
from tests.conftest import MosquittoFactory
from tests.support.buffers import event, opened
from tests.support.sending import Consumer, check_complete, sending

KIB = 1024


def incompressible(count: int) -> list[bytes]:
    chance = random.Random(3)
    return [chance.randbytes(20 * KIB) for _ in range(count)]


def test_frames_and_claims_fit_the_memory_of_a_connection() -> None:
    roomy, tight = BridgeSpec("p", "g"), BridgeSpec("p", "g", memory_bytes=4 * KIB * KIB)
    assert (roomy.frame_bytes, roomy.claim_bytes) == (FRAME_BYTES, BATCH_BYTES)
    assert tight.claim_bytes + tight.in_flight * tight.frame_bytes <= tight.memory_bytes
    assert BridgeSpec("p", "g", memory_bytes=1).frame_bytes == LEAST_FRAME_BYTES


def test_a_claim_takes_no_more_than_its_bytes_and_at_least_one_event(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store, store.transaction():
        store.append([event(payload=payload) for payload in incompressible(10)])
        assert len(store.claim(10, limit_bytes=70 * KIB)) == 3
        assert len(store.claim(10, limit_bytes=1)) == 1


def test_a_backlog_arrives_with_little_memory(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    broker = mosquitto()
    sent = [event(payload=payload, at=number) for number, payload in enumerate(incompressible(100))]
    with (
        Consumer(broker.port) as consumer,
        sending(tmp_path / "events.db", broker.port, sent, memory_bytes=KIB * KIB) as sender,
    ):
        sender.wait_drained()
        consumer.wait_for(len(sent))
        check_complete(consumer.events, sent)
        assert sender.bridges[0].metrics.frames >= 100 * 20 * KIB // LEAST_FRAME_BYTES
