"""`kill -9` of the storage at random points: nothing acknowledged is lost, nothing is stored twice (P1, P2).

A process works on a buffer and says what it acknowledges. It is killed, the buffer is compared with what it
said, and the next one starts with what the broker delivers again.
"""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path

import pytest

from tests.support.shift_worker import Broker, Worker, check

log = logging.getLogger(__name__)


@pytest.mark.parametrize("kills", [pytest.param(8, id="short"), pytest.param(200, marks=pytest.mark.slow)])
def test_kills_at_random_points_lose_nothing_and_store_nothing_twice(tmp_path: Path, kills: int) -> None:
    seed = random.SystemRandom().randrange(2**32)
    chance, broker = random.Random(seed), Broker()
    log.warning("seed %d", seed)  # pytest shows it when the test fails
    (data := tmp_path / "data").mkdir()
    for number in range(kills):
        with Worker(data, "full", seed + number, broker) as worker:
            if chance.random() < 0.8:  # else it dies while it starts
                worker.wait_ready()
            time.sleep(chance.uniform(0, 0.4))
        assert not check(data, tmp_path / "copy", broker)
    assert broker.acknowledged > 0
    log.warning("%d kills, %d messages sent, %d acknowledged", kills, broker.sent, broker.acknowledged)
