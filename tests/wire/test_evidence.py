"""Hashes, trees and signatures: what a seal says is what an independent computation finds."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.events import WireEvent
from gateway.core.sequence_sets import Run
from gateway.wire.audit_record import AuditRecord, audit_messages, read_audit
from gateway.wire.evidence import (
    ARITY,
    MAX_LEAVES,
    PAIRS,
    event_hash,
    event_hashes,
    merkle_path,
    merkle_root,
    read_seal,
    seal_fields,
    seal_of,
)
from gateway.wire.frame import EventColumns
from gateway.wire.signatures import KeyFileError, Place, PublicKeys, SigningKey, new_key, read_signed

EVENT = WireEvent(bytes(range(16)), "tele/a", 7, 1000, 1250, None, 2, 0, 0, b'{"T":21.5}')


def rfc_6962(leaves: list[bytes]) -> bytes:
    """The tree as RFC 6962 defines it: split at the largest power of two below the size."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\1" + rfc_6962(leaves[:split]) + rfc_6962(leaves[split:])).digest()


def leaves_of(size: int) -> list[bytes]:
    return [sha256(b"%d" % number).digest() for number in range(size)]


@pytest.mark.parametrize("size", [*range(1, 18), 100, 255, 256, 257])
def test_a_tree_of_pairs_is_that_of_rfc_6962(size: int) -> None:
    assert merkle_root(leaves_of(size), PAIRS) == rfc_6962(leaves_of(size))


def by_hand(level: list[bytes], arity: int) -> bytes:
    """The root over a wide tree, node by node."""
    while len(level) > 1:
        nodes = [level[at : at + arity] for at in range(0, len(level), arity)]
        level = [sha256(b"\1" + b"".join(node)).digest() if node[1:] else node[0] for node in nodes]
    return level[0]


@pytest.mark.parametrize("arity", [PAIRS, 3, ARITY])
@pytest.mark.parametrize("size", [*range(1, 18), 33, 100, 255, 256, 257])
def test_each_path_leads_to_the_root(size: int, arity: int) -> None:
    leaves = leaves_of(size)
    root = merkle_root(leaves, arity)
    assert root == by_hand(leaves, arity)
    for position in range(size):
        found = leaves[position]
        for before, behind in merkle_path(leaves, position, arity):
            found = sha256(b"\1" + before + found + behind).digest()
        assert found == root


@pytest.mark.parametrize(
    "change",
    [
        {"event_id": bytes(16)},
        {"stream": "tele/b"},
        {"stream": "tele/a{", "payload": b'"T":21.5}'},
        {"sequence_num": 8},
        {"event_time_ms": 1001},
        {"ingest_time_ms": 1251},
        {"device_time_ms": 0},
        {"priority": 1},
        {"kind": 1},
        {"flags": 1},
        {"payload": b'{"T":21.6}'},
    ],
)
def test_every_part_of_an_event_is_in_its_hash(change: dict[str, Any]) -> None:
    assert event_hash(EVENT._replace(**change)) != event_hash(EVENT)


def test_events_in_columns_have_the_same_hashes() -> None:
    other = EVENT._replace(event_id=bytes(16), stream="grün", device_time_ms=-5, payload=b"")
    ids, *columns = zip(EVENT, other, strict=True)
    both = EventColumns(b"".join(ids), *columns)  # type: ignore[arg-type]
    assert event_hashes(both) == [event_hash(EVENT), event_hash(other)]


@given(st.sets(st.integers(1, 500), min_size=1))
def test_a_seal_is_read_as_it_was_written_and_knows_its_numbers(chosen: set[int]) -> None:
    numbers = sorted(chosen)
    seal = seal_of("t", numbers, [sha256(b"%d" % number).digest() for number in numbers])
    assert read_seal(seal_fields(seal)) == seal
    assert [*seal.numbers()] == numbers
    assert [seal.position(number) for number in range(502)] == [
        numbers.index(number) if number in chosen else None for number in range(502)
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"numbers": []},
        {"numbers": [[2, 1, 1]]},
        {"numbers": [[1, 2, 0]]},
        {"numbers": [[1, 2]]},
        {"numbers": [["1", 2, 1]]},
        {"numbers": [[1, 1, 1], [1, 1, 1]]},
        {"numbers": [[1, MAX_LEAVES + 1, 1]]},
        {"numbers": [[1, 2**62, 1]]},
        {"root": "AAAA"},
        {"root": "not base64"},
        {"marks": ""},
        {"arity": 1},
        {"arity": 257},
        {"arity": 2.0},
        {"stream": 1},
    ],
)
def test_what_is_no_seal_is_refused(change: dict[str, object]) -> None:
    fields = seal_fields(seal_of("t", [1, 2], [bytes(32), bytes(32)]))
    with pytest.raises(ValueError, match=r"seal|run|number|base64|shape"):
        read_seal({**fields, **change})


def test_seals_travel_in_records_and_a_record_without_them_is_as_before() -> None:
    seals = tuple(seal_of(f"t/{n}", [*range(1, 400)], [bytes(32)] * 399) for n in range(100))
    record = AuditRecord("g", "s", 1, {}, (), (), "b", seals=seals)
    messages = [*audit_messages(record, 10_000)]
    assert len(messages) > 5
    assert max(map(len, messages)) <= 10_000
    assert tuple(seal for one in messages for seal in read_audit(one).seals) == seals
    assert b"seals" not in next(iter(audit_messages(record._replace(seals=()))))


def test_a_signed_record_reads_as_before_and_any_other_byte_is_no_longer_signed() -> None:
    private, public = new_key()
    keys, (plain,) = PublicKeys(public), audit_messages(AuditRecord("g", "s", 1, {}, ()))
    signed, place = SigningKey(private).sign(plain, Place(4, b"\7" * 32))
    record = read_signed(signed)
    assert record is not None
    assert (record.number, record.previous, place) == (5, b"\7" * 32, Place(5, sha256(signed).digest()))
    assert read_audit(signed) == read_audit(plain)
    assert keys.is_signed(record)
    assert read_signed(plain) is None
    for at in range(len(signed)):
        other = read_signed(signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :])
        assert other is None or not keys.is_signed(other)


def test_another_key_has_not_signed_it() -> None:
    signed, _ = SigningKey(new_key()[0]).sign(b'{"version":1}', Place())
    record = read_signed(signed)
    assert record is not None
    assert not PublicKeys(new_key()[1]).is_signed(record)


@pytest.mark.parametrize("pem", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"])
def test_a_file_without_a_key_is_refused(pem: bytes) -> None:
    with pytest.raises(KeyFileError):
        SigningKey(pem)
    with pytest.raises(KeyFileError):
        PublicKeys(pem)


def test_runs_of_a_seal_name_every_second_number() -> None:
    assert seal_of("t", [1, 3, 5], [bytes(32)] * 3).runs == (Run(1, 5, 2),)
