"""Streams that wait after a refusal: for how long, in which order they go on, and what that costs."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from gateway.buffer.store import Store
from gateway.core.events import Priority, Status
from gateway.delivery.states import Backoff, DeliveryEvent
from tests.support.buffers import append, event, events, opened, reading, sql

BACKOFF = Backoff(min_ms=1000, max_ms=60_000, max_attempts=3)
SURE = 0.999_999  # the longest pause


def claim(store: Store, now_ms: int, limit: int = 100) -> list[int]:
    with store.transaction():
        return store.claim(limit, now_ms=now_ms)


def refuse(store: Store, ids: list[int], now_ms: int, chance: float = 0.0) -> int:
    with store.transaction():
        return store.refuse(ids, "no reason", BACKOFF, now_ms, chance)


def settle(store: Store, ids: list[int]) -> None:
    with store.transaction():
        store.move(ids, Status.SYNCING, DeliveryEvent.PUBACK)


@pytest.mark.parametrize(
    "refusals, longest_ms", [(1, 2000), (2, 4000), (5, 32_000), (6, 60_000), (99, 60_000)]
)
def test_the_pause_doubles_up_to_its_limit_and_jitters_over_all_of_it(refusals: int, longest_ms: int) -> None:
    assert BACKOFF.pause_ms(refusals, 0.0) == 1000
    assert BACKOFF.pause_ms(refusals, SURE) == longest_ms
    assert BACKOFF.pause_ms(refusals, 0.5) == (1000 + longest_ms) // 2


def test_a_refused_stream_waits_and_nothing_of_it_overtakes_while_the_others_go_on(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, [*events(2, "t/a"), *events(2, "t/b"), *events(1, "t/a")])
        assert claim(store, 0, limit=1) == [1]
        refuse(store, [1], now_ms=0)
        append(store, [*events(1, "t/b"), *events(1, "t/a")])
        assert claim(store, 999) == [3, 4, 6]
        assert claim(store, 999) == []
        assert claim(store, 1000) == [1, 2, 5, 7]


def test_a_refusal_holds_a_stream_in_one_priority_only(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, [event(priority=Priority.NORMAL), event(priority=Priority.CRITICAL)])
        refuse(store, claim(store, 0, limit=2)[1:], now_ms=0)  # the normal one
        append(store, [event(priority=Priority.NORMAL), event(priority=Priority.CRITICAL)])
        assert claim(store, 1) == [4]


def test_events_that_come_back_are_found_though_a_claim_had_passed_them(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, [*events(1, "t/held"), *events(3, "t/b")])
        first, *others = claim(store, 0)
        refuse(store, [first], now_ms=0)
        assert claim(store, 1) == []
        with store.transaction():
            store.move(others, Status.SYNCING, DeliveryEvent.FAILURE)
        assert claim(store, 1) == others


def test_an_event_that_comes_first_anew_has_been_refused_once_whatever_those_behind_it_were(
    tmp_path: Path,
) -> None:
    """The first frame's answer was lost with the connection, those behind it were refused twice by then."""
    with opened(tmp_path / "events.db") as store:
        append(store, events(3, "t/a"))
        now_ms = 0
        with store.transaction():
            store.move(store.claim(3, now_ms=now_ms)[:1], Status.SYNCING, DeliveryEvent.FAILURE)
        refuse(store, [2, 3], now_ms)
        for _ in range(2):
            now_ms += 60_000
            assert claim(store, now_ms) == [1, 2, 3]
            assert refuse(store, [1, 2, 3], now_ms) == 0
        now_ms += 60_000
        assert claim(store, now_ms) == [1, 2, 3]
        assert refuse(store, [1, 2, 3], now_ms) == 3


def test_the_pause_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        append(store, events(2))
        refuse(store, claim(store, 0), now_ms=0)
    with opened(path) as store:
        assert claim(store, 999) == []
        assert claim(store, 1000) == [1, 2]


def test_a_clock_that_goes_back_ends_the_pause(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, events(1))
        refuse(store, claim(store, 10_000_000), now_ms=10_000_000)
        assert claim(store, 10_000_001) == []
        assert claim(store, 5000) == [1]


def test_what_is_refused_too_often_in_a_row_fails_and_its_stream_goes_on(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, events(2))
        now_ms, failed = 0, []
        for _ in range(3):
            failed.append(refuse(store, claim(store, now_ms, limit=1), now_ms, SURE))
            now_ms += 60_000
        assert failed == [0, 0, 1]
        assert claim(store, now_ms) == [2]
        assert store.counts["status", "FAILED"] == 1


def test_lost_connections_alone_fail_nothing_and_neither_does_one_refusal_after_many_of_them(
    tmp_path: Path,
) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, events(1))
        for _ in range(50):
            with store.transaction():
                store.move(store.claim(1), Status.SYNCING, DeliveryEvent.FAILURE)
        assert refuse(store, claim(store, 0), now_ms=0) == 0
        settle(store, claim(store, 60_000))
        append(store, events(1))
        assert [refuse(store, claim(store, t), now_ms=t) for t in (10**6, 2 * 10**6, 3 * 10**6)] == [0, 0, 1]


def test_nothing_is_left_of_a_hold_whose_event_was_sent(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, events(1))
        refuse(store, claim(store, 0), now_ms=0)
        settle(store, claim(store, 5000))
        claim(store, 5001)
        claim(store, 5000 + 60_000)
        assert sql(store.path, "SELECT * FROM held") == []


def test_a_rolled_back_refusal_holds_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, events(1))
        ids = claim(store, 0)
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.refuse(ids, "no reason", BACKOFF, 0, 0.0)
            assert store.claim(1, now_ms=1) == []
            raise ZeroDivisionError
        with store.transaction():
            store.reload()
            store.release_all()
        assert claim(store, 1) == [1]


def test_claims_that_skip_a_large_backlog_look_at_it_once(tmp_path: Path) -> None:
    """Counted in SQLite's own steps: a clock would say whatever the machine is doing."""
    with opened(tmp_path / "events.db") as store:
        append(store, events(20_000, "t/held"))
        refuse(store, claim(store, 0, limit=1), now_ms=0, chance=SURE)
        append(store, events(300, "t/b"))
        first = steps(store, now_ms=1)
        assert first > 20_000
        assert max(steps(store, now_ms=2 + n) for n in range(20)) < 2_000


def steps(store: Store, now_ms: int) -> int:
    """How many steps of SQLite's virtual machine a claim of ten events takes."""
    connection: apsw.Connection = store._connection
    counted = 0

    def count() -> bool:
        nonlocal counted
        counted += 10
        return False

    connection.set_progress_handler(count, 10)
    try:
        assert len(claim(store, now_ms, limit=10)) == 10
    finally:
        connection.set_progress_handler(None)
    return counted


def test_shards_skip_for_themselves(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, [event(f"t/{number}") for number in range(6)])
        with store.transaction():
            refused = store.claim(1, 0, 2, now_ms=0)
            store.refuse(refused, "no reason", BACKOFF, 0, 0.0)
        claims = []
        for shard in (0, 1):
            with store.transaction():
                claims.append(store.claim(9, shard, 2, now_ms=1))
        with reading(store.path) as reader:
            assert [{n % 2 for n in reader.by_ids(ids).stream_ids} for ids in claims] == [{0}, {1}]
    assert sorted([*claims[0], *claims[1], *refused]) == [1, 2, 3, 4, 5, 6]
