"""What a gateway seals: each delivered event once, also after a failure, a restart, and a late delivery."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.buffer.proof.evidence import Hashed, hash_delivered, id_bounds, place_of, unsent_records
from gateway.buffer.proof.positions import standing
from gateway.buffer.reader import Reader
from gateway.buffer.store import NewEvent, Store
from gateway.buffer.writer import Command
from gateway.cloud import delivered_hashes, record_signer
from gateway.cloud.delivered_hashes import DeliveredHashes
from gateway.cloud.record_signer import RecordSigner
from gateway.core.events import Status
from gateway.delivery.states import DeliveryEvent
from gateway.wire.audit_record import AuditRecord, audit_messages, read_audit
from gateway.wire.evidence import Seal, event_hashes
from gateway.wire.signatures import PublicKeys, SigningKey, new_key, read_signed

PRIVATE, PUBLIC = new_key()


class Site:
    """A buffer, and a signer whose commands are applied at once, or fail."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path, "normal")
        self.store.open()
        self.reader = Reader(path)
        self.fails = False
        self.restart()

    def restart(self) -> None:
        self.hashes = DeliveredHashes()
        self.signer = RecordSigner(SigningKey(PRIVATE), self, self.hashes)  # type: ignore[arg-type]

    def submit(self, command: Command) -> None:
        if self.fails:
            command.failed(OSError("no space"))
            return
        with self.store.transaction():
            command.apply(self.store)
        command.committed()

    def append(self, count: int, *, kept: bool = False, stream: str = "t") -> None:
        with self.store.transaction():
            event = NewEvent(stream, stream, 1, 2, None, 2, 0, 0, b"x", kept=kept)
            self.store.append([event] * count)
            self.store.checkpoint([])

    def deliver(self) -> None:
        with self.store.transaction():
            ids = self.store.claim(100_000)
            self.store.move(ids, Status.SYNCING, DeliveryEvent.PUBACK)

    def deliver_with_hashes(self, order: int = 1) -> None:
        """What a bridge does: the hashes come before the events are synced."""
        with self.store.transaction():
            ids = self.store.claim(100_000)
        events = self.reader.by_ids(ids)
        columns = self.reader.columns(events)
        chosen = range(len(events.ids))[::order]
        hashes = event_hashes(columns)
        self.hashes.add(
            [events.stream_ids[at] for at in chosen],
            [events.sequence_nums[at] for at in chosen],
            [hashes[at] for at in chosen],
        )
        with self.store.transaction():
            self.store.move(ids, Status.SYNCING, DeliveryEvent.PUBACK)

    def audit(self) -> list[Seal]:
        """One audit that the broker acknowledges; returns what it sealed."""
        payloads = self.sign()
        self.signer.acknowledge()
        return [seal for payload in payloads for seal in read_audit(payload).seals]

    def seals(self) -> tuple[Seal, ...]:
        assert self.signer.start(self.reader) == []
        with self.reader.snapshot():
            now, ids = standing(self.reader), id_bounds(self.reader)
        return tuple(self.signer.seals(self.reader, now, ids, 65_536))

    def sign(self) -> list[bytes]:
        seals = self.seals()
        record = AuditRecord("g", "s", 1, {}, (), (), self.reader.buffer_id, seals=seals)
        self.signer.sign(record.buffer_id, audit_messages(record))
        return self.signer.signed() or []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "events.db")
    yield site
    site.reader.close()
    site.store.close()


def numbers(seals: list[Seal]) -> list[int]:
    return [number for seal in seals for number in seal.numbers()]


def test_each_delivered_event_is_sealed_once_and_others_are_not(site: Site) -> None:
    site.append(5)
    assert site.audit() == []
    site.deliver()
    site.append(3)
    assert numbers(site.audit()) == [1, 2, 3, 4, 5]
    assert site.audit() == []
    site.deliver()
    assert numbers(site.audit()) == [6, 7, 8]


def test_after_a_restart_the_chain_goes_on_and_unacknowledged_records_are_the_same(site: Site) -> None:
    site.append(5)
    site.deliver()
    sent = site.sign()
    site.restart()
    assert site.signer.start(site.reader) == sent
    site.signer.acknowledge()
    assert unsent_records(site.reader) == []
    site.append(2)
    site.deliver()
    (second,) = site.sign()
    first, record = read_signed(sent[-1]), read_signed(second)
    assert first is not None
    assert record is not None
    assert (record.number, record.previous) == (first.number + 1, first.hash)
    assert numbers([*read_audit(second).seals]) == [6, 7]
    assert PublicKeys(PUBLIC).is_signed(record)


