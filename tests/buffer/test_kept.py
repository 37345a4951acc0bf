"""KEPT: what stays at the edge is counted, declared, evicted like what is sent, and sent when asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.buffer.event_filter import EventFilter
from gateway.buffer.operator_actions import OperatorActions
from gateway.buffer.proof.balance import audit
from gateway.buffer.proof.positions import lost, standing
from gateway.buffer.proof.stream_audit import audit_streams
from gateway.buffer.retention.policy import Retention
from gateway.buffer.store import Store
from gateway.core.events import Status
from gateway.core.sequence_sets import Run
from gateway.delivery.states import DeliveryEvent
from gateway.receiver.completeness import judge
from gateway.receiver.ledger import Identity, Ledger
from gateway.wire.audit_record import AuditRecord, Exempt, StreamClaim, audit_messages, read_audit
from tests.support.buffers import EPOCH_MS, append, events, opened, reading

HOUR_MS = 3_600_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """1 to 4 are kept, 5 and 6 go to the cloud, 7 is kept; each arrived a millisecond after the last."""
    with opened(tmp_path / "events.db") as store:
        kept = [True] * 4 + [False] * 2 + [True]
        append(store, [one._replace(kept=at) for one, at in zip(events(7), kept, strict=True)])
        with store.transaction():
            store.checkpoint([])
        yield store


def counts(store: Store) -> dict[str, int]:
    return {status.name: n for status in Status if (n := store.counts["status", status.name])}


def deliver(store: Store) -> list[int]:
    with store.transaction():
        ids = store.claim(100)
    with store.transaction():
        store.move(ids, Status.SYNCING, DeliveryEvent.PUBACK)
    return ids


def check_balance(store: Store) -> None:
    with reading(store.path) as reader:
        assert audit(reader).problems == ()


def test_it_is_counted_and_never_claimed(store: Store) -> None:
    assert counts(store) == {"PENDING": 2, "KEPT": 5}
    assert deliver(store) == [5, 6]
    assert counts(store) == {"SYNCED": 2, "KEPT": 5}
    check_balance(store)


def test_the_audit_declares_it_and_the_receiver_misses_nothing(store: Store) -> None:
    deliver(store)
    with reading(store.path) as reader, reader.snapshot():
        now = standing(reader)
        (complete,) = audit_streams(reader)
    ((_, exempt),) = now.kept.items()
    assert exempt == (Exempt("kept", Run(1, 4, 1), kept=True), Exempt("kept", Run(7, 7, 1), kept=True))
    assert complete.is_complete
    ledger = Ledger()
    for number in (5, 6):
        ledger.take(Identity("g", bytes([number] * 16), "t/a", number, number))
    claim = StreamClaim("t/a", 1, next(iter(now.settled.values())), exempt)
    (message,) = audit_messages(AuditRecord("g", "s", 1, now.statuses, (claim,)))
    ledger.hear(read_audit(message))
    found = judge(ledger)
    assert found.complete
    assert found.declared == {"kept": 5}


def test_every_other_number_is_one_run(tmp_path: Path) -> None:
    with opened(tmp_path / "other.db") as store:
        append(store, [one._replace(kept=at % 2 == 1) for at, one in enumerate(events(1000))])
        with store.transaction():
            store.checkpoint([])
    with reading(tmp_path / "other.db") as reader, reader.snapshot():
        ((_, exempt),) = standing(reader).kept.items()
    assert exempt == (Exempt("kept", Run(2, 1000, 2), kept=True),)


def test_it_is_evicted_like_what_was_sent_and_its_numbers_stay_known(store: Store) -> None:
    deliver(store)
    with store.transaction():
        Retention(2**30, HOUR_MS).run(store, EPOCH_MS + HOUR_MS + 6, store.last_id())
    assert counts(store) == {"KEPT": 1}
    assert (store.counts["evicted", "synced"], store.counts["evicted", "kept"]) == (2, 4)
    check_balance(store)
    with reading(store.path) as reader, reader.snapshot():
        assert [*lost(reader, [(1, 1)]).values()] == [[Exempt("kept", Run(1, 4, 1))]]
        (found,) = audit_streams(reader)
    assert found.is_complete
    assert found.problem == ""


def test_an_operator_sends_it_after_all(store: Store) -> None:
    def run(change):  # type: ignore[no-untyped-def] # of any result
        with store.transaction():
            return change(store)

    actions = OperatorActions(run, lambda change: change(store), lambda *_: None)
    wanted = EventFilter(stream="t/#", from_ms=EPOCH_MS + 1, before_ms=EPOCH_MS + 5)
    assert actions.forward(wanted, lambda _done, _all: None) == {"forwarded": 3}
    assert store.counts["forwarded", ""] == 3
    assert deliver(store) == [2, 3, 4, 5, 6]
    assert counts(store) == {"SYNCED": 5, "KEPT": 2}
    check_balance(store)


def test_what_no_receiver_has_is_sent_again_and_counted(store: Store) -> None:
    ids = deliver(store)
    with store.transaction():
        assert store.resend([1, *ids]) == 2, "what is kept stays kept"
    assert counts(store) == {"PENDING": 2, "KEPT": 5}
    assert store.counts["resent", ""] == 2
    assert deliver(store) == ids
    check_balance(store)


def test_it_survives_a_restart(store: Store) -> None:
    store.close()
    store.open()
    assert counts(store) == {"PENDING": 2, "KEPT": 5}
