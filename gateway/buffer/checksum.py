"""The CRC-32 of a stored event: its payload as stored, and every column that never changes."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from zlib import crc32

pack_columns = Struct("<16s9q").pack
"""Packs the columns that never change, in the order of the arguments of `event_checksum`."""

NO_TIME = -(1 << 63)
"""Value that stands for a missing device time: no clock shows it."""


def event_checksum(
    event_id: bytes,
    stream: int,
    sequence_num: int,
    event_time_ms: int,
    ingest_time_ms: int,
    device_time_ms: int | None,
    priority: int,
    kind: int,
    flags: int,
    codec: int,
    stored: bytes,
) -> int:
    """CRC-32 over the columns that stay as they were appended and the stored (compressed) payload.

    The codec is among them: the right bytes, read with the wrong dictionary, are another payload.
    Raises struct.error for what no such column can hold.
    """
    times = (event_time_ms, ingest_time_ms, NO_TIME if device_time_ms is None else device_time_ms)
    columns = pack_columns(event_id, stream, sequence_num, *times, priority, kind, flags, codec)
    return crc32(stored, crc32(columns))


def event_checksums(
    event_ids: Sequence[bytes],
    streams: Sequence[int],
    sequence_nums: Sequence[int],
    event_times_ms: Sequence[int],
    ingest_times_ms: Sequence[int],
    device_times_ms: Sequence[int | None],
    priorities: Sequence[int],
    kinds: Sequence[int],
    flags: Sequence[int],
    codecs: Sequence[int],
    stored: Sequence[bytes],
) -> list[int]:
    """Return the checksums of events that are columns, without a call of Python for each.

    Raises struct.error if one has a column that was never appended so.
    """
    device_ms = [NO_TIME if time_ms is None else time_ms for time_ms in device_times_ms]
    times = (event_times_ms, ingest_times_ms, device_ms)
    columns = map(pack_columns, event_ids, streams, sequence_nums, *times, priorities, kinds, flags, codecs)
    return list(map(crc32, stored, map(crc32, columns)))
