"""Seals: what a gateway signs about the events that it has delivered, so that nobody can change one unseen.

A seal names the numbers of one stream and holds the root of a Merkle tree over the hashes of their events:
leaf = SHA-256(0 | event), node = SHA-256(1 | children). A node has up to 16 children, which costs a fifteenth
of the hashes of a tree of pairs (RFC 6962); seals from before have pairs, and are read as they are. Its marks
are the first two bytes of each hash: where the root does not fit, they tell which event was changed.
docs/evidence.md has the format.
"""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import pairwise
from operator import add
from typing import Any, NamedTuple

from gateway.core.events import WireEvent
from gateway.core.identifiers import split_ids
from gateway.core.sequence_sets import Run, runs_of
from gateway.wire.frame import ABSENT_MS, EventColumns

HASH_BYTES = 32
MARK_BYTES = 2
MAX_LEAVES = 4096
"""In one seal: its marks take 11 kB of a record. More would only save roots."""
MAX_RUNS = 300
"""In one seal, as in a stream of which every other event stays at the edge."""
ARITY = 16
"""Most children of a node. More would save little, and make the proof of one event longer."""
PAIRS = 2
"""Arity of a seal that names none, from before there was a choice."""

_COLUMNS = struct.Struct(">x16sqqqqBBIII")  # behind a zero byte; then the stream and the payload
_NODE = b"\1"
_MAX_ARITY = 256
_MAX_NUMBER = 2**63 - 1


class Seal(NamedTuple):
    """The sealed numbers of a stream, in `runs` that rise and do not overlap."""

    stream: str
    runs: tuple[Run, ...]
    root: bytes
    marks: bytes
    arity: int = ARITY

    @property
    def leaves(self) -> int:
        """Number of sealed events."""
        return sum(run.size for run in self.runs)

    @property
    def first(self) -> int:
        return self.runs[0].first

    @property
    def last(self) -> int:
        return self.runs[-1].last

    def position(self, number: int) -> int | None:
        """Return the position of the leaf of `number`; None if the seal is not about it."""
        before = 0
        for first, last, step in self.runs:
            if first <= number <= last and not (number - first) % step:
                return before + (number - first) // step
            if number < first:
                return None
            before += (last - first) // step + 1
        return None

    def numbers(self) -> Iterator[int]:
        """Yield the sealed numbers in the order of the leaves."""
        for first, last, step in self.runs:
            yield from range(first, last + 1, step)

    def mark(self, position: int) -> bytes:
        """Return the mark of one leaf."""
        return self.marks[MARK_BYTES * position : MARK_BYTES * (position + 1)]


def seal_of(stream: str, numbers: Sequence[int], hashes: Sequence[bytes]) -> Seal:
    """Seal events by their rising numbers and their hashes."""
    marks = b"".join([one[:MARK_BYTES] for one in hashes])
    return Seal(stream, tuple(runs_of(numbers)), merkle_root(hashes), marks)


def event_hashes(columns: EventColumns) -> list[bytes]:
    """Return the hash of each event."""
    names = {name: name.encode() for name in {*columns.streams}}
    streams = [names[stream] for stream in columns.streams]
    device_ms = [ABSENT_MS if time_ms is None else time_ms for time_ms in columns.device_times_ms]
    times = (columns.sequence_nums, columns.event_times_ms, columns.ingest_times_ms, device_ms)
    nature = (columns.priorities, columns.kinds, columns.flags)
    lengths = (map(len, streams), map(len, columns.payloads))
    # By map and not by a loop: this is done for every event, and Python would cost as much as the hash.
    packed = map(_COLUMNS.pack, split_ids(columns.event_ids), *times, *nature, *lengths)
    return [sha256(leaf).digest() for leaf in map(add, packed, map(add, streams, columns.payloads))]


def event_hash(event: WireEvent) -> bytes:
    """Return the hash of one event. Raises ValueError for numbers that no event has."""
    event_id, stream, number, event_ms, ingest_ms, device_ms, priority, kind, flags, payload = event
    times = (event_ms, ingest_ms, ABSENT_MS if device_ms is None else device_ms)
    name = stream.encode()
    try:
        packed = _COLUMNS.pack(event_id, number, *times, priority, kind, flags, len(name), len(payload))
    except struct.error as exc:
        raise ValueError(str(exc)) from exc
    return sha256(packed + name + payload).digest()


def merkle_root(leaves: Sequence[bytes], arity: int = ARITY) -> bytes:
    """Return the root of the tree over at least one leaf."""
    level = b"".join(leaves)
    while len(level) > HASH_BYTES:
        level = _next_level(level, arity)
    return level


def merkle_path(leaves: Sequence[bytes], position: int, arity: int = ARITY) -> list[tuple[bytes, bytes]]:
    """Return what stands before and behind, in each node on the way from a leaf to the root."""
    path, level = [], b"".join(leaves)
    while len(level) > HASH_BYTES:
        node = position // arity
        start, own, end = (HASH_BYTES * at for at in (node * arity, position, (node + 1) * arity))
        before, behind = level[start:own], level[own + HASH_BYTES : end]
        if before or behind:
            path.append((before, behind))
        level, position = _next_level(level, arity), node
    return path


def _next_level(level: bytes, arity: int) -> bytes:
    """Hash groups of neighbours; a last one that is alone goes up as it is, as in the tree of RFC 6962."""
    width = HASH_BYTES * arity
    groups = [level[at : at + width] for at in range(0, len(level), width)]
    alone = groups.pop() if len(groups[-1]) == HASH_BYTES else b""
    return b"".join([sha256(_NODE + group).digest() for group in groups]) + alone


def seal_fields(seal: Seal) -> dict[str, object]:
    """Return a seal as plain values, for JSON."""
    return {
        "stream": seal.stream,
        "numbers": [list(run) for run in seal.runs],
        "root": b64encode(seal.root).decode(),
        "marks": b64encode(seal.marks).decode(),
        "arity": seal.arity,
    }


def read_seal(fields: Any) -> Seal:
    """Read what `seal_fields` gave. Raises ValueError for anything else."""
    try:
        runs = tuple(_run(*run) for run in fields["numbers"])
        root, marks = (b64decode(fields[name], validate=True) for name in ("root", "marks"))
        seal = Seal(fields["stream"], runs, root, marks, fields.get("arity", PAIRS))
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"not a seal: {exc!r}") from exc
    rising = all(left.last < right.first for left, right in pairwise(runs))
    if not isinstance(seal.stream, str) or not runs or not rising or len(root) != HASH_BYTES:
        raise ValueError("not a seal")
    if type(seal.arity) is not int or not PAIRS <= seal.arity <= _MAX_ARITY:
        raise ValueError("a seal has a tree of no known shape")
    if seal.leaves > MAX_LEAVES or len(marks) != MARK_BYTES * seal.leaves:
        raise ValueError("the marks of a seal do not fit its numbers")
    return seal


def _run(first: object, last: object, step: object) -> Run:
    if not (type(first) is type(last) is type(step) is int):
        raise ValueError("a number of a seal is no number")
    run = Run(first, last, step)
    if not 1 <= run.first <= run.last <= _MAX_NUMBER or run.step < 1 or (run.last - run.first) % run.step:
        raise ValueError(f"{run} is no run of numbers")
    return run
