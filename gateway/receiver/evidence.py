"""Compares what was received with what the gateways have signed: event by event, record by record.

Every event whose number a signed record seals is proven, changed or missing. An event that no signed record
knows was added by somebody else. Records are good if their signature is, and if each names the one before it.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import NamedTuple

from gateway.core.errors import DecodeError, GatewayError
from gateway.core.events import WireEvent
from gateway.core.sequence_sets import Stretches, size_of, without
from gateway.receiver.event_lines import StoredLine
from gateway.receiver.ledger import MERGED, Ledger, Series, StreamLedger
from gateway.wire.audit_record import AuditRecord, read_audit
from gateway.wire.evidence import HASH_BYTES, Seal, event_hash, merkle_path, merkle_root
from gateway.wire.signatures import PublicKeys, SignedRecord, read_signed

NAMED = 1000
"""Events of a kind that are named; all are counted."""


class EvidenceError(GatewayError):
    """Raised when an event cannot be proven."""


class EventName(NamedTuple):
    """An event that is not as it was signed: `number` to `last` where it cannot be told which one."""

    gateway_id: str
    stream: str
    number: int
    last: int
    event_id: str = ""


class Findings(list[EventName]):
    """Named events, at most NAMED of them, and their total."""

    total = 0

    def name(self, found: EventName) -> None:
        self.total += found.last - found.number + 1
        if len(self) < NAMED:
            self.append(found)


Chain = list[tuple[SignedRecord, AuditRecord]]
"""The good records of one buffer of a gateway, in their order: each as received, and as read."""


class Records(NamedTuple):
    """The signed records of all gateways. `faults` say which are forged, missing or in a wrong place."""

    chains: dict[tuple[str, str], Chain]
    faults: list[str]

    @property
    def total(self) -> int:
        return sum(map(len, self.chains.values()))

    def ledger(self) -> Ledger:
        """Return a ledger that has heard these records, and none but these."""
        ledger = Ledger()
        for one in sorted(self.chains.values(), key=lambda each: each[-1][1].time_ms):
            for _, record in one:
                ledger.hear(record)
        return ledger

    def seals(self) -> Iterator[tuple[Series, Seal, SignedRecord]]:
        """Yield every seal with its series and its record."""
        for one in self.chains.values():
            for signed, record in one:
                for seal in record.seals:
                    yield Series(record.gateway_id, seal.stream, record.buffer_id), seal, signed


def read_records(payloads: Iterable[bytes], keys: PublicKeys) -> Records:
    """Check signatures and chains."""
    faults: list[str] = []
    places: defaultdict[tuple[str, str], dict[int, tuple[SignedRecord, AuditRecord]]] = defaultdict(dict)
    for payload in dict.fromkeys(payloads):
        signed = read_signed(payload)
        try:
            record = read_audit(payload)
        except DecodeError as exc:
            faults.append(f"a damaged record: {exc}")
            continue
        if signed is None or not keys.is_signed(signed):
            faults.append(f"a forged record of {record.gateway_id}, {_name(signed)}: wrong signature or key")
            continue
        if not keys.belongs(signed.key_id, record.gateway_id):
            whose = ", ".join(keys.gateways[signed.key_id])
            faults.append(
                f"a forged record of {record.gateway_id}, {_name(signed)}: its key is that of {whose}"
            )
            continue
        known = places[record.gateway_id, record.buffer_id]
        if signed.number in known:
            faults.append(f"{record.gateway_id} has signed two records with the number {signed.number}")
        known.setdefault(signed.number, (signed, record))
    chains = {whose: [known[at] for at in sorted(known)] for whose, known in places.items()}
    for (gateway_id, _), one in chains.items():
        faults += _chain_faults(gateway_id, one, keys)
    return Records(chains, faults)


def _name(signed: SignedRecord | None) -> str:
    return "not readable" if signed is None else f"number {signed.number}"


def _chain_faults(gateway_id: str, of: Chain, keys: PublicKeys) -> Iterator[str]:
    number, newest, previous = 0, 0, bytes(32)
    for signed, _ in of:
        if signed.number > number + 1:
            yield f"records {number + 1} to {signed.number - 1} of {gateway_id} are missing"
        elif signed.previous != previous:
            yield f"record {signed.number} of {gateway_id} does not follow the one before it"
        age = keys.ids.index(signed.key_id)
        if age < newest:
            yield f"record {signed.number} of {gateway_id} is signed with a key that was replaced before"
        number, previous, newest = signed.number, signed.hash, max(age, newest)


class Evidence(NamedTuple):
    """The verdict. `unsealed` events were delivered, says the gateway, but it has signed no hash of them."""

    records: int
    faults: list[str]
    proven: int
    unsealed: int
    changed: Findings
    added: Findings
    missing: Findings

    @property
    def sound(self) -> bool:
        """True if all is as it was signed."""
        wrong = self.faults or self.changed.total or self.added.total or self.missing.total
        return not wrong and self.records > 0


_SECRET = secrets.token_bytes(16)
_SHORT_BYTES = 8


def _short(digest: bytes) -> bytes:
    """Return eight bytes for the 32 of a hash. The secret of this process keeps a forger from finding another
    event that has the same ones."""
    return blake2b(digest, key=_SECRET, digest_size=_SHORT_BYTES).digest()


class _OpenSeal:
    """A seal, and which of its leaves have come: their hashes, None once the root was found to be right.

    `proven` are the short hashes of those leaves from then on.
    """

    __slots__ = ("leaves", "left", "proven", "seal")

    def __init__(self, seal: Seal) -> None:
        self.seal = seal
        self.left = seal.leaves
        self.leaves: list[bytes | None] | None = [None] * self.left
        self.proven = b""

    def has(self, position: int, digest: bytes) -> bool:
        """Return True if the event that has come for this leaf is the one with this hash."""
        if self.leaves is not None:
            return self.leaves[position] == digest
        return self.proven[_SHORT_BYTES * position :][:_SHORT_BYTES] == _short(digest)


class Examination:
    """Takes events in any order. `verdict` says at the end what is wrong."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._proven = 0
        self._changed, self._added, self._missing = Findings(), Findings(), Findings()
        self._outside: defaultdict[Series, Stretches] = defaultdict(Stretches)
        self._ids: dict[tuple[Series, int], str] = {}
        self._seals: dict[Series, list[_OpenSeal]] = {}
        known: defaultdict[Series, dict[tuple[object, ...], Seal]] = defaultdict(dict)
        for series, seal, _ in records.seals():
            known[series][seal.runs, seal.root] = seal
        for series, seals in known.items():
            self._seals[series] = [_OpenSeal(one) for one in sorted(seals.values(), key=lambda s: s.first)]
        self._firsts = {series: [one.seal.first for one in seals] for series, seals in self._seals.items()}

    def take(self, stored: StoredLine) -> None:
        """Compare one event with its seal."""
        gateway_id, event, buffer_id = stored
        if buffer_id == MERGED:
            return  # the receiver's own, signed by nobody
        series, number = Series(gateway_id, event.stream, buffer_id), event.sequence_num
        found = self._find(series, number)
        if found is None:
            self._outside[series].add(number)
            if len(self._ids) < NAMED:
                self._ids[series, number] = event.event_id.hex()
            return
        one, position = found
        digest = _hash_of(event)
        if one.leaves is not None and one.leaves[position] is None:
            one.leaves[position] = digest
            one.left -= 1
            if not one.left:
                self._prove(one)
        elif not one.has(position, digest):
            self._second(series, one, position, event, digest)

    def verdict(self) -> Evidence:
        """The events that are left over are missing, or nobody has signed them."""
        unsealed = 0
        for series, seals in self._seals.items():
            for one in seals:
                if not self._prove(one):
                    self._name_faults(series, one)
        told = dict(self._records.ledger())
        for series, numbers in self._outside.items():
            unsealed += self._judge_outside(series, numbers, told.get(series))
        found = (self._changed, self._added, self._missing)
        return Evidence(self._records.total, self._records.faults, self._proven, unsealed, *found)

    def _find(self, series: Series, number: int) -> tuple[_OpenSeal, int] | None:
        """The newest seal over a number, and the position of its leaf."""
        seals = self._seals.get(series)
        if seals is None:
            return None
        at = bisect_right(self._firsts[series], number) - 1
        while at >= 0:
            position = seals[at].seal.position(number)
            if position is not None:
                return seals[at], position
            at -= 1
            if at < 0 or seals[at].seal.last < number:
                return None
        return None

    def _second(self, series: Series, one: _OpenSeal, position: int, event: WireEvent, digest: bytes) -> None:
        """Choose between two events with one number: the one with the mark is the gateway's."""
        number = event.sequence_num
        if one.leaves is not None and digest.startswith(one.seal.mark(position)):
            one.leaves[position] = digest
        self._added.name(EventName(series.gateway_id, series.stream, number, number, event.event_id.hex()))

    def _prove(self, one: _OpenSeal) -> bool:
        """Return True if all of a seal's events are there as they were signed. Where they are not, the event
        that was signed may still come, behind one with its number."""
        if one.leaves is not None:
            present = [leaf for leaf in one.leaves if leaf is not None]
            if one.left or merkle_root(present, one.seal.arity) != one.seal.root:
                return False
            self._proven += len(present)
            one.proven = b"".join(map(_short, present))
            one.leaves = None
        return True

    def _name_faults(self, series: Series, one: _OpenSeal) -> None:
        seal, leaves = one.seal, one.leaves or []
        whose, changed = (series.gateway_id, series.stream), 0
        for position, (number, leaf) in enumerate(zip(seal.numbers(), leaves, strict=True)):
            if leaf is None:
                self._missing.name(EventName(*whose, number, number))
            elif not leaf.startswith(seal.mark(position)):
                self._changed.name(EventName(*whose, number, number))
                changed += 1
        if not one.left and not changed:  # one in 65,536 has the mark of the original
            self._changed.name(EventName(*whose, seal.first, seal.last))

    def _judge_outside(self, series: Series, numbers: Stretches, told: StreamLedger | None) -> int:
        """Return how many of the events without a seal the gateway says it has delivered. The others were
        added, except those beyond its last claim: the next audit will tell."""
        if told is None or told.claimed.last is None:
            return 0
        exempt = [each.run.stretches() for each in told.exempt if each.reason != _EARLIER]
        known = [*without(numbers, [(told.claimed.last + 1, 2**63 - 1)])]
        added = [*without(known, without(told.claimed, *exempt))]
        for first, last in added:
            event_id = self._ids.get((series, first), "") if first == last else ""
            self._added.name(EventName(series.gateway_id, series.stream, first, last, event_id))
        return size_of(known) - size_of(added)


