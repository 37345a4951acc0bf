"""What a round takes while a backlog drains: urgent and young events before it, no stream out of order."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from gateway.buffer.backlog import Backlog
from gateway.buffer.store import Store
from gateway.core.events import Kind, Priority, Status
from gateway.delivery.states import DeliveryEvent
from tests.support.buffers import EPOCH_MS, append, event, events, opened, reading

HOUR_MS = 3_600_000


def look(path: Path, *, newest_first: bool = False, before: Backlog | None = None) -> Backlog:
    with reading(path) as reader:
        return Backlog(*reader.backlog(0, 1, before.to_id if before else None), newest_first)


def claim(store: Store, backlog: Backlog, limit: int = 8, now_ms: int = EPOCH_MS) -> list[int]:
    with store.transaction():
        found = store.claim(limit, now_ms=now_ms, backlog=backlog)
    backlog.passed = backlog.reached
    return found


def test_what_is_critical_and_what_is_young_goes_before_the_backlog(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        append(store, [event("w/old", kind=Kind.AGGREGATE), *events(20, "raw")])  # ids 1, 2 … 21
        backlog = look(path)
        late_ms = 2 * HOUR_MS
        append(store, [event("w/new", kind=Kind.AGGREGATE, at=late_ms)])  # 22
        append(store, [event("live", at=late_ms), event("alarm", priority=Priority.CRITICAL, at=late_ms)])
        assert claim(store, backlog, 5, EPOCH_MS + late_ms) == [24, 22, 23, 1, 2]
        assert claim(store, backlog, 5, EPOCH_MS + late_ms) == [3, 4, 5, 6, 7]


def test_live_events_get_half_a_round_and_the_backlog_the_other(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        append(store, events(20, "backlog"))
        backlog = look(path)
        append(store, events(20, "live"))
        assert claim(store, backlog) == [21, 22, 23, 24, 1, 2, 3, 4]
        assert claim(store, backlog) == [25, 26, 27, 28, 5, 6, 7, 8]


def test_a_live_event_waits_for_the_backlog_of_its_own_stream_unless_the_newest_go_first(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        append(store, events(10, "backlog"))
        backlog = look(path)
        append(store, [event("backlog"), event("live")])
        assert claim(store, backlog, 4) == [12, 1, 2, 3]
        newest = look(path, newest_first=True, before=backlog)
        assert claim(store, newest, 4) == [11, 10, 9, 8]


def test_a_stream_whose_backlog_is_gone_is_live_again(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        append(store, [event("a"), *events(10, "b")])
        backlog = look(path)
        first = claim(store, backlog, 2)
        append(store, [event("a")])
        assert claim(store, look(path, before=backlog), 2) == [3, 4]  # 1 may still come back
        with store.transaction():
            store.move(first, Status.SYNCING, DeliveryEvent.PUBACK)
        assert claim(store, look(path, before=backlog), 2) == [12, 5]


@pytest.mark.parametrize("rounds", [60])
def test_oldest_first_keeps_every_stream_in_order_whatever_comes_meanwhile(
    tmp_path: Path, rounds: int
) -> None:
    path = tmp_path / "events.db"
    newest: dict[int, int] = defaultdict(int)
    with opened(path) as store:
        append(store, [e for name in "abc" for e in events(40, name)])
        backlog = look(path)
        for number in range(rounds):
            append(store, [event("abcdef"[number % 6]), event("abcdef"[number * 5 % 6])])
            ids = claim(store, backlog, 5)
            with reading(path) as reader:
                rows = reader.by_ids(ids)
                stream_of = dict(zip(rows.ids, rows.stream_ids, strict=True))
            for each in ids:
                assert newest[stream_of[each]] < each
                newest[stream_of[each]] = each
            if number % 4 == 3:
                with store.transaction():
                    store.move(ids, Status.SYNCING, DeliveryEvent.PUBACK)
                backlog = look(path, before=backlog)
