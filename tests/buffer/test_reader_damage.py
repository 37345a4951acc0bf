"""Damage that any reader of a running gateway meets is known to health, and told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from gateway.buffer.event_filter import EventFilter
from gateway.buffer.reader import Reader
from gateway.buffer.repair.damage import noted_damage
from gateway.core.events import Status
from tests.support.buffers import append, events, opened, reading, spoil_page

READS: list[tuple[str, Callable[[Reader], object]]] = [
    ("buffer_events", lambda reader: list(reader.raw_after(0))),
    ("buffer_events", lambda reader: reader.count(EventFilter(stream="t/a"), list(Status))),
    ("streams", lambda reader: reader.names([1, 2, 3])),
    ("counters", lambda reader: reader.counters()),
]


@pytest.mark.parametrize(("table", "read"), READS)
def test_damage_that_a_reader_meets_is_noted_for_upkeep(
    tmp_path: Path, table: str, read: Callable[[Reader], object]
) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        append(store, events(2000))
    spoil_page(path, table)
    with reading(path) as reader, pytest.raises(apsw.CorruptError):
        read(reader)
    assert "malformed" in noted_damage(path)


def test_damage_that_keeps_a_reader_from_opening_is_noted_too(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        append(store, events(5))
    spoil_page(path, "meta")
    with pytest.raises(apsw.CorruptError):
        Reader(path)
    assert "malformed" in noted_damage(path)


def test_a_buffer_that_is_busy_or_gone_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        append(store, events(5))
    with reading(path) as reader, pytest.raises(apsw.SQLError):
        reader.arrays("SELECT nothing FROM buffer_events")
    assert noted_damage(path) == ""