_NAMED_BY = "`gateway receive --verify --key FILE` names it"


class Proof(NamedTuple):
    """The way from one event to the record that seals it."""

    event: StoredLine
    path: list[tuple[bytes, bytes]]
    seal: Seal
    record: SignedRecord


def prove(event_id: bytes, records: Records, events: Callable[[], Iterable[StoredLine]]) -> Proof:
    """Return the proof of one event; `events` gives all of them, each time that it is called.

    Raises EvidenceError if there is no such event, if no record seals it, or if something was changed.
    """
    found = [one for one in events() if one.event.event_id == event_id]
    if not found:
        raise EvidenceError("there is no event with this id in the output")
    is_sealed = False
    for wanted in found:
        series = Series(wanted.gateway_id, wanted.event.stream, wanted.buffer_id)
        for of, seal, record in records.seals():
            if of == series and (position := seal.position(wanted.event.sequence_num)) is not None:
                hashes = _sealed_hashes(series, seal, events())
                if hashes[position] == _hash_of(wanted.event):
                    return Proof(wanted, merkle_path(hashes, position, seal.arity), seal, record)
                is_sealed = True
    if is_sealed:
        raise EvidenceError("the event with this id is not the one that was signed", hint=_NAMED_BY)
    raise EvidenceError(
        "no signed record seals this event", hint="the next audit record may: try again later"
    )


