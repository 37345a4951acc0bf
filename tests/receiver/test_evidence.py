"""What `gateway receive --verify --key` says of events and records that somebody has touched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gateway.core.events import WireEvent
from gateway.core.sequence_sets import Run
from gateway.receiver.event_lines import StoredLine
from gateway.receiver.evidence import (
    EventName,
    Evidence,
    EvidenceError,
    Examination,
    proof_fields,
    prove,
    read_records,
)
from gateway.wire.audit_record import AuditRecord, Exempt, StreamClaim, audit_messages
from gateway.wire.evidence import event_hash, seal_of
from gateway.wire.signatures import Place, PublicKeys, SigningKey, named_pem, new_key
from tests.support.places import DOCS

PRIVATE, PUBLIC = new_key()


def event(stream: str, number: int, payload: bytes | None = None) -> StoredLine:
    event_id = b"%-8d" % number + stream.encode().ljust(8)[:8]
    body = b"%d" % number if payload is None else payload
    return StoredLine("g", WireEvent(event_id, stream, number, 1, 2, None, 2, 0, 0, body), "buffer1")


EVENTS = [event(stream, number) for number in range(1, 101) for stream in ("a", "b")]


class Past:
    """Records over events, ten of each stream in a record; further claims on request."""

    def __init__(self, key: SigningKey | None = None) -> None:
        self.place = Place()
        self.payloads: list[bytes] = []
        self._key = key or SigningKey(PRIVATE)

    def all(self) -> list[bytes]:
        for first in range(1, 101, 10):
            self.record(first, first + 9)
        return self.payloads

    def record(self, first: int, last: int, exempt: Sequence[Exempt] = (), **more: Any) -> bytes:
        of = [
            [one for one in EVENTS if one.event.stream == stream and first <= one.event.sequence_num <= last]
            for stream in ("a", "b")
        ]
        seals = tuple(
            seal_of(some[0].event.stream, range(first, last + 1), [event_hash(one.event) for one in some])
            for some in of
        )
        claims = tuple(StreamClaim(stream, first, last, tuple(exempt)) for stream in ("a", "b"))
        made = AuditRecord("g", "session", 1000 + first, {}, claims, (), "buffer1", seals=seals)._replace(
            **more
        )
        (plain,) = audit_messages(made)
        signed, self.place = self._key.sign(plain, self.place)
        self.payloads.append(signed)
        return signed


def examined(events: Sequence[StoredLine], payloads: Sequence[bytes], public: bytes = PUBLIC) -> Evidence:
    examination = Examination(read_records(payloads, PublicKeys(public)))
    for one in events:
        examination.take(one)
    return examination.verdict()


@pytest.fixture
def payloads() -> list[bytes]:
    return Past().all()


def test_what_nobody_has_touched_is_sound_in_any_order_and_with_repeated_records(
    payloads: list[bytes],
) -> None:
    for events in (EVENTS, EVENTS[::-1]):
        found = examined(events, [*payloads, payloads[3], payloads[0]])
        assert found.sound
        assert (found.proven, found.records, found.unsealed) == (200, 10, 0)


@pytest.mark.parametrize("at", [0, 77, 199])
def test_a_changed_event_is_named(payloads: list[bytes], at: int) -> None:
    events = [*EVENTS]
    events[at] = events[at]._replace(event=events[at].event._replace(payload=b"other"))
    found = examined(events, payloads)
    stream, number = events[at].event[1:3]
    assert found.changed == [EventName("g", stream, number, number)]
    assert (found.added.total, found.missing.total, found.proven) == (0, 0, 190)
    assert not found.sound


def test_a_missing_event_is_named_and_a_changed_one_beside_it(payloads: list[bytes]) -> None:
    events = [*EVENTS]
    events[3] = event("b", 2, b"other")
    del events[7]
    found = examined(events, payloads)
    assert found.missing == [EventName("g", "b", 4, 4)]
    assert found.changed == [EventName("g", "b", 2, 2)]


@pytest.mark.parametrize("behind", [0, 50, 200])
def test_of_two_events_with_a_number_the_one_of_the_gateway_is_known(
    payloads: list[bytes], behind: int
) -> None:
    forged = event("a", 20, b"other")
    found = examined([*EVENTS[:behind], forged, *EVENTS[behind:]], payloads)
    assert [one[:4] for one in found.added] == [("g", "a", 20, 20)]
    assert (found.changed.total, found.missing.total) == (0, 0)


def test_a_second_event_with_the_mark_of_a_proven_one_was_added(payloads: list[bytes]) -> None:
    mark = event_hash(event("a", 20).event)[:2]
    tries = (event("a", 20, b"other%d" % chance) for chance in count())
    forged = next(one for one in tries if event_hash(one.event).startswith(mark))
    found = examined([*EVENTS, forged, *EVENTS], payloads)
    assert [one[:4] for one in found.added] == [("g", "a", 20, 20)]
    assert (found.proven, found.changed.total) == (200, 0)


def test_a_forged_copy_of_an_event_is_never_proven(payloads: list[bytes]) -> None:
    records = read_records(payloads, PublicKeys(PUBLIC))
    genuine, forged = event("a", 20), event("a", 20, b"other")
    for events in ([forged, *EVENTS], [*EVENTS, forged]):
        assert prove(genuine.event.event_id, records, events.copy).event == genuine
    another = forged._replace(event=forged.event._replace(event_id=bytes(16)))
    with pytest.raises(EvidenceError, match="not the one that was signed"):
        prove(bytes(16), records, lambda: [another, *EVENTS])


def test_an_event_that_the_gateway_declares_lost_was_added() -> None:
    past = Past()
    past.record(1, 10, (), seals=())
    past.record(11, 20, [Exempt("oldest", Run(12, 12))], seals=())
    mine = [one for one in EVENTS if one.event.sequence_num < 31]
    found = examined(mine, past.payloads)
    assert [one[1:4] for one in found.added] == [("a", 12, 12), ("b", 12, 12)]
    assert found.added[0].event_id == event("a", 12).event.event_id.hex()
    assert found.unsealed == 38  # claimed without a seal; what is behind the last claim is open
    assert not found.sound


def test_a_forged_record_is_named_and_proves_nothing(payloads: list[bytes]) -> None:
    forged = Past(SigningKey(new_key()[0]))
    forged.place = Place(10, bytes(32))
    found = examined(EVENTS, [*payloads, forged.record(1, 10)])
    assert found.faults == ["a forged record of g, number 11: wrong signature or key"]
    assert (found.records, found.sound) == (10, False)


def test_a_changed_record_is_named(payloads: list[bytes]) -> None:
    payloads[4] = payloads[4].replace(b'"time_ms":1041', b'"time_ms":1042')
    faults = examined(EVENTS, payloads).faults
    assert faults[0] == "a forged record of g, number 5: wrong signature or key"
    assert faults[1] == "records 5 to 5 of g are missing"


@pytest.mark.parametrize(("gone", "told"), [(slice(0, 2), "1 to 2"), (slice(5, 6), "6 to 6")])
def test_missing_records_are_named(payloads: list[bytes], gone: slice, told: str) -> None:
    del payloads[gone]
    assert examined(EVENTS, payloads).faults == [f"records {told} of g are missing"]


def test_two_records_with_one_number_are_named(payloads: list[bytes]) -> None:
    second = Past()
    second.place = Place(6, json.loads(payloads[6])["previous"].encode())
    assert "two records with the number 7" in examined(EVENTS, [*payloads, second.record(1, 10)]).faults[0]


def test_a_new_key_goes_on_with_the_chain_and_the_old_one_may_not() -> None:
    private, public = new_key()
    past = Past()
    past.record(1, 50)
    past._key = SigningKey(private)
    past.record(51, 100)
    assert examined(EVENTS, past.payloads, PUBLIC + public).sound
    past._key = SigningKey(PRIVATE)
    past.record(91, 100)
    faults = examined(EVENTS, past.payloads, PUBLIC + public).faults
    assert faults == ["record 3 of g is signed with a key that was replaced before"]


def test_a_record_signed_with_the_key_of_another_gateway_is_forged(payloads: list[bytes]) -> None:
    assert examined(EVENTS, payloads, named_pem(PUBLIC, ["other", "g"])).sound
    found = examined(EVENTS, payloads, named_pem(PUBLIC, ["other"]))
    assert found.faults[0] == "a forged record of g, number 1: its key is that of other"
    assert (found.records, found.proven, found.sound) == (0, 0, False)
    both = named_pem(new_key()[1], ["other"]) + named_pem(PUBLIC, ["g"])  # `cat *.pub`
    assert examined(EVENTS, payloads, both).sound


def test_a_proof_with_the_key_of_another_gateway_is_refused_by_the_script(
    payloads: list[bytes], tmp_path: Path
) -> None:
    records = read_records(payloads, PublicKeys(PUBLIC))
    proof, key = tmp_path / "proof.json", tmp_path / "key.pub"
    proof.write_text(json.dumps(proof_fields(prove(event("a", 5).event.event_id, records, lambda: EVENTS))))
    for whose, code in ((["other"], 1), (["other", "g"], 0)):
        key.write_bytes(named_pem(PUBLIC, whose))
        script = [sys.executable, "-I", str(DOCS / "examples" / "check_proof.py"), str(proof), str(key)]
        assert subprocess.run(script, capture_output=True, check=False).returncode == code


def test_no_record_at_all_is_not_sound() -> None:
    assert not examined(EVENTS, []).sound


EARLIER_KEY = b"""-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAcFmCEHSpvCBinv+l2A+9vuoUIteLLj3WB5d2ijtUesc=
-----END PUBLIC KEY-----
"""
EARLIER_RECORD = (
    b'{"version":1,"gateway":"g","session":"session","time_ms":1001,"buffer":{},'
    b'"streams":[{"stream":"a","first":1,"last":5,"count":5}],"shed":[],'
    b'"seals":[{"stream":"a","numbers":[[1,5,1]],"root":"hwIuVbpRJXdgL1wJP415xr1HTXSNdHj+w41HbBVt2pw=",'
    b'"marks":"iPZAWHAcL4GZmQ=="}],"buffer_id":"buffer1","number":1,'
    b'"previous":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","key":"542d3697b0e88ac4","signature":'
    b'"kaoX8a2VkglLgd0MdXcC+rUAmTlyJVITxJ5Ps5VNkbNq/ysez4TyPt/b6x5Bb2FfRSC4tsAPq1OUVbs4X7n0Cg=="}'
)
"""Signed by the version that knew trees of pairs only."""


def test_what_an_earlier_version_has_signed_is_proven_still() -> None:
    events = [event("a", number) for number in range(1, 6)]
    found = examined(events, [EARLIER_RECORD], EARLIER_KEY)
    assert (found.sound, found.proven) == (True, 5)
    changed = examined([*events[:4], event("a", 5, b"other")], [EARLIER_RECORD], EARLIER_KEY)
    assert changed.changed == [EventName("g", "a", 5, 5)]


@pytest.mark.parametrize("wide", [True, False])
def test_a_proof_is_checked_by_the_script_of_the_docs(tmp_path: Path, wide: bool) -> None:
    payloads = Past().all() if wide else [EARLIER_RECORD]
    key = tmp_path / "key.pub"
    key.write_bytes(PUBLIC if wide else EARLIER_KEY)
    records = read_records(payloads, PublicKeys(key.read_bytes()))
    wanted = event("a", 5)
    events = EVENTS if wide else [event("a", number) for number in range(1, 6)]
    proof = tmp_path / "proof.json"
    fields = proof_fields(prove(wanted.event.event_id, records, lambda: events))
    for payload, code in (("NQ==", 0), ("Ng==", 1)):
        fields["event"]["payload"] = payload  # type: ignore[index]
        proof.write_text(json.dumps(fields))
        script = [sys.executable, "-I", str(DOCS / "examples" / "check_proof.py"), str(proof), str(key)]
        assert subprocess.run(script, capture_output=True, check=False).returncode == code
