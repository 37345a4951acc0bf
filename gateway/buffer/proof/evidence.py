"""Reads what a gateway signs: how far its streams are sealed, and the delivered events that are not yet."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import repeat
from typing import NamedTuple

from gateway.buffer.reader import Reader
from gateway.buffer.store import CHECKPOINT_ID
from gateway.buffer.stored_events import BATCH_BYTES, fitting
from gateway.wire.evidence import event_hashes
from gateway.wire.signatures import Place

_SEALED = "SELECT json_group_array(stream), json_group_array(sequence) FROM sealed_streams"
_CHAIN = "SELECT number, hash FROM signed_chains WHERE buffer_id = ?"
_UNSENT = "SELECT number, payload FROM signed_records ORDER BY number"
_CHECKPOINT = "SELECT json_group_array(value) FROM meta WHERE name = ?"
_OLDEST_UNSETTLED = "SELECT json_array(min(id)) FROM buffer_events WHERE status < 2"
_DELIVERED = """
SELECT json_group_array(id), json_group_array(stream), json_group_array(sequence_num),
       json_group_array(size) FROM
(SELECT id, stream, sequence_num, coalesce(octet_length(payload), 0) AS size FROM buffer_events
 WHERE id > ? AND id <= ? AND status = 2 ORDER BY id LIMIT 2000)
"""
_NONE = (1, 0)


def place_of(reader: Reader) -> Place:
    """Return the place of the newest signed record of this buffer."""
    found = [*reader.rows(_CHAIN, reader.buffer_id)]
    return Place(*found[0]) if found else Place()


def sealed_positions(reader: Reader) -> dict[int, int]:
    """Return the number up to which each stream is sealed."""
    return dict(zip(*reader.arrays(_SEALED), strict=True))


def unsent_records(reader: Reader) -> list[tuple[int, bytes]]:
    """Return the signed records that are not known to be acknowledged, in their order."""
    return [(number, bytes(payload)) for number, payload in reader.rows(_UNSENT)]


class IdBounds(NamedTuple):
    """Ids in a snapshot: of the newest event that the streams' positions include, and of the last one before
    the first that is on its way."""

    newest: int = 0
    settled: int = 0


def id_bounds(reader: Reader) -> IdBounds:
    """Return the bounds, in the snapshot in which the positions are read."""
    (known,) = reader.arrays(_CHECKPOINT, CHECKPOINT_ID)
    ((oldest,),) = reader.arrays(_OLDEST_UNSETTLED)
    newest = int(known[0]) if known else 0
    return IdBounds(newest, newest if oldest is None else min(newest, oldest - 1))


class Hashed(dict[int, tuple[list[int], list[bytes]]]):
    """Numbers and hashes of delivered events, by stream, in rising order. `last_id` is the newest of them."""

    events = 0
    last_id = 0

    def keep_only(self, stream: int, numbers: Collection[int]) -> None:
        """Forget the other numbers of a stream."""
        known = zip(*self.pop(stream, ([], [])), strict=True)
        kept = [(number, digest) for number, digest in known if number in numbers]
        if kept:
            self[stream] = ([number for number, _ in kept], [digest for _, digest in kept])

    def extend(self, other: Hashed) -> None:
        """Add events of another look, which are not in this one."""
        for stream, more in other.items():
            pairs = sorted([*zip(*self.get(stream, ([], [])), strict=True), *zip(*more, strict=True)])
            self[stream] = ([number for number, _ in pairs], [digest for _, digest in pairs])


def hash_delivered(reader: Reader, wanted: Mapping[int, tuple[int, int]], ids: range, most: int) -> Hashed:
    """Hash the delivered events with the `wanted` numbers (first, last) of their streams and one of `ids`; at
    most about `most` of them."""
    found = Hashed()
    for numbers in _chunks(reader, wanted, ids):
        events, _ = reader.without_corrupt(reader.by_ids(numbers))
        columns = reader.columns(events)
        hashed = zip(events.stream_ids, events.sequence_nums, event_hashes(columns), strict=True)
        for stream, number, digest in hashed:
            known, hashes = found.setdefault(stream, ([], []))
            known.append(number)
            hashes.append(digest)
        found.events += len(numbers)
        found.last_id = numbers[-1]
        if found.events >= most:
            break
    return found


def _chunks(reader: Reader, wanted: Mapping[int, tuple[int, int]], ids: range) -> Iterator[list[int]]:
    """Yield the ids of wanted events, as many at a time as are read at once."""
    after = ids.start - 1
    while wanted and after < ids.stop - 1:
        found, streams, numbers, sizes = reader.arrays(_DELIVERED, after, ids.stop - 1)
        if not found:
            return
        end = fitting(sizes, BATCH_BYTES)
        bounds = map(wanted.get, streams[:end], repeat(_NONE))
        places = zip(found, numbers, bounds, strict=False)
        chunk = [at for at, number, (first, last) in places if first <= number <= last]
        if chunk:
            yield chunk
        after = found[end - 1]
