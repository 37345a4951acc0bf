"""Complete, or exactly what is missing: the ledger's numbers against the gateways' claims."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.receive_report import verdict_text
from gateway.core.sequence_sets import Run
from gateway.flow.dropped_ranges import OTHERS, DroppedRange
from gateway.receiver.completeness import Completeness, judge
from gateway.receiver.ledger import Gap, Identity, Ledger
from gateway.wire.audit_record import AuditRecord, Exempt, StreamClaim


def took(ledger: Ledger, numbers: Iterable[int], *, stream: str = "t", ingest_ms: int = 0) -> Ledger:
    for number in numbers:
        event_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{stream}/{number}/{ingest_ms}").bytes
        ledger.take(Identity("g", event_id, stream, number, ingest_ms + number))
    return ledger


def heard(ledger: Ledger, *claims: StreamClaim, session: str = "one") -> Ledger:
    ledger.hear(AuditRecord("g", session, 1000, {"pending": 0}, claims))
    return ledger


def verdict(told: Ledger, numbers: Iterable[int]) -> Completeness:
    """As --verify comes to it: the claims out of the saved state, the numbers out of the output."""
    state, fresh = Ledger(), Ledger()
    state.load(told.dump())
    fresh.adopt_claims(state)
    return judge(took(fresh, numbers))


def test_everything_that_is_claimed_and_received_is_complete() -> None:
    found = judge(heard(took(Ledger(), range(1, 101)), StreamClaim("t", 1, 100)))
    assert found.complete
    assert (found.received, found.streams, found.missing, found.open) == (100, 1, (), 0)


def test_what_is_claimed_and_not_here_is_named() -> None:
    ledger = took(Ledger(), [*range(1, 50), *range(52, 99)])
    found = judge(heard(ledger, StreamClaim("t", 1, 100), StreamClaim("u", 1, 2)))
    assert not found.complete
    assert found.missing == (Gap("g", "t", 50, 51), Gap("g", "t", 99, 100), Gap("g", "u", 1, 2))


def test_declared_losses_are_not_missing_but_their_neighbours_are() -> None:
    exempt = (Exempt("thinned", Run(1, 99, 2)), Exempt("failed", Run(50, 50), kept=True))
    arrived = [n for n in range(2, 101, 2) if n not in (50, 60)]
    found = verdict(heard(took(Ledger(), arrived), StreamClaim("t", 1, 100, exempt)), arrived)
    assert found.missing == (Gap("g", "t", 60, 60),)
    assert found.declared == {"thinned": 50, "failed": 1}


def test_a_declared_loss_that_came_all_the_same_is_not_counted_as_lost() -> None:
    ledger = took(Ledger(), range(1, 11))
    found = judge(heard(ledger, StreamClaim("t", 1, 10, (Exempt("oldest", Run(3, 4)),))))
    assert (found.complete, found.declared) == (True, {})


def test_an_audit_that_is_too_old_proves_nothing_of_now() -> None:
    ledger = heard(took(Ledger(), range(1, 6)), StreamClaim("t", 1, 5))
    assert judge(ledger, 1000).complete
    found = judge(ledger, 1001)
    assert (found.complete, found.stale, found.as_of_ms) == (False, ("g",), 1000)
    assert verdict_text(found).startswith("OPEN        as of 1970-01-01 00:00:01")


def test_events_after_the_last_audit_keep_it_open() -> None:
    found = judge(heard(took(Ledger(), range(1, 9)), StreamClaim("t", 1, 5)))
    assert (found.complete, found.open, found.unaudited) == (False, 0, 3)


def test_numbers_behind_the_last_claim_are_open_and_not_missing() -> None:
    found = judge(heard(took(Ledger(), [*range(1, 6), 9, 10]), StreamClaim("t", 1, 5)))
    assert (found.complete, found.missing, found.open) == (False, (), 3)


def test_a_claim_that_was_lost_leaves_unproven_what_did_not_arrive() -> None:
    ledger = took(Ledger(), [1, 2, 3, 5, 7, 8])
    found = judge(heard(ledger, StreamClaim("t", 1, 3), StreamClaim("t", 7, 8)))
    assert not found.complete
    assert (found.missing, found.unproven) == ((), (Gap("g", "t", 4, 4), Gap("g", "t", 6, 6)))


def test_without_an_audit_nothing_is_proven() -> None:
    assert not judge(took(Ledger(), [1])).complete
    assert judge(took(Ledger(), [1])).silent == ("g",)
    assert not judge(Ledger()).complete


def test_a_later_claim_about_the_same_numbers_replaces_the_earlier_one() -> None:
    """What was kept at first was sent again, acknowledged, and did not arrive."""
    ledger = took(Ledger(), [1, 2, 4, 5])
    heard(ledger, StreamClaim("t", 1, 5, (Exempt("failed", Run(3, 3), kept=True),)))
    assert judge(ledger).complete
    assert judge(heard(ledger, StreamClaim("t", 1, 5))).missing == (Gap("g", "t", 3, 3),)


def test_a_new_session_claims_everything_anew() -> None:
    """Restored from a backup: 6 to 9 are other events now, or not there yet."""
    ledger = heard(took(Ledger(), range(1, 10)), StreamClaim("t", 1, 9))
    took(ledger, [6], ingest_ms=100)
    assert judge(heard(ledger, StreamClaim("t", 1, 6), session="two")).complete


def test_a_stream_that_was_thinned_stays_small_in_memory() -> None:
    ledger = took(Ledger(), range(2, 2001, 2))
    heard(ledger, StreamClaim("t", 1, 2000, (Exempt("thinned", Run(1, 1999, 2)),)))
    ((_, stream),) = ledger
    assert [*stream.seen] == [(1, 2000)]
    took(ledger, [2002])
    assert list(ledger.gaps()) == [Gap("g", "t", 2001, 2001)]


def test_the_state_survives_a_restart() -> None:
    ledger = took(Ledger(), [1, 2, 5])
    heard(ledger, StreamClaim("t", 1, 5, (Exempt("oldest", Run(3, 4)),)))
    again = Ledger()
    again.load(ledger.dump())
    assert again.dump() == ledger.dump()
    assert verdict(again, [1, 2, 5]).complete
    took(again, [1, 2, 5])
    assert (again.duplicates, again.events) == (3, 3)


@pytest.mark.parametrize(
    "state", [b"", b"{}", b'{"version":2}', b'{"version":1,"events":1,"words":[],"streams":3}']
)
def test_a_state_of_somebody_else_is_refused(state: bytes) -> None:
    with pytest.raises(ValueError, match="not the state of a receiver"):
        Ledger().load(state)


small = st.sets(st.integers(1, 30))


@given(seen=small, gone=small, kept=small, settled=st.integers(0, 30), cuts=st.lists(st.integers(1, 29)))
def test_the_verdict_is_the_difference_of_sets(
    seen: set[int], gone: set[int], kept: set[int], settled: int, cuts: list[int]
) -> None:
    exempt = [Exempt("oldest", Run(n, n)) for n in gone] + [
        Exempt("failed", Run(n, n), kept=True) for n in kept
    ]
    borders = sorted({0, *(cut for cut in cuts if cut < settled), settled})
    claims = [
        StreamClaim("t", low + 1, high, tuple(part for e in exempt if (part := e.within(low + 1, high))))
        for low, high in pairwise(borders)
    ]
    ledger = Ledger()
    heard(ledger, *claims)
    told = Ledger()
    told.adopt_claims(ledger)
    found = judge(took(told, seen))
    missing = {n for gap in found.missing for n in range(gap.first, gap.last + 1)}
    assert missing == {*range(1, settled + 1)} - seen - gone - kept
    assert found.open == len({*range(settled + 1, max(seen, default=0) + 1)} - seen)


def shed(ledger: Ledger, *ranges: DroppedRange, session: str = "one") -> Ledger:
    ledger.hear(AuditRecord("g", session, 1000, {"pending": 0}, (), ranges))
    return ledger


def test_what_was_not_taken_in_is_counted_by_reason_however_often_it_is_told() -> None:
    ledger = shed(
        took(Ledger(), [1]), DroppedRange("sampled", "a", 10, 20, 5), DroppedRange("overload", "a", 1, 9, 2)
    )
    shed(ledger, DroppedRange("sampled", "a", 10, 90, 8), DroppedRange("sampled", "b", 50, 60, 1))
    found = verdict(heard(ledger, StreamClaim("t", 1, 1)), [1])
    assert found.shed == {"sampled": 9, "overload": 2}
    assert found.complete
    assert "shed        9 messages not taken in: sampled" in verdict_text(found)
    # Of many ranges the gateway makes one of no stream, which stands for those that ended before.
    shed(ledger, DroppedRange("sampled", OTHERS, 10, 90, 9), DroppedRange("sampled", "b", 99, 99, 1))
    assert judge(ledger).shed == {"sampled": 10, "overload": 2}
    # After a start it tells all anew.
    shed(ledger, DroppedRange("sampled", "a", 10, 90, 8), session="two")
    assert judge(ledger).shed == {"sampled": 8}


def test_a_state_of_an_earlier_version_knows_nothing_of_what_was_shed() -> None:
    ledger = Ledger()
    ledger.load(b'{"version": 1, "events": 3, "words": {}, "streams": []}')
    assert (ledger.events, ledger.shed) == (3, {})
