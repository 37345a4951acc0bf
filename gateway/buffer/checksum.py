"""The CRC-32 of a stored event: its payload as stored, and the columns that say whose payload it is."""

from __future__ import annotations

from struct import Struct
from zlib import crc32

_IDENTITY = Struct("<16sqqqB")


def event_checksum(
    event_id: bytes, stream: int, sequence_num: int, event_time_ms: int, kind: int, stored: bytes
) -> int:
    """CRC-32 over the identifying columns and the stored (compressed) payload."""
    return crc32(stored, crc32(_IDENTITY.pack(event_id, stream, sequence_num, event_time_ms, kind)))
