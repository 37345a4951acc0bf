"""The bridge's queries go by the partial indexes: none of them looks through what is settled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.buffer.backlog import Backlog
from gateway.buffer.store import Store
from gateway.core.events import Kind, Priority
from tests.support.buffers import EPOCH_MS, append, event, events, opened, reading

SCANS = ("SCAN buffer_events", "USING INTEGER PRIMARY KEY (rowid>", "USE TEMP B-TREE")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "events.db") as store:
        append(store, [*events(500), *(event("w", kind=Kind.AGGREGATE) for _ in range(50))])
        yield store


def plans(store: Store, statements: list[tuple[str, Any]]) -> list[str]:
    """How SQLite goes about each SELECT of the events among `statements`."""
    found = []
    for sql, values in statements:
        if sql.startswith("SELECT json_group_array(id), json_group_array(size)"):
            rows = store._connection.execute("EXPLAIN QUERY PLAN " + sql, values).fetchall()
            found.append("; ".join(str(row[3]) for row in rows))
    return found


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("shards", [1, 2])
def test_every_part_of_a_round_goes_by_an_index_of_what_waits(
    store: Store, newest_first: bool, shards: int
) -> None:
    with reading(store.path) as reader:
        backlog = Backlog(*reader.backlog(0, shards), newest_first)
    append(store, [event("live"), event("alarm", priority=Priority.CRITICAL)])
    statements: list[tuple[str, Any]] = []

    def note(_: object, sql: str, values: Any) -> bool:
        statements.append((sql, values))
        return True

    store._connection.set_exec_trace(note)
    with store.transaction():
        assert store.claim(400, 0, shards, now_ms=EPOCH_MS, backlog=backlog)
    store._connection.set_exec_trace(None)
    found = plans(store, statements)
    assert len(found) >= 6
    for plan in found:
        assert "INDEX buffer_events_unsettled" in plan, plan
        assert not any(scan in plan for scan in SCANS), plan
    assert any("buffer_events_unsettled_derived" in plan for plan in found)
