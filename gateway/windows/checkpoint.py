"""The state of a window as rows for the checkpoint: only what changed, and back.

Rows of a window: `w` (fingerprint, watermark and other single facts), `s` + topic (a source of a shared
clock), `k` + key (a key with its windows). Values are JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import orjson

from gateway.windows.border import Key
from gateway.windows.operator import Operator
from gateway.windows.watermark import KeyClock

K = TypeVar("K", bound=Key)
Row = tuple[bytes, bytes]
Change = tuple[bytes, bytes | None]

FORMAT = 1
META = b"w"


class Checkpoint:
    """Writes and reads the rows of one window."""

    def __init__(self, operator: Operator[Any]) -> None:
        self._operator = operator
        self._meta = b""

    def take_changes(self) -> list[Change]:
        """The rows that differ since the last call; None where a row is to be deleted."""
        operator = self._operator
        changes: dict[bytes, bytes | None] = {}
        for key in operator.dirty:
            key.dirty = False
            changes[b"k" + key.name.encode()] = None if key.gone else self._dump_key(key)
        operator.dirty.clear()
        self._take_sources(changes)
        meta = self._dump_meta()
        if meta != self._meta:
            self._meta = changes[META] = meta
        return list(changes.items())

    def _take_sources(self, changes: dict[bytes, bytes | None]) -> None:
        clock = self._operator.shared
        for source in () if clock is None else clock.dirty_sources:
            source.dirty = False
            known = clock is not None and source.name in clock.sources
            state = [source.max_ms, source.heard_ms, source.idle]
            changes[b"s" + source.name.encode()] = orjson.dumps(state) if known else None
        if clock is not None:
            clock.dirty_sources.clear()

    def _dump_key(self, key: Key) -> bytes | None:
        clock = key.clock
        times = [clock.max_ms, clock.heard_ms, clock.wm_ms] if isinstance(clock, KeyClock) else None
        record = [times, key.carry, key.failures, key.blocked_until_ms, key.heard_ms]
        return orjson.dumps([*record, self._operator.dump_key(key)])

    def _dump_meta(self) -> bytes:
        operator = self._operator
        meta = {
            "format": FORMAT,
            "fingerprint": operator.fingerprint,
            "watermark_ms": None if operator.shared is None else operator.shared.wm_ms,
            "key_sample_level": operator.counters.key_sample_level,
            "drops": operator.border.drops,
        }
        return orjson.dumps(meta)

    def fits(self, meta: bytes | None) -> bool:
        """Whether state with this `w` row was made by the window as it is now."""
        found = {} if meta is None else orjson.loads(meta)
        return (found.get("format"), found.get("fingerprint")) == (FORMAT, self._operator.fingerprint)

    def restore(self, rows: Iterable[Row]) -> None:
        """Fill a new operator with rows that fit it. Raises ValueError or TypeError when they are damaged."""
        for row, value in sorted(rows, key=_meta_first):
            state = orjson.loads(value)
            if row == META:
                self._load_meta(state)
            elif row[:1] == b"k":
                self._load_key(row[1:].decode(), state)
            elif self._operator.shared is not None:
                max_ms, heard_ms, idle = state
                self._operator.shared.restore_source(row[1:].decode(), max_ms, heard_ms, idle=idle)

    def _load_meta(self, state: Any) -> None:
        self._operator.counters.key_sample_level = state["key_sample_level"]
        self._operator.border.drops = state["drops"]
        if self._operator.shared is not None and state["watermark_ms"] is not None:
            self._operator.shared.wm_ms = state["watermark_ms"]

    def _load_key(self, name: str, state: Any) -> None:
        times, carry, failures, blocked_until_ms, heard_ms, windows = state
        key = self._operator.create_key(name, heard_ms)
        key.carry, key.failures, key.blocked_until_ms = carry, failures, blocked_until_ms
        if isinstance(key.clock, KeyClock) and times is not None:
            key.clock.max_ms, key.clock.heard_ms, key.clock.wm_ms = times
        self._operator.load_key(key, windows)


def _meta_first(row: Row) -> tuple[bool, bytes]:
    return row[0] != META, row[0]
