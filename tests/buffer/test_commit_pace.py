"""How soon commits follow each other: a lone one at once, others at a least interval unless it presses."""

from __future__ import annotations

import threading
from pathlib import Path

from gateway.buffer.commit_pace import BURST, LEAST_INTERVAL_S, CommitPace
from gateway.buffer.store import Store
from gateway.buffer.writer import BULK_EVENTS, Command, Writer
from tests.support.buffers import opened

PATIENCE_S = 60.0
AGES_S = 3600.0


def test_what_one_message_brings_about_is_committed_without_a_pause() -> None:
    pace = CommitPace()
    for number in range(BURST):
        assert pace.pause_s(100 + number * 0.001) == 0
        pace.committed(100 + number * 0.001)


def test_under_load_commits_keep_the_least_interval() -> None:
    pace, now_s, count = CommitPace(), 100.0, 0
    while now_s < 101:
        now_s += pace.pause_s(now_s) or 0.001  # a commit takes a millisecond
        if now_s < 101 and not pace.pause_s(now_s):
            pace.committed(now_s)
            count += 1
    assert count <= 1 / LEAST_INTERVAL_S + BURST


class Noted(Command):
    def __init__(self, weight: int = 1, *, urgent: bool = False) -> None:
        self.weight = weight
        self.urgent = urgent
        self.done = threading.Event()

    def apply(self, store: Store) -> None:
        pass

    def committed(self) -> None:
        self.done.set()


def submit(writer: Writer, *commands: Noted) -> None:
    for command in commands:
        writer.submit(command)


def test_what_waits_for_company_goes_with_what_is_urgent_or_with_a_full_group(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        writer = Writer(store, pace=CommitPace(AGES_S))
        writer.start()
        try:
            for _ in range(BURST):
                lone = Noted()
                writer.submit(lone)
                assert lone.done.wait(PATIENCE_S)
            waiting, urgent = Noted(), Noted(urgent=True)
            writer.submit(waiting)
            assert not waiting.done.wait(0.05)
            writer.submit(urgent)
            assert urgent.done.wait(PATIENCE_S)
            assert waiting.done.is_set()
            bulk = [Noted(BULK_EVENTS // 2), Noted(BULK_EVENTS // 2)]
            submit(writer, *bulk)
            assert bulk[-1].done.wait(PATIENCE_S)
            assert writer.call(lambda _: "at once", PATIENCE_S) == "at once"
            last = Noted()
            writer.submit(last)
        finally:
            assert writer.stop(PATIENCE_S)
        assert last.done.is_set()
