"""Looking for the events of a range of time: each is found, and no snapshot outlives a stretch."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.buffer import event_history
from gateway.buffer.event_history import TimeRange, found_in
from gateway.core.events import Kind
from tests.support.buffers import EPOCH_MS, append, event, events, opened, reading

RAW = frozenset({Kind.RAW})


def test_all_stretches_together_have_every_event_of_the_range_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_history, "STRETCH_ROWS", 7)
    with opened(tmp_path / "events.db") as store:
        append(store, events(50) + events(50, "t/b"))
    with reading(tmp_path / "events.db") as reader:
        wanted = TimeRange("t/+", RAW, EPOCH_MS + 10, EPOCH_MS + 20)
        assert [id_ for ids in found_in(reader, wanted) for id_ in ids] == [*range(11, 21), *range(61, 71)]
        assert [id_ for ids in found_in(reader, wanted, 15) for id_ in ids] == [
            *range(16, 21),
            *range(61, 71),
        ]


def test_the_log_can_be_emptied_between_two_stretches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_history, "STRETCH_ROWS", 5)
    with opened(tmp_path / "events.db") as store:
        append(store, events(50))
        with reading(tmp_path / "events.db") as reader:
            stretches = found_in(reader, TimeRange("#", RAW, 0, EPOCH_MS * 2))
            next(stretches)
            append(store, [event(at=99)])
            assert store.file.empty_wal()
            assert sum(map(len, stretches)) == 46
