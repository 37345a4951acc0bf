"""A plugin is slow by what it takes of the processor; waiting, as for the interpreter, is not its fault."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from gateway.core.clock import processor_ns
from gateway.core.events import Reading, Sample
from gateway.pipeline.announcements import Announcements
from gateway.windows.engine import TIMED_EVERY, WindowEngine, gathered
from tests.support.windowing import spec


def spin(seconds: float) -> None:
    until_s = time.thread_time() + seconds
    while time.thread_time() < until_s:
        pass


class Plugin:
    def __init__(self, work: Callable[[float], None]) -> None:
        self._work = work

    def create_accumulator(self) -> int:
        return 0

    def add_input(self, accumulator: int, _: Reading) -> int:
        self._work(0.001)
        return accumulator + 1

    def merge_accumulators(self, accumulators: list[int]) -> int:
        return sum(accumulators)

    def extract_output(self, accumulator: int) -> int:
        return accumulator


@pytest.mark.parametrize(("work", "is_slow"), [(time.sleep, False), (spin, True)])
def test_only_the_use_of_the_processor_makes_a_plugin_slow(
    work: Callable[[float], None], is_slow: bool, caplog: pytest.LogCaptureFixture
) -> None:
    plugin: Any = Plugin(work)
    engine = WindowEngine([spec(size_ms=1000)], {"w": plugin}, stopwatch_ns=processor_ns)
    for number in range(2 * TIMED_EVERY):
        gathered(engine.process("t/s", None, {}, [Sample(number, {"key": "k", "value": 1.0})], number))
    with caplog.at_level(logging.WARNING):
        Announcements(lambda *_: None).slow(engine.counters)
    assert ("its plugin is slow" in caplog.text) == is_slow
