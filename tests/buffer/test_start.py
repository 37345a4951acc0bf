"""A start does not wait for the backlog, nor load it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.support.buffers import append, event, opened
from tests.support.gateways import HOST, GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port


def started(folder: Path, backlog: int) -> tuple[float, int]:
    """Seconds from the process's start until it answers, and the most memory, in kB, that it ever had until
    it had verified all of its backlog."""
    path = folder / "data" / "events.db"
    path.parent.mkdir(parents=True)
    with opened(path) as store:
        for start in range(0, backlog, 1000):
            append(store, [event(f"sensors/{n % 100}", b'{"v": %d}' % n) for n in range(start, start + 1000)])
            with store.transaction():
                store.checkpoint([])
    with GatewayProcess(gateway_config(folder, f"mqtt://{HOST}:{free_port()}")) as gateway:
        wait_until(lambda: gateway.get("/healthz"), "it answers")  # the first start loads modules from disk
        gateway.stop()
        started_s = time.monotonic()
        gateway.start()
        wait_until(lambda: gateway.get("/healthz"), "it answers")
        took_s = time.monotonic() - started_s
        wait_until(lambda: gateway.metric("gateway_buffer_verified_share") == 1, "it is verified", 300)
        assert gateway.metric('gateway_buffer_events{status="pending"}') == backlog
        status = Path(f"/proc/{gateway.pid}/status").read_text()
        return took_s, int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]


@pytest.mark.slow
def test_a_backlog_of_a_million_events_makes_a_start_neither_slow_nor_large(tmp_path: Path) -> None:
    short_s, small_kb = started(tmp_path / "small", 1_000)
    long_s, large_kb = started(tmp_path / "large", 1_000_000)
    figures = f"{short_s:.2f} s and {small_kb} kB with 1,000, {long_s:.2f} s and {large_kb} kB with 1,000,000"
    assert long_s < 4 * short_s, figures
    # The page caches of the connections are full then: 32 MiB, and 8 MiB for each that reads.
    assert large_kb - small_kb < 64 * 1024, figures
