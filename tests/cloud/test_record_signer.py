"""What a gateway seals: each delivered event once, also after a failure, a restart, and a late delivery."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.buffer.proof.evidence import id_bounds, place_of, unsent_records
from gateway.buffer.proof.positions import standing
from gateway.buffer.reader import Reader
from gateway.buffer.store import NewEvent, Store
from gateway.buffer.writer import Command
from gateway.cloud import record_signer
from gateway.cloud.record_signer import RecordSigner
from gateway.core.events import Status
from gateway.delivery.states import DeliveryEvent
from gateway.wire.audit_record import AuditRecord, audit_messages, read_audit
from gateway.wire.evidence import Seal
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
        self.signer = RecordSigner(SigningKey(PRIVATE), self)  # type: ignore[arg-type]

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

    def audit(self) -> list[Seal]:
        """One audit that the broker acknowledges; returns what it sealed."""
        payloads = self.sign()
        self.signer.acknowledge()
        return [seal for payload in payloads for seal in read_audit(payload).seals]

    def sign(self) -> list[bytes]:
        assert self.signer.start(self.reader) == []
        with self.reader.snapshot():
            now, ids = standing(self.reader), id_bounds(self.reader)
        seals = tuple(self.signer.seals(self.reader, now, ids, 65_536))
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
