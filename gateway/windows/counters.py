"""The numbers that each window keeps about itself: one writer, any reader."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Plain integers, changed by the engine's thread only; another thread may read them at any time.

    The last block are LEVELS, the others only grow.
    """

    events: int = 0  # samples that reached the window with a number and a key
    misses: int = 0  # no number in the field: absent, null, text, NaN
    key_misses: int = 0  # a part of the key was missing
    outside: int = 0  # between the windows of a hopping grid whose slide is longer than its size
    late_dropped: int = 0  # samples that came too late for at least one of their windows
    future_skew: int = 0  # samples beyond max_future_skew: windowed, but no push to the watermark
    emitted: int = 0  # results of every kind
    corrections: int = 0
    corrections_withheld: int = 0  # not sent: `corrections` is off, or a later one says the same
    early: int = 0
    held_back: int = 0  # results that the plugin had nothing to say about
    compute_misses: int = 0  # values of `compute` that are null: something that they name is not there
    plugin_errors: int = 0
    skipped: int = 0  # samples not given to a plugin that keeps failing on their key
    keys_rejected: int = 0  # samples of new keys beyond max_keys
    keys_forgotten: int = 0  # keys whose state was given up: sampled out, or silent for longer than ttl
    state_dropped: int = 0  # keys whose checkpoint no longer fits the window's plugin or shape
    sources_ignored: int = 0  # samples of sources beyond the limit, which do not move the watermark
    timed_samples: int = 0  # samples whose time in the window was measured, one message in a hundred
    timed_ns: int = 0  # and how long they took, plugin included

    keys: int = 0
    cold_keys: int = 0  # of these, in the checkpoint only
    open_windows: int = 0
    sources: int = 0
    watermark_ms: int | None = None  # with per_key, of the key that is furthest ahead
    key_sample_level: int = 0  # with max_keys_policy sample, 1 key in 2**level is kept


LEVELS = frozenset({"keys", "cold_keys", "open_windows", "sources", "watermark_ms", "key_sample_level"})
"""The numbers that go up and down."""
