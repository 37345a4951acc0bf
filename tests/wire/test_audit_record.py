"""Audit records: what goes in comes out, in messages of bounded size, and nothing else gets in."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import DecodeError
from gateway.core.sequence_sets import Run
from gateway.wire.audit_record import MAX_RUNS, AuditRecord, Exempt, StreamClaim, audit_messages, read_audit

CLAIM = StreamClaim(
    "tele/a/SENSOR",
    1,
    1000,
    (
        Exempt("thinned", Run(101, 199, 2)),
        Exempt("oldest", Run(1, 20)),
        Exempt("failed", Run(57, 57), kept=True),
    ),
)
RECORD = AuditRecord("plant-7", "0f" * 16, 1_700_000_000_000, {"pending": 3, "synced": 929}, (CLAIM,))


def fields(**changes: Any) -> dict[str, Any]:
    (message,) = audit_messages(RECORD)
    return {**json.loads(message), **changes}


def refused(found: object) -> str:
    with pytest.raises(DecodeError) as caught:
        read_audit(json.dumps(found).encode())
    assert caught.value.reason == "audit"
    return str(caught.value)


def test_a_record_is_read_as_it_was_written() -> None:
    (message,) = audit_messages(RECORD)
    assert read_audit(message) == RECORD
    assert json.loads(message)["streams"][0]["count"] == 1000 - 50 - 20 - 1


def test_many_streams_travel_in_messages_of_bounded_size() -> None:
    claims = tuple(StreamClaim(f"tele/device-{number:05}/SENSOR", 1, number) for number in range(1, 5001))
    messages = list(audit_messages(RECORD._replace(claims=claims), limit_bytes=10_000))
    assert len(messages) > 30
    assert max(map(len, messages)) < 11_000
    assert tuple(claim for message in messages for claim in read_audit(message).claims) == claims


def test_a_claim_with_many_runs_is_told_in_parts_that_add_up() -> None:
    runs = [Run(at, at + 3, 3) for at in range(1, 100_000, 7)]
    whole = StreamClaim("t", 1, 100_000, tuple(Exempt("downsampled", run) for run in runs))
    parts = [c for m in audit_messages(RECORD._replace(claims=(whole,))) for c in read_audit(m).claims]
    assert len(parts) > 10
    assert all(len(part.exempt) <= MAX_RUNS for part in parts)
    assert (parts[0].first, parts[-1].last) == (1, 100_000)
    assert all(left.last + 1 == right.first for left, right in pairwise(parts))
    assert sum(part.events for part in parts) == whole.events


def test_nothing_new_is_still_one_message() -> None:
    (message,) = audit_messages(RECORD._replace(claims=()))
    assert read_audit(message).claims == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"gateway": ""},
        {"gateway": "a\0b"},
        {"streams": [{"stream": "a\0b", "first": 1, "last": 5, "count": 5}]},
        {"session": None},
        {"time_ms": "now"},
        {"buffer": []},
        {"buffer": {"pending": -1}},
        {"streams": {}},
        {"streams": [1]},
        {"streams": [{"stream": "t", "first": 1, "last": 5, "count": 4}]},
        {"streams": [{"stream": "t", "first": 6, "last": 5, "count": 0}]},
        {"streams": [{"stream": "t", "first": True, "last": 5, "count": 5}]},
        {"streams": [{"stream": "t", "first": 1, "last": 2**63, "count": 2**63}]},
        {"streams": [{"stream": "t", "first": 1, "last": 5, "count": 5, "lost": 1}]},
    ],
)
def test_what_does_not_add_up_is_refused(changes: dict[str, Any]) -> None:
    refused(fields(**changes))


@pytest.mark.parametrize(
    "run",
    [
        {"first": 0, "last": 3, "step": 1},
        {"first": 3, "last": 6, "step": 1},
        {"first": 2, "last": 5, "step": 2},
        {"first": 2, "last": 4, "step": 0},
    ],
)
def test_a_run_that_is_no_part_of_its_claim_is_refused(run: dict[str, int]) -> None:
    claim = {"stream": "t", "first": 1, "last": 5, "count": 3, "lost": [{"reason": "oldest", **run}]}
    refused(fields(streams=[claim]))


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_refused_and_nothing_worse(junk: bytes) -> None:
    with pytest.raises(DecodeError):
        read_audit(junk)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["gateway", "session", "time_ms", "buffer", "streams"]), json_values)
def test_any_json_in_any_place_is_read_or_refused(name: str, value: Any) -> None:
    try:
        read_audit(json.dumps(fields(**{name: value})).encode())
    except DecodeError as error:
        assert error.reason == "audit"


def test_a_message_of_more_than_a_mebibyte_is_refused_unread() -> None:
    assert "too many" in refused({"padding": "x" * 2**20})


def test_a_claim_that_excepts_more_than_memory_can_hold_is_refused_at_once() -> None:
    most = 2**62
    claim = StreamClaim("t", 1, most - 1, (Exempt("oldest", Run(1, most - 1, 2)),))
    payload = b"".join(audit_messages(AuditRecord("g", "s", 1, {}, (claim._replace(exempt=()),))))
    exempt = orjson.dumps([{"reason": "oldest", **claim.exempt[0].run._asdict()}])
    forged = payload.replace(b'"count":%d' % (most - 1), b'"count":%d,"lost":%s' % (most // 2 - 1, exempt))
    with pytest.raises(DecodeError, match=f"excepts {most // 2} single numbers") as refused:
        read_audit(forged)
    assert refused.value.reason == "audit"


def test_a_long_thinned_out_stream_is_told_in_records_that_are_read() -> None:
    claims = (
        StreamClaim("t", 1, 4_400_000, (Exempt("oldest", Run(1, 4_399_999, 2)),)),
        StreamClaim("u", 1, 9, (Exempt("oldest", Run(1, 9, 4)),)),
    )
    records = [read_audit(one) for one in audit_messages(AuditRecord("g", "s", 1, {}, claims))]
    assert len(records) >= 3
    of_t = [claim for record in records for claim in record.claims if claim.stream == "t"]
    assert sum(claim.events for claim in of_t) == claims[0].events
    assert [claim for record in records for claim in record.claims if claim.stream == "u"] == [claims[1]]
