"""The C library's heap: on a small box what has been freed goes back to the system.

glibc gives each thread a heap of its own and keeps what a large piece of work needed; with one heap for all
that can be undone. Other C libraries lack these calls, and need none.
"""

from __future__ import annotations

import ctypes

_ARENA_MAX = -8  # M_ARENA_MAX in malloc.h


def use_one_heap() -> None:
    """Let all threads share one heap. Call it before the first thread starts."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)


def give_back() -> None:
    """Return what has been freed to the system."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
