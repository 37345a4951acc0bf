"""Who a buffer is: a random id that goes with its numbers, from the file to the receiver's verdict."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from gateway.buffer.proof.positions import standing
from gateway.buffer.repair.backup import back_up
from gateway.buffer.repair.restore import restore
from gateway.buffer.store import Store
from gateway.core.events import Status
from gateway.core.sequence_sets import Run
from gateway.delivery.states import DeliveryEvent
from gateway.receiver.completeness import Completeness, judge
from gateway.receiver.ledger import Identity, Ledger
from gateway.wire.audit_record import AuditRecord, Exempt, StreamClaim, audit_messages, read_audit
from gateway.wire.encodings import Encoding, decode_frame, encode_frame
from gateway.wire.event_format import (
    buffer_of_message,
    event_envelope,
    event_from_message,
    event_properties,
)
from gateway.wire.frame import EventColumns, decode_batch
from tests.support.buffers import EPOCH_MS, append, events, opened, reading

IDS = count(1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "events.db"
    with opened(path) as store:
        append(store, events(5))
    return path


def buffer_id(path: Path) -> str:
    with reading(path) as reader:
        return reader.buffer_id


def deliver(store: Store) -> None:
    with store.transaction():
        ids = store.claim(100)
        store.move(ids, Status.SYNCING, DeliveryEvent.PUBACK)
        store.checkpoint([])


def test_a_buffer_keeps_its_identity_and_another_file_has_another(path: Path, tmp_path: Path) -> None:
    mine = buffer_id(path)
    with opened(path):
        pass
    with opened(tmp_path / "other.db"):
        pass
    assert len(mine) == 16
    assert buffer_id(path) == mine != buffer_id(tmp_path / "other.db")


def test_a_restored_backup_is_another_buffer_and_says_up_to_where_its_numbers_are_those_of_the_last(
    path: Path,
) -> None:
    mine = buffer_id(path)
    with opened(path) as store:
        deliver(store)
    backup = back_up(path)
    with opened(path) as store:
        append(store, events(3))
    path.unlink()  # the old numbers are lost with it
    path.with_name(path.name + "-wal").unlink(missing_ok=True)
    restore(path, backup, EPOCH_MS)
    with opened(path) as store:
        append(store, events(2))
        deliver(store)
    assert buffer_id(path) != mine
    with reading(path) as reader, reader.snapshot():
        assert [*standing(reader).earlier.values()] == [Exempt("earlier_buffer", Run(1, 5, 1))]


# --- on the wire ---


def columns(path: Path) -> EventColumns:
    with reading(path) as reader:
        return reader.columns(reader.all_after(0, 10))


@pytest.mark.parametrize("encoding", ["zstd", "none", "json"])
def test_a_frame_carries_it_and_is_read_as_before_without(path: Path, encoding: Encoding) -> None:
    mine, found = buffer_id(path), columns(path)
    with_it = decode_frame(encode_frame(encoding, "g", bytes(16), found, mine))
    without = decode_frame(encode_frame(encoding, "g", bytes(16), found))
    assert (with_it.buffer_id, without.buffer_id) == (mine, "")
    assert with_it.events == without.events


def test_a_binary_frame_with_it_is_of_the_version_that_older_receivers_read(path: Path) -> None:
    frame = encode_frame("none", "g", bytes(16), columns(path), "00112233aabbccdd")
    assert frame[4] == 1
    assert b"t/a\0buffer=00112233aabbccdd" in frame, "a name that no event refers to"
    assert {event.stream for event in decode_batch(frame).events} == {"t/a"}


def test_a_message_of_one_event_carries_it(path: Path) -> None:
    frame = decode_frame(encode_frame("zstd", "g", bytes(16), columns(path)))
    event = frame.events[0]
    properties, envelope = event_properties(event, "ab" * 8), event_envelope(event, "ab" * 8)
    assert event_from_message(event.stream, properties, event.payload) == event
    assert event_from_message(event.stream, None, envelope) == event
    assert buffer_of_message(properties, event.payload) == buffer_of_message(None, envelope) == "ab" * 8
    assert buffer_of_message(None, event_envelope(event)) == ""


def test_an_audit_record_carries_it_and_older_ones_have_none() -> None:
    record = AuditRecord("g", "s", 1, {"pending": 0}, (StreamClaim("t", 1, 2),), (), "ab" * 8)
    (message,) = audit_messages(record)
    assert read_audit(message) == record
    (old,) = audit_messages(record._replace(buffer_id=""))
    assert b"buffer_id" not in old
    assert read_audit(old).buffer_id == ""


# --- at the receiver ---

A, B = "aa" * 8, "bb" * 8


def took(ledger: Ledger, numbers: range, buffer_id: str, *, ingest_ms: int = 0) -> int:
    """Take new events of these numbers; returns how many counted as new."""
    found = [
        Identity("g", next(IDS).to_bytes(16, "big"), "t", number, ingest_ms + number, buffer_id)
        for number in numbers
    ]
    return sum(map(ledger.take, found))


def verdict(ledger: Ledger, *claims: tuple[str, StreamClaim]) -> Completeness:
    for at, (buffer_id, claim) in enumerate(claims):
        ledger.hear(AuditRecord("g", f"s{buffer_id}", at, {"pending": 0}, (claim,), (), buffer_id))
    return judge(ledger)


def test_a_replaced_buffer_is_said_and_each_series_is_proven_by_itself() -> None:
    """216 numbers are there twice, and 163 acknowledged messages went with the first file."""
    ledger = Ledger()
    took(ledger, range(1, 217), A)
    assert took(ledger, range(1, 217), B, ingest_ms=1000) == 216
    found = verdict(ledger, (A, StreamClaim("t", 1, 216)), (B, StreamClaim("t", 1, 216)))
    assert not found.missing
    assert found.received == 432
    assert found.replaced == {"g": 1}
    assert not found.complete


def test_what_is_missing_of_one_series_is_not_made_good_by_another() -> None:
    ledger = Ledger()
    took(ledger, range(1, 101), A)
    took(ledger, range(1, 51), B, ingest_ms=1000)
    found = verdict(ledger, (A, StreamClaim("t", 1, 100)), (B, StreamClaim("t", 1, 60)))
    assert [(gap.first, gap.last, gap.buffer_id) for gap in found.missing] == [(51, 60, B)]


def test_a_gateway_that_begins_to_name_its_buffer_goes_on_with_its_numbers() -> None:
    ledger = Ledger()
    took(ledger, range(1, 51), "")
    took(ledger, range(51, 101), A)
    again = Ledger()
    again.load(ledger.dump())
    for one in (ledger, again):
        assert verdict(one, (A, StreamClaim("t", 1, 100))).complete


def test_what_a_restored_backup_sends_again_is_a_duplicate() -> None:
    ledger = Ledger(recent_ids=1)
    took(ledger, range(1, 11), A)
    assert took(ledger, range(6, 9), B) == 0, "they came before the last ones of the buffer before"
    assert took(ledger, range(9, 13), B, ingest_ms=1000) == 4, "numbers that were given out again"
    earlier = Exempt("earlier_buffer", Run(1, 8, 1))
    found = verdict(ledger, (A, StreamClaim("t", 1, 10)), (B, StreamClaim("t", 1, 12, (earlier,))))
    assert not found.missing
    assert not found.unproven
