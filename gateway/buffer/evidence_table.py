"""Table of the signed audit records that wait, and of how far the streams are sealed.

Invariants:
- A record is on disk before it is sent, with its place in the chain and with what it seals: after a crash the
  same bytes are sent again. Two records never take the same place.
- A chain belongs to the identity of the buffer: a restored backup begins another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import apsw

from gateway.wire.signatures import Place


class SignedBatch(NamedTuple):
    """Signed records that follow each other, by number; and what is sealed with them, by stream."""

    buffer_id: str
    records: Sequence[tuple[int, bytes]]
    place: Place
    sealed: Mapping[int, int]


class EvidenceTable:
    """The table of one buffer, for the writer's thread. Changes are part of the transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def keep(self, batch: SignedBatch) -> None:
        """Keep records until they are acknowledged."""
        self._connection.executemany("REPLACE INTO signed_records VALUES (?, ?)", batch.records)
        self._connection.executemany("REPLACE INTO sealed_streams VALUES (?, ?)", batch.sealed.items())
        newest = (batch.buffer_id, batch.place.number, batch.place.previous)
        self._connection.execute("REPLACE INTO signed_chains VALUES (?, ?, ?)", newest)

    def acknowledged(self, number: int) -> None:
        """Forget the records up to `number`."""
        self._connection.execute("DELETE FROM signed_records WHERE number <= ?", (number,))
