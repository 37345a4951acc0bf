"""The state of a window as rows for the checkpoint: only what changed, and back.

Rows of a window: `!` (fingerprint, watermark and other single facts; it sorts first), `s` + topic (a source
of a shared clock), `k` + key (a key with its windows). Values are JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from gateway.core.packed_json import packed
from gateway.windows.operators.operator import Operator
from gateway.windows.plugin_runner import Key
from gateway.windows.watermark import KeyClock

Row = tuple[bytes, bytes]
Change = tuple[bytes, bytes | None]

FORMAT = 1
DAMAGES = (ValueError, TypeError, KeyError, IndexError, AttributeError)
"""Errors raised by reading state that is not as it was written."""
META = b"!"
_COLD_PER_HOT = 8
_SLACK = 8  # an eighth more may be in memory for a while: to store all that fired with each thousand is slow


class Checkpoint:
    """Writes and reads the rows of one window.

    With `fetch`, which gives the value of a row from the checkpoint, at most `hot_keys` keys stay in memory
    after each checkpoint, and fewer the more there are besides; these are read back when something happens to
    them.
    """

    def __init__(
        self, operator: Operator[Any], fetch: Callable[[bytes], bytes | None] | None, hot_keys: int
    ) -> None:
        self._operator = operator
        self._fetch = fetch
        self._hot_keys = hot_keys
        self._meta = b""
        if fetch is not None:
            operator.keys.load = self._fetch_key

    @property
    def crowded(self) -> bool:
        """True if more keys take memory than should, because many came back or have to be deleted."""
        keys = self._operator.keys
        most = self._most + self._hot_keys // _SLACK
        return self._fetch is not None and len(keys.hot) + keys.removed > most

    def take_changes(self) -> list[Change]:
        """The rows that differ since the last call; None where a row is to be deleted."""
        changes: dict[bytes, bytes | None] = {}
        self._take_keys(changes)
        self._take_sources(changes)
        meta = self._dump_meta()
        if meta != self._meta:
            self._meta = changes[META] = meta
        return list(changes.items())

    def _take_keys(self, changes: dict[bytes, bytes | None]) -> None:
        keys = self._operator.keys
        dirty, keys.dirty, keys.removed = keys.dirty, [], 0
        for key in dirty:
            key.saved()
            changes[b"k" + key.name.encode()] = self._dump_or_drop(key)
            if self._fetch is not None and not key.gone:
                keys.hot[key.name] = keys.hot.pop(key.name)  # the order of last use, for `evict`
        if self._fetch is not None:
            self._chill()

    def _chill(self) -> None:
        """Keep what goes into the memory of `hot_keys`: a cold key needs about an eighth of a hot one."""
        self._operator.keys.evict(self._most)

    @property
    def _most(self) -> int:
        most = self._hot_keys - len(self._operator.keys.cold) // _COLD_PER_HOT
        return max(self._hot_keys // 10, most)

    def _dump_or_drop(self, key: Key) -> bytes | None:
        """The state of a key; None when it is gone, or when its plugin made it what cannot be stored."""
        if key.gone:
            return None
        try:
            return self._dump_key(key)
        except TypeError:  # orjson's error; one plugin must not keep the others from being stored
            self._operator.counters.plugin_errors += 1
            self._operator.counters.state_dropped += 1
            self._operator.keys.remove(key)
            return None

    def _fetch_key(self, name: str) -> Key | None:
        """Read back a cold key. One that cannot be read is counted and starts anew."""
        counters = self._operator.counters
        open_windows = counters.open_windows
        value = None if self._fetch is None else self._fetch(b"k" + name.encode())
        try:
            return self._load_key(name, orjson.loads(value or b""))
        except DAMAGES:
            counters.state_dropped += 1
            self._operator.keys.hot.pop(name, None)
            return None
        finally:
            counters.open_windows = open_windows

    def _take_sources(self, changes: dict[bytes, bytes | None]) -> None:
        clock = self._operator.shared
        for source in () if clock is None else clock.dirty_sources:
            known = clock is not None and source.name in clock.sources
            state = [source.max_ms, source.heard_ms, source.idle, *([source.gap_ms] if source.gap_ms else ())]
            changes[b"s" + source.name.encode()] = packed(state) if known else None

    def _dump_key(self, key: Key) -> bytes:
        clock = key.clock
        times = None
        if isinstance(clock, KeyClock):
            gap = [clock.gap_ms] if clock.gap_ms else ()
            times = [clock.max_ms, clock.heard_ms, clock.wm_ms, *gap]
        record = [times, key.carry, key.failures, key.blocked_until_ms, key.heard_ms]
        more = [key.settle_ms, key.untold]
        while more and more[-1] is None:  # older state has none of them
            more.pop()
        return packed([*record, self._operator.dump_key(key), *more])

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

    def row_names(self) -> set[bytes]:
        """The rows that the window has, written or not."""
        keys, shared = self._operator.keys, self._operator.shared
        names = {b"k" + name.encode() for name in (*keys.hot, *keys.cold)}
        return names | {b"s" + name.encode() for name in (shared.sources if shared else ())} | {META}

    # --- back ---

    def fits(self, meta: bytes) -> bool:
        """Return True if state with this first row was made by the window as it is now."""
        found = orjson.loads(meta)
        return (found["format"], found["fingerprint"]) == (FORMAT, self._operator.fingerprint)

    def restore_row(self, row: bytes, value: bytes) -> None:
        """Take in one row, the first one first. Raises one of DAMAGES when it cannot be read."""
        state = orjson.loads(value)
        shared = self._operator.shared
        if row == META:
            self._load_meta(state)
        elif row[:1] == b"k":
            self._load_key(row[1:].decode(), state)
            if self._fetch is not None:
                self._chill()
        elif shared is not None:
            max_ms, heard_ms, idle, *gap = state
            shared.restore_source(row[1:].decode(), max_ms, heard_ms, idle=idle, gap_ms=sum(gap))

    def _load_meta(self, state: Any) -> None:
        self._operator.counters.key_sample_level = state["key_sample_level"]
        self._operator.border.drops = state["drops"]
        if self._operator.shared is not None and state["watermark_ms"] is not None:
            self._operator.shared.wm_ms = state["watermark_ms"]

    def _load_key(self, name: str, state: Any) -> Key:
        times, carry, failures, blocked_until_ms, heard_ms, windows, *more = state
        key: Key = self._operator.create_key(name, heard_ms)
        key.carry, key.failures, key.blocked_until_ms = carry, failures, blocked_until_ms
        if isinstance(key.clock, KeyClock) and times is not None:
            key.clock.max_ms, key.clock.heard_ms, key.clock.wm_ms, *gap = times
            key.clock.gap_ms = sum(gap)
        self._operator.load_key(key, windows)
        settle_ms, key.untold = (*more, None, None)[:2]
        owed = self._operator.owed
        if settle_ms is not None and owed is not None:
            key.settle_ms = settle_ms
            owed.restore(name, settle_ms)
        return key


class Restoration:
    """Takes in the rows of one window, in any order, though the first one first takes the least memory."""

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self.why_not = "it is no longer configured" if checkpoint is None else ""
        """Reason why the state cannot be used, or empty."""
        self._checkpoint = checkpoint
        self._has_begun = False
        self._waiting: list[Row] = []
        self._refused: list[bytes] = []

    def add(self, row: bytes, value: bytes) -> None:
        """Take in a row, or keep it until the first one is there."""
        if self.why_not or self._checkpoint is None:
            self._refused.append(row)
            return
        try:
            if self._has_begun:
                self._checkpoint.restore_row(row, value)
            elif row == META:
                self._begin(self._checkpoint, value)
            else:
                self._waiting.append((row, value))
        except DAMAGES as exc:
            self.why_not = f"it is damaged ({exc})"
            self._refused.append(row)

    def _begin(self, checkpoint: Checkpoint, meta: bytes) -> None:
        self._has_begun = True
        if not checkpoint.fits(meta):
            self.why_not = "its plugin, options or shape changed since the checkpoint"
            return
        checkpoint.restore_row(META, meta)
        for row, value in self._waiting:
            checkpoint.restore_row(row, value)
        self._waiting.clear()

    def finish(self) -> str:
        """Return why the state cannot be used, or nothing."""
        if not self._has_begun and not self.why_not:
            self.why_not = "its first row is missing"
        return self.why_not

    def rows(self) -> list[bytes]:
        """The rows of a window whose state cannot be used: those that came, taken in or not."""
        known = set() if self._checkpoint is None else self._checkpoint.row_names()
        return sorted(known.union(self._refused, (row for row, _ in self._waiting)))
