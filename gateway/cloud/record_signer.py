"""Signs the audit records, with seals over the events that the cloud broker has acknowledged.

Invariants:
- What is signed is on disk before it is sent, and stays there until it is acknowledged: after a crash or a
  reconnect the same bytes are sent again, so the chain has no gap, and never two records in one place.
- An event is sealed after its PUBACK, once. One that retention evicts before that has no seal.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import partial

from gateway.buffer.evidence_table import SignedBatch
from gateway.buffer.proof.evidence import (
    Hashed,
    IdBounds,
    hash_delivered,
    place_of,
    sealed_positions,
    unsent_records,
)
from gateway.buffer.proof.positions import StreamPositions, lost
from gateway.buffer.reader import Reader
from gateway.buffer.store import Store
from gateway.buffer.writer import Command, Do, Writer
from gateway.cloud.delivered_hashes import DeliveredHashes
from gateway.core.sequence_sets import Stretches, without
from gateway.wire.evidence import MAX_LEAVES, MAX_RUNS, Seal, seal_of
from gateway.wire.signatures import SIGNATURE_BYTES, Place, SigningKey

log = logging.getLogger(__name__)

EVENTS_AT_ONCE = 20_000
"""Read, hashed and sealed in one audit: a tenth of a second of the connection's thread. The next one seals
the rest."""
_LEAF_BYTES = 4  # of a record, for a mark, as Base64
_SEAL_BYTES = 200  # beside its stream and marks


class _Keep(Command):
    """Puts signed records on the disk."""

    urgent = True

    def __init__(self, batch: SignedBatch) -> None:
        self._batch = batch
        self.is_done = False
        self.has_failed = False

    def apply(self, store: Store) -> None:
        store.evidence.keep(self._batch)

    def committed(self) -> None:
        self.is_done = True

    def failed(self, error: Exception) -> None:
        self.has_failed = True
        super().failed(error)


class RecordSigner:
    """The evidence of one gateway, for the thread of its auditor. `hashes` spare it reading events again."""

    def __init__(self, key: SigningKey, writer: Writer, hashes: DeliveredHashes | None = None) -> None:
        self.events = 0
        """Sealed since the start."""
        self._is_behind = False
        self._key = key
        self._writer = writer
        self._delivered = hashes or DeliveredHashes()
        self._place: Place | None = None
        self._sealed: dict[int, int] = {}
        self._moved: dict[int, int] = {}
        self._kept_back: dict[int, Stretches] = {}  # sealed past, since they were not delivered then
        self._scanned = 0  # every event up to this id is sealed, or was not there to be
        self._keep: _Keep | None = None
        self._kept: list[bytes] = []
        self._acknowledged = 0

    def start(self, reader: Reader) -> list[bytes]:
        """Return the records that still have to be sent, as they are."""
        if self._place is None:
            self._place = place_of(reader)
            self._sealed = sealed_positions(reader)
        return [payload for number, payload in unsent_records(reader) if number > self._acknowledged]

    @property
    def is_behind(self) -> bool:
        """True while many delivered events wait for their seals."""
        return self._is_behind or self._delivered.are_due

    def seals(self, reader: Reader, now: StreamPositions, ids: IdBounds, limit_bytes: int) -> Iterator[Seal]:
        """Seal delivered events up to the settled numbers of their streams. `limit_bytes`: of a record."""
        wanted = self._wanted(now)
        found = self._delivered.take(wanted)
        partly = self._partly_known(reader, now, wanted, found)
        self._moved = {stream: last for stream, (_, last) in wanted.items() if stream not in partly}
        read = hash_delivered(reader, partly, range(self._scanned + 1, ids.newest + 1), EVENTS_AT_ONCE)
        self._is_behind = read.events >= EVENTS_AT_ONCE
        self._scanned = min(read.last_id if self._is_behind else ids.newest, ids.settled)
        if self._is_behind:
            self._moved |= {stream: numbers[-1] for stream, (numbers, _) in read.items()}
        else:  # what is not there any more was evicted
            self._moved |= {stream: last for stream, (_, last) in partly.items()}
        found.update(read)
        found.extend(self._released(reader, now, ids))
        self._sealed |= self._moved
        self._note_kept(now)
        leaves = max(1, min(MAX_LEAVES, (limit_bytes - SIGNATURE_BYTES - _SEAL_BYTES) // _LEAF_BYTES))
        self.events += sum(len(numbers) for numbers, _ in found.values())
        for name, (numbers, hashes) in zip(reader.names([*found]), found.values(), strict=True):
            for at in range(0, len(numbers), leaves):
                yield from _seals(name, numbers[at : at + leaves], hashes[at : at + leaves])

    def _partly_known(
        self, reader: Reader, now: StreamPositions, wanted: Mapping[int, tuple[int, int]], found: Hashed
    ) -> dict[int, tuple[int, int]]:
        """Take the streams out of `found` of which it may lack an event; return what is wanted of them."""
        short = {
            stream: (first, last)
            for stream, (first, last) in wanted.items()
            if stream not in found or len(found[stream][0]) <= last - first
        }
        losses = lost(reader, [(stream, first) for stream, (first, _) in short.items()])
        partly = {}
        for stream, (first, last) in short.items():
            exempt = [*losses.get(stream, ()), *now.kept.get(stream, ())]
            parts = [
                part.run.stretches() for each in exempt if (part := each.within(first, last)) is not None
            ]
            known = ((number, number) for number in found.get(stream, ([], []))[0])
            if any(without([(first, last)], known, *parts)):
                partly[stream] = (first, last)
                found.pop(stream, None)
        return partly

    def _released(self, reader: Reader, now: StreamPositions, ids: IdBounds) -> Hashed:
        """Hash what was kept at the edge when its neighbours were sealed, and has been delivered since."""
        released = {}
        for stream, numbers in self._kept_back.items():
            still = [each.run.stretches() for each in now.kept.get(stream, ())]
            beyond = [(now.settled.get(stream, 0) + 1, 2**63 - 1)]
            gone = Stretches(without(numbers, *still, beyond))
            if gone.first is not None and gone.last is not None:
                released[stream] = gone
        if not released:
            return Hashed()
        bounds = {stream: (one.first or 0, one.last or 0) for stream, one in released.items()}
        found = hash_delivered(reader, bounds, range(1, ids.newest + 1), EVENTS_AT_ONCE)
        for stream, numbers in released.items():
            done = {number for number in found.get(stream, ([],))[0] if number in numbers}
            found.keep_only(stream, done)
            if found.events < EVENTS_AT_ONCE:  # what was not found was evicted
                self._kept_back[stream] = Stretches(without(self._kept_back[stream], numbers))
            else:
                parts = ((number, number) for number in sorted(done))
                self._kept_back[stream] = Stretches(without(self._kept_back[stream], parts))
        return found

    def _note_kept(self, now: StreamPositions) -> None:
        for stream, exempt in now.kept.items():
            sealed = self._sealed.get(stream, 0)
            runs = [part.run.stretches() for each in exempt if (part := each.within(1, sealed)) is not None]
            if runs:
                self._kept_back[stream] = self._kept_back.get(stream, Stretches()).united(*runs)

    def _wanted(self, now: StreamPositions) -> dict[int, tuple[int, int]]:
        """The numbers, first and last, that have been delivered since the last seal of each stream."""
        wanted = {}
        for stream, last in now.settled.items():
            sealed = self._sealed.get(stream, 0)
            if stream in now.earlier:  # another identity of the buffer has sent those
                sealed = max(sealed, now.earlier[stream].run.last)
            if last > sealed:
                wanted[stream] = (sealed + 1, last)
        return wanted

    def sign(self, buffer_id: str, messages: Iterator[bytes]) -> None:
        """Sign records and put them on the disk; `signed` gives them when they are there."""
        place, self._kept, records = self._place or Place(), [], []
        for message in messages:
            payload, place = self._key.sign(message, place)
            self._kept.append(payload)
            records.append((place.number, payload))
        self._place = place
        self._keep = _Keep(SignedBatch(buffer_id, records, place, self._moved))
        self._writer.submit(self._keep)

    @property
    def is_waiting(self) -> bool:
        """True while signed records are on their way to the disk."""
        return self._keep is not None

    def signed(self) -> list[bytes] | None:
        """Return the records that were signed last, once they are on the disk; none if they could not be
        written. None while there is nothing to say."""
        if self._keep is None or not (self._keep.is_done or self._keep.has_failed):
            return None
        failed, self._keep = self._keep.has_failed, None
        if failed:
            self._place = None  # read everything again: nothing of it is there
            self._scanned = 0
            return []
        return self._kept

    def acknowledge(self) -> None:
        """Forget all records: they are acknowledged."""
        if self._place is not None and self._keep is None and self._acknowledged < self._place.number:
            self._acknowledged = self._place.number
            self._kept = []
            self._writer.submit(Do(partial(_acknowledged, number=self._acknowledged)))


def _acknowledged(store: Store, number: int) -> None:
    store.evidence.acknowledged(number)


def _seals(stream: str, numbers: list[int], hashes: list[bytes]) -> Iterator[Seal]:
    """Yield seals with few runs: two, where one would have too many."""
    seal = seal_of(stream, numbers, hashes)
    if len(seal.runs) <= MAX_RUNS:
        yield seal
        return
    middle = len(numbers) // 2
    yield from _seals(stream, numbers[:middle], hashes[:middle])
    yield from _seals(stream, numbers[middle:], hashes[middle:])