def _sealed_hashes(series: Series, seal: Seal, events: Iterable[StoredLine]) -> list[bytes]:
    """Return the hashes of a seal's events; of two with one number, of the one with the mark."""
    leaves: dict[int, bytes] = {}
    for stored in events:
        if Series(stored.gateway_id, stored.event.stream, stored.buffer_id) == series:
            at = seal.position(stored.event.sequence_num)
            if at is not None:
                digest = _hash_of(stored.event)
                if at not in leaves or digest.startswith(seal.mark(at)):
                    leaves[at] = digest
    hashes = [leaves.get(at, bytes(HASH_BYTES)) for at in range(seal.leaves)]
    if merkle_root(hashes, seal.arity) != seal.root:
        raise EvidenceError("an event of the same seal was changed or is missing", hint=_NAMED_BY)
    return hashes


def proof_fields(proof: Proof) -> dict[str, object]:
    """Return a proof as plain values, for JSON; docs/evidence.md has a script that checks it."""
    event = proof.event.event
    fields = event._asdict() | {
        "event_id": event.event_id.hex(),
        "payload": b64encode(event.payload).decode(),
    }
    return {
        "event": fields,
        "path": [[before.hex(), behind.hex()] for before, behind in proof.path],
        "root": b64encode(proof.seal.root).decode(),
        "record": proof.record.payload.decode(),
    }


def _hash_of(event: WireEvent) -> bytes:
    """Return the hash of an event; of one with impossible numbers a hash that no event has."""
    try:
        return event_hash(event)
    except ValueError:
        return bytes(HASH_BYTES)


_EARLIER = "earlier_buffer"
