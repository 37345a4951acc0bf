"""The buffer's file as a gateway opens it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from gateway.app.storage import OpenBuffer
from gateway.buffer.connection import PAGE_CACHE_BYTES
from gateway.config.service_models import Buffer
from gateway.core.clock import SteadyClock
from gateway.flow.memory import MIB, memory_budget


@pytest.mark.parametrize(
    ("memory_bytes", "cache_bytes"), [(2048 * MIB, PAGE_CACHE_BYTES), (128 * MIB, 64 * MIB // 10)]
)
def test_the_page_cache_keeps_to_the_memory_budget(
    tmp_path: Path, memory_bytes: int, cache_bytes: int
) -> None:
    """With 32 MiB whatever the budget, `flow.memory: 128MiB` was overloaded once the file had grown."""
    budget = memory_budget(memory_bytes)
    with closing(OpenBuffer(tmp_path / "events.db", "g1", Buffer(), budget, SteadyClock())) as buffer:
        buffer.open()
        (size,) = next(buffer.store._connection.execute("PRAGMA cache_size"))
    assert size == -(cache_bytes // 1024)
