"""Memory budget of each part of the gateway, as shares of the available memory."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024
RESERVED_BYTES = 512 * MIB
"""Memory for the operating system and the interpreter, on a machine that has enough."""

# Python with everything imported takes about 60 MB: less than this cannot be shared out.
SMALLEST_SHARED_BYTES = 32 * MIB

KEY_BYTES = 2048
"""Memory of one key of a window, with an open window of `stats` (measured: 1,934)."""

COLD_KEY_BYTES = 256
"""Memory of a key whose state is in the checkpoint only (measured: 110 with a name of 26 characters)."""

FEWEST_KEYS = 1000
MOST_KEYS = 100_000


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Shares in bytes: 10 % ingest queue, 40 % window state, 20 % page caches of the buffer, 20 % processing
    (groups, and frames on their way to the cloud); a tenth stays free."""

    total_bytes: int
    ingest_bytes: int
    windows_bytes: int
    cache_bytes: int
    processing_bytes: int

    def hot_keys(self, windows: int) -> int:
        """Return how many keys each of so many windows may keep in memory."""
        return max(FEWEST_KEYS, min(MOST_KEYS, self.windows_bytes // KEY_BYTES // max(1, windows)))

    def most_keys(self, windows: int) -> int:
        """Return how many keys each of so many windows may have at all: their names stay in memory."""
        return max(FEWEST_KEYS, self.windows_bytes // COLD_KEY_BYTES // max(1, windows))


def memory_budget(total_bytes: int) -> MemoryBudget:
    """Share out what the machine or the container has. Where RESERVED_BYTES would be more than half of it,
    half is reserved."""
    shared = max(SMALLEST_SHARED_BYTES, total_bytes - min(RESERVED_BYTES, total_bytes // 2))
    return MemoryBudget(total_bytes, shared // 10, shared * 2 // 5, shared // 5, shared // 5)
