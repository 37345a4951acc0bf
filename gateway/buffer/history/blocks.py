"""The stored form of many results of one series: ids and times as differences, then the payloads, in zstd.

Results of one window and key are alike, so together they take a tenth of their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import orjson
import zstandard

from gateway.core.errors import DecodeError

_LEVEL = 6
MOST_BYTES = 64 * 1024 * 1024
"""A block is never larger before it is compressed; a larger one is damage."""
_MOST_WINDOW_BYTES = 1 << 27


class PastResult(NamedTuple):
    """A result as it was published: its buffer id, event time and the JSON of its payload."""

    id: int
    time_ms: int
    topic: str
    payload: bytes


def pack(ids: Sequence[int], times_ms: Sequence[int], payloads: Sequence[bytes]) -> bytes:
    """Return results of one series as a block. Their payloads are JSON on one line each."""
    head = orjson.dumps([_steps(ids), _steps(times_ms)])
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    return compressor.compress(b"\n".join((head, *payloads)))


def unpack(topic: str, block: bytes) -> list[PastResult]:
    """Return the results of a block of the series `topic`. Raises DecodeError."""
    try:
        if zstandard.frame_content_size(block) > MOST_BYTES:
            raise DecodeError("a block of the history says that it is too large", reason="too_large")
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW_BYTES)
        head, *payloads = decompressor.decompress(block).split(b"\n")
        ids, times_ms = map(accumulate, orjson.loads(head))
        return [*map(PastResult, ids, times_ms, [topic] * len(payloads), payloads)]
    except (zstandard.ZstdError, ValueError, TypeError) as exc:
        raise DecodeError(f"a block of the history is damaged: {exc}", reason="damaged") from exc


def _steps(numbers: Sequence[int]) -> list[int]:
    return [*numbers[:1], *(after - before for before, after in pairwise(numbers))]
