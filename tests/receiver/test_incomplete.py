"""Results whose events are not all in the output are named, until the events come."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import orjson

from gateway.cli.receive_report import incomplete_fields, incomplete_lines
from gateway.core.events import Kind, WireEvent
from gateway.core.sequence_sets import Run
from gateway.receiver.event_lines import StoredLine
from gateway.receiver.incomplete import incomplete_results
from gateway.receiver.ledger import Ledger, identity
from gateway.wire.audit_record import AuditRecord, Exempt, StreamClaim

MINUTE_MS = 60_000


def event(
    stream: str, number: int, payload: bytes = b"1", kind: Kind = Kind.RAW, of: str = "g"
) -> StoredLine:
    event_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{of}/{stream}/{number}").bytes
    return StoredLine(of, WireEvent(event_id, stream, number, 0, number, None, 1, kind, 0, payload), "b")


def result(minute: int, sources: object, revision: int = 0) -> StoredLine:
    told = {
        **{"window": "w", "key": "k", "start_ms": minute * MINUTE_MS, "end_ms": (minute + 1) * MINUTE_MS},
        **{"revision": revision, "quality": {"sources": sources}},
    }
    number = 10 * minute + revision + 1
    return event("gateway/g/aggregates/w/k", number, orjson.dumps(told), Kind.AGGREGATE)


def ledger_of(stored: Iterable[StoredLine], *claims: StreamClaim) -> Ledger:
    ledger = Ledger()
    ledger.hear(AuditRecord("g", "one", 1000, {}, claims, buffer_id="b"))
    for each in stored:
        ledger.take(identity(each.gateway_id, each.event, each.buffer_id))
    return ledger


def found(stored: list[StoredLine], *claims: StreamClaim) -> list[tuple[int, int, object]]:
    some = incomplete_results(stored, ledger_of(stored, *claims))
    return [(one.start_ms // MINUTE_MS, one.revision, one.missing) for one in some]


def test_a_result_whose_sources_have_holes_is_named_until_they_are_filled() -> None:
    here = [event("t", number) for number in (1, 2, 3, 6, 7, 8)]
    results = [result(0, {"t": [1, 3]}), result(1, {"t": [4, 6]}), result(2, {"t": [7, 9], "u": [1, 1]})]
    claims = (StreamClaim("t", 1, 9), StreamClaim("u", 1, 1))
    expected = [(1, 0, {"t": ((4, 5),)}), (2, 0, {"t": ((9, 9),), "u": ((1, 1),)})]
    assert found([*here, *results], *claims) == expected
    later = [event("t", 4), event("t", 5), event("t", 9), event("u", 1)]
    assert found([*here, *results, *later], *claims) == []


def test_of_several_revisions_the_newest_is_named() -> None:
    stored = [event("t", 1), result(0, {"t": [1, 5]}, revision=1), result(0, {"t": [1, 3]})]
    assert found(stored, StreamClaim("t", 1, 5)) == [(0, 1, {"t": ((2, 5),)})]


def test_events_kept_at_the_edge_are_no_holes() -> None:
    kept = Exempt("kept", Run(3, 3), kept=True)
    stored = [event("t", 1), event("t", 4), result(0, {"t": [1, 4]})]
    assert found(stored, StreamClaim("t", 1, 4, (kept,))) == [(0, 0, {"t": ((2, 2),)})]


def test_merged_results_name_the_streams_of_their_gateways() -> None:
    stored = [event("t", 1, of="a"), event("t", 3, of="a"), result(0, {"a:t": [1, 3], "elsewhere:t": [1, 9]})]
    assert found(stored) == [(0, 0, {"a:t": ((2, 2),)})]


def test_what_is_no_result_with_sources_is_passed_over() -> None:
    odd = [{}, {"t": [3, 1]}, {"t": "1"}, {"t": [1]}, None, []]
    assert found([event("t", 1), *(result(n, sources) for n, sources in enumerate(odd))]) == []


def test_they_are_reported_with_their_numbers() -> None:
    stored = [event("t", 1), result(0, {"t": [1, 3]})]
    some = incomplete_results(stored, ledger_of(stored))
    assert [*incomplete_lines(some)] == [
        "windows     1 results were made of events that are not all here",
        "            g w k 1970-01-01 00:00:00+00:00 – 1970-01-01 00:01:00+00:00: 2 events",
    ]
    fields = incomplete_fields(some)
    assert orjson.loads(orjson.dumps(fields))["incomplete_results"][0]["missing"] == {"t": [[2, 3]]}
