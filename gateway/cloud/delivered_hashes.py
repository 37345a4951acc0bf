"""Hashes of events that the cloud broker has taken, made with their messages: the signer need not read them.

Bridges add on their threads, the signer takes on its own. What is not here, as after a restart or where there
were too many, the signer reads from the buffer and hashes itself.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from threading import Lock

from gateway.buffer.proof.evidence import Hashed
from gateway.wire.evidence import HASH_BYTES

MOST = 100_000
"""Events; 5 MB of memory until the signer takes them."""
_DUE = MOST // 4


class DeliveredHashes:
    """The hashes of one gateway's events, by stream and number, until they are sealed."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._added: list[tuple[array[int], array[int], bytes]] = []  # streams, numbers and hashes
        self._adding = 0  # events in it
        self._waiting: dict[int, dict[int, bytes]] = {}  # taken, but an earlier event of their stream is not

    @property
    def are_due(self) -> bool:
        """True while so many have come that they should be sealed soon. On any thread."""
        return self._adding >= _DUE

    def add(self, streams: Sequence[int], numbers: Sequence[int], hashes: bytes) -> None:
        """Add the hashes of events, one behind the other. On any thread."""
        with self._lock:
            if self._adding + len(numbers) <= MOST:
                self._added.append((array("q", streams), array("q", numbers), hashes))
                self._adding += len(numbers)

    def take(self, wanted: Mapping[int, tuple[int, int]]) -> Hashed:
        """Take the hashes of the `wanted` numbers (first, last) of each stream. Those behind `last` stay;
        those before `first` are forgotten."""
        waiting = self._sorted_in()
        found = Hashed()
        for stream, (first, last) in wanted.items():
            known = waiting.pop(stream, None)
            if known is None:
                continue
            numbers = sorted(known)
            if numbers[0] < first or numbers[-1] > last:
                later = {number: known[number] for number in numbers if number > last}
                if later:
                    waiting[stream] = later
                numbers = [number for number in numbers if first <= number <= last]
            if numbers:
                found[stream] = (numbers, [known[number] for number in numbers])
                found.events += len(numbers)
        if sum(map(len, waiting.values())) > _DUE:
            waiting.clear()  # an event that holds up its stream for long: the others are read when it is gone
        return found

    def _sorted_in(self) -> dict[int, dict[int, bytes]]:
        """Return what waits, by stream, with what was added since."""
        with self._lock:
            added, self._added, self._adding = self._added, [], 0
        waiting = defaultdict(dict, self._waiting)
        for streams, numbers, hashes in added:
            starts = range(0, len(hashes), HASH_BYTES)
            for stream, number, at in zip(streams, numbers, starts, strict=True):
                waiting[stream][number] = hashes[at : at + HASH_BYTES]
        self._waiting = waiting
        return waiting
