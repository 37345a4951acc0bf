"""Hashes of events that the cloud broker has taken, made with their messages: the signer need not read them.

Bridges add on their threads, the signer takes on its own. What is not here, as after a restart or where there
were too many, the signer reads from the buffer and hashes itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from operator import lt
from threading import Lock

from gateway.buffer.proof.evidence import Hashed

MOST = 50_000
"""Events; some 7 MB of memory until the signer takes them."""
_DUE = MOST // 2


class DeliveredHashes:
    """The hashes of one gateway's events, by stream and number, until they are sealed."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._added: list[tuple[Sequence[int], Sequence[int], Sequence[bytes]]] = []
        self._adding = 0  # events in it
        self._waiting: defaultdict[int, tuple[list[int], list[bytes]]] = defaultdict(_nothing)

    @property
    def are_due(self) -> bool:
        """True while so many have come that they should be sealed soon. On any thread."""
        return self._adding >= _DUE

    def add(self, streams: Sequence[int], numbers: Sequence[int], hashes: Sequence[bytes]) -> None:
        """Add the hashes of events. On any thread."""
        with self._lock:
            if self._adding + len(numbers) <= MOST:
                self._added.append((streams, numbers, hashes))
                self._adding += len(numbers)

    def take(self, wanted: Mapping[int, tuple[int, int]]) -> Hashed:
        """Take the hashes of the `wanted` numbers (first, last) of each stream. Those behind `last` stay;
        those before `first` are forgotten."""
        self._sort_in()
        found = Hashed()
        for stream, (first, last) in wanted.items():
            if stream not in self._waiting:
                continue
            numbers, hashes = self._waiting.pop(stream)
            if numbers[0] < first or numbers[-1] > last or not all(map(lt, numbers, numbers[1:])):
                known = sorted(dict(zip(numbers, hashes, strict=True)).items())
                later = [pair for pair in known if pair[0] > last]
                if later:
                    self._waiting[stream] = _columns(later)
                numbers, hashes = _columns([pair for pair in known if first <= pair[0] <= last])
            if numbers:
                found[stream] = (numbers, hashes)
                found.events += len(numbers)
        if sum(len(numbers) for numbers, _ in self._waiting.values()) > _DUE:
            self._waiting.clear()  # an event holds up its stream for long: read the others when it is gone
        return found

    def _sort_in(self) -> None:
        """Add to what waits, by stream, what has come since."""
        with self._lock:
            added, self._added, self._adding = self._added, [], 0
        waiting = self._waiting
        for columns in added:
            for stream, number, digest in zip(*columns, strict=True):
                numbers, hashes = waiting[stream]
                numbers.append(number)
                hashes.append(digest)


def _nothing() -> tuple[list[int], list[bytes]]:
    return [], []


def _columns(pairs: Sequence[tuple[int, bytes]]) -> tuple[list[int], list[bytes]]:
    return [number for number, _ in pairs], [digest for _, digest in pairs]