def test_what_could_not_be_written_is_sealed_again(site: Site) -> None:
    site.append(5)
    site.deliver()
    site.fails = True
    assert site.sign() == []
    site.fails = False
    assert numbers(site.audit()) == [1, 2, 3, 4, 5]
    assert place_of(site.reader).number == 1


def test_many_events_are_sealed_in_several_audits(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_signer, "EVENTS_AT_ONCE", 2000)
    site.append(5000)
    site.append(10, stream="u")
    site.deliver()
    sealed = []
    for _ in range(3):
        sealed.append(site.audit())
    assert [one for one in map(numbers, sealed) if one] == [
        [*range(1, 2001)],
        [*range(2001, 4001)],
        [*range(4001, 5001), *range(1, 11)],
    ]
    assert not site.signer.is_behind


def test_what_was_kept_at_the_edge_is_sealed_when_it_is_delivered_after_all(site: Site) -> None:
    site.append(2)
    site.append(3, kept=True)
    site.append(2)
    site.deliver()
    assert numbers(site.audit()) == [1, 2, 6, 7]
    with site.store.transaction():
        site.store.forward([3, 5])
    assert site.audit() == []
    site.deliver()
    site.append(1)
    site.deliver()
    assert numbers(site.audit()) == [3, 5, 8]
    assert site.audit() == []


def test_a_buffer_of_another_identity_begins_another_chain(site: Site) -> None:
    site.append(3)
    site.deliver()
    site.audit()
    with site.store.transaction():
        site.store.identity.renew()
    site.reader.close()
    site.reader = Reader(site.store.path)
    site.restart()
    site.append(2)
    site.deliver()
    (payload,) = site.sign()
    record = read_signed(payload)
    assert record is not None
    assert (record.number, record.previous) == (1, bytes(32))
    assert numbers([*read_audit(payload).seals]) == [4, 5]


class Reads:
    """Counts the events that the signer reads from the buffer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events = 0

        def counted(*arguments: Any) -> Hashed:
            found = hash_delivered(*arguments)
            self.events += found.events
            return found

        monkeypatch.setattr(record_signer, "hash_delivered", counted)


@pytest.mark.parametrize("order", [1, -1])
def test_the_hashes_of_the_bridges_make_the_same_seals_without_reading(
    site: Site, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    reads = Reads(monkeypatch)
    site.append(40)
    site.append(25, stream="u")
    site.deliver_with_hashes(order)
    with_hashes = site.seals()
    assert reads.events == 0
    site.restart()
    assert site.seals() == with_hashes
    assert reads.events == site.signer.events == 65


def test_a_stream_with_an_event_whose_hash_is_not_here_is_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Reads(monkeypatch)
    site.append(3)
    site.deliver()  # by an earlier process
    site.append(4)
    site.append(5, stream="u")
    site.deliver_with_hashes()
    assert numbers(site.audit()) == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6, 7]
    assert reads.events == 7
    assert site.audit() == []


def test_what_stays_at_the_edge_or_is_lost_is_not_looked_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Reads(monkeypatch)
    site.append(2)
    site.append(3, kept=True)
    site.append(2)
    site.deliver_with_hashes()
    assert numbers(site.audit()) == [1, 2, 6, 7]
    assert reads.events == 0


def test_what_is_too_much_to_remember_is_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivered_hashes, "MOST", 10)
    reads = Reads(monkeypatch)
    site.append(8)
    site.deliver_with_hashes()
    assert site.hashes.are_due is False
    site.append(8)
    site.deliver_with_hashes()
    assert numbers(site.audit()) == [*range(1, 17)]
    assert reads.events == 16


def test_an_event_that_holds_up_its_stream_for_long_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivered_hashes, "_DUE", 10)
    hashes = DeliveredHashes()
    hashes.add([1] * 9, [*range(2, 11)], [bytes(32)] * 9)
    assert not hashes.are_due
    assert hashes.take({1: (1, 1)}) == {}
    assert hashes.take({1: (1, 4)})[1][0] == [2, 3, 4]
    hashes.add([1] * 9, [*range(20, 29)], [bytes(32)] * 9)
    assert hashes.take({}) == {}  # 15 wait: too many
    assert hashes.take({1: (5, 100)}) == {}
