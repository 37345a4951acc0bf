"""Identity of a buffer: a random id that goes with every frame and audit record.

Sequence numbers are dense per stream of one buffer. A new file, or a backup in the place of a buffer, gives
numbers out again; so it has another id, and a receiver keeps its numbers apart from earlier ones.

A buffer that takes a new id while it has streams notes how far each has come: what stands up to there
belonged to the identity before, and the audit records say so.
"""

from __future__ import annotations

import secrets
from zlib import crc32

import apsw

BUFFER_ID = "buffer_id"
"""Its name in `meta`."""
GATEWAY_ID = "gateway_id"
"""In `meta`: the gateway that owns the buffer, with a checksum so that a flipped bit does not lock it out."""

ID_BYTES = 8


class BufferIdentity:
    """The identity of one buffer, on the connection that writes. Changes are part of the transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    @property
    def buffer_id(self) -> str:
        """Hexadecimal digits; empty while it has none."""
        return self._text(BUFFER_ID)

    @property
    def gateway_id(self) -> str:
        """The gateway that it belongs to; empty while that is not known, or cannot be read any more."""
        gateway_id, _, digits = self._text(GATEWAY_ID).rpartition(" ")
        return gateway_id if digits == _checksum(gateway_id) else ""

    def belong_to(self, gateway_id: str) -> None:
        """Note whose buffer it is."""
        self._set(GATEWAY_ID, f"{gateway_id} {_checksum(gateway_id)}")

    def renew(self) -> str:
        """Take a new id; return it."""
        buffer_id = secrets.token_hex(ID_BYTES)
        self._connection.execute("DELETE FROM series_starts")
        self._connection.execute(
            "INSERT INTO series_starts (stream, sequence) SELECT id, max(last_sequence, coalesce("
            "(SELECT max(sequence_num) FROM buffer_events WHERE stream = streams.id AND status <> 4), 0))"
            " FROM streams"
        )
        self._set(BUFFER_ID, buffer_id)
        return buffer_id

    def _text(self, name: str) -> str:
        row = self._connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return "" if row is None else str(row[0])

    def _set(self, name: str, value: str) -> None:
        self._connection.execute("REPLACE INTO meta (name, value) VALUES (?, ?)", (name, value))


def _checksum(text: str) -> str:
    return f"{crc32(text.encode('utf-8', 'surrogateescape')):08x}"
