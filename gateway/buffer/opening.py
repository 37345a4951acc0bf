"""The one way to open a buffer that is written: by a gateway, or by a command while no gateway runs.

A damaged file is mended first, and the first commit after it puts claims of the last run back and skips
numbers that a lost write-ahead log may have given out. Hold the lock of the data directory meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import apsw

from gateway.buffer.connection import PAGE_CACHE_BYTES, wal_pages
from gateway.buffer.orm import PeeweeException
from gateway.buffer.repair.commit_marker import CommitMarker
from gateway.buffer.repair.damage import using
from gateway.buffer.repair.recovery import Recovery, recover
from gateway.buffer.retention.disk_space import DiskSpace
from gateway.buffer.startup_command import StartupCommand
from gateway.buffer.store import Store
from gateway.core.errors import StoreError


class OpenedStore(NamedTuple):
    """A buffer that is open. `marker` is None where commits are not synced: after a power cut it would call
    what is missing a loss, and that is no surprise then."""

    store: Store
    space: DiskSpace
    recovery: Recovery
    marker: CommitMarker | None
    marked_id: int
    gateway_id: str

    def startup(self, alert: Callable[[Store, str, str], None]) -> StartupCommand:
        """The first command for this buffer; nothing may be changed before it is committed."""
        return StartupCommand(self.recovery, alert, self.marked_id, self.gateway_id)


def open_buffer(
    path: Path,
    now_ms: int,
    max_size_bytes: int,
    synchronous: Literal["full", "normal"] = "full",
    *,
    gateway_id: str,
    adopt: bool = False,
    cache_bytes: int = PAGE_CACHE_BYTES,
) -> OpenedStore:
    """Mend the buffer `path` if it must be, and open it, or a new one, for the gateway `gateway_id`.

    Raises StoreError when that is not possible now, or when it belongs to another gateway (unless `adopt`),
    and leaves the files as they are; DamageError when damage was found that the next start mends.
    """
    space = DiskSpace(path, max_size_bytes)
    pages = wal_pages(min(max_size_bytes, space.total_bytes))
    store = Store(path, synchronous, pages, cache_bytes)
    if space.low:
        space.release_ballast()  # to open it takes room too
    try:
        recovery = recover(path, now_ms, synchronous)
        with using(path):
            store.open()
    except (apsw.Error, PeeweeException, OSError) as exc:
        raise StoreError(
            f"the buffer {path} cannot be opened: {exc}; nothing was changed",
            hint=f"is gateway.data_dir writable, is there space ({space}), and is the disk healthy?",
        ) from exc
    if not adopt:
        _require_own(store, gateway_id)
    marker = CommitMarker(path)
    kept = marker if synchronous == "full" else None
    return OpenedStore(store, space, recovery, kept, marker.read(), gateway_id)


def _require_own(store: Store, gateway_id: str) -> None:
    owner = store.identity.gateway_id
    if owner in ("", gateway_id):
        return  # a new one, or one from before buffers knew it
    store.close()
    raise StoreError(
        f"the buffer {store.path} belongs to the gateway {owner!r}, not to {gateway_id!r}",
        hint=f"set gateway.id to {owner!r} again, or another data_dir; or take it over, with what waits"
        " in it: `gateway buffer adopt -c FILE`",
    )
