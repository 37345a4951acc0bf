"""The audit of single streams: each number is here, failed, corrupt, lost for a reason, or was delivered."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from gateway.buffer.event_filter import EventFilter
from gateway.buffer.proof.stream_audit import RANGES_SHOWN, StreamAudit, audit_streams
from gateway.buffer.store import Store
from gateway.core.events import Priority, Status
from gateway.delivery.states import DeliveryEvent
from tests.buffer.test_operator_actions import by_hand, silent
from tests.support.buffers import EPOCH_MS, append, event, events, opened, reading, sql


def audited(path: Path, topic_filter: str | None = None) -> dict[str, StreamAudit]:
    with reading(path) as reader, reader.snapshot():
        return {one.stream: one for one in audit_streams(reader, topic_filter)}


def checkpoint(store: Store) -> None:
    with store.transaction():
        store.checkpoint([])


def test_every_number_of_a_stream_is_somewhere(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, events(100, "t/a"))
        checkpoint(store)
        with store.transaction():
            store.move(store.claim(30), Status.SYNCING, DeliveryEvent.PUBACK)
            store.removals.evict_synced(1, 20, EPOCH_MS + 1000)
            store.move(store.claim(5), Status.SYNCING, DeliveryEvent.EXHAUSTED)  # 31 to 35
            store.move([40, 42], Status.PENDING, DeliveryEvent.MISMATCH)
            store.removals.thin(51, 60, 2, Priority.NORMAL)
            store.removals.drop_pending([71, 72, 73])
        by_hand(store).drop(EventFilter(status=Status.FAILED, before_ms=EPOCH_MS + 32), silent)
        found = audited(store.path)["t/a"]
        assert found.problem == ""
        assert found.given_out == 100
        assert found.statuses == {"synced": 10, "failed": 3, "pending": 100 - 35 - 2 - 5 - 3, "corrupt": 2}
        assert str(found.missing) == "30 (1–20, 31–32, 51, 53, 55, 57, 59, 71–73)"
        assert {name: str(ranges) for name, ranges in found.held.items()} == {
            "failed": "3 (33–35)",
            "corrupt": "2 (40, 42)",
        }
        assert {reason: str(ranges) for reason, ranges in found.lost.items()} == {
            "thinned": "5 (51–59 every 2)",
            "oldest": "3 (71–73)",
            "dropped": "2 (31–32)",
        }
        assert found.gone_after_delivery == 20


def test_numbers_at_the_end_and_whole_streams_are_missed_too(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, [*events(3, "t/a"), *events(2, "t/b")])
        checkpoint(store)
        with store.transaction():
            store.removals.drop_pending([3, 4, 5])
        found = audited(store.path)
    assert str(found["t/a"].missing) == "1 (3)"
    assert str(found["t/b"].missing) == "2 (1–2)"
    assert found["t/b"].statuses == {}


def test_a_complete_stream_says_so(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, events(3))
        found = audited(store.path)["t/a"]
    assert found.is_complete
    assert found.missing.numbers == 0


def test_a_filter_chooses_streams(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, [event(topic) for topic in ("t/a", "t/b", "$sys/x", "u")])
        assert [*audited(store.path)] == ["t/a", "t/b", "$sys/x", "u"]
        assert [*audited(store.path, "t/+")] == ["t/a", "t/b"]


def test_what_is_shown_of_many_ranges_is_bounded_and_the_sum_is_not(tmp_path: Path) -> None:
    chance = random.Random(1)
    lost = sorted(chance.sample(range(1, 2001), 600))
    with opened(tmp_path / "events.db") as store:
        append(store, events(2000))
        checkpoint(store)
        with store.transaction():
            store.removals.drop_pending(lost)
        found = audited(store.path)["t/a"]
    assert found.missing.numbers == 600
    assert found.lost["oldest"].numbers == 600
    assert len(found.missing.shown) == RANGES_SHOWN
    assert f"{found.missing.count - RANGES_SHOWN} more ranges" in str(found.missing)
    assert len(json.dumps(found.as_json())) < 2000


def test_a_row_that_reappears_though_it_was_noted_as_lost_is_a_problem(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, events(5))
        checkpoint(store)
        with store.transaction():
            store.removals.drop_pending([2, 3])
        append(store, events(1))
    sql(store.path, "UPDATE buffer_events SET sequence_num = 2 WHERE id = 6")
    assert "2 numbers are noted as lost, but only 1 are missing" in audited(store.path)["t/a"].problem


@pytest.mark.parametrize("value", ["'text'", "x'00ff'", "1 << 60", "-5"])
def test_a_corrupt_event_with_any_number_disturbs_nothing_and_can_be_dropped(
    tmp_path: Path, value: str
) -> None:
    with opened(tmp_path / "events.db") as store:
        append(store, events(5))
        checkpoint(store)
        with store.transaction():
            store.move([3], Status.PENDING, DeliveryEvent.MISMATCH)
        sql(store.path, f"UPDATE buffer_events SET sequence_num = {value} WHERE id = 3")  # noqa: S608
        found = audited(store.path)["t/a"]
        assert (found.given_out, str(found.missing), found.problem) == (5, "1 (3)", "")
        assert by_hand(store).drop(EventFilter(status=Status.CORRUPT), silent) == {"dropped": 1}
        assert audited(store.path)["t/a"].problem == ""
