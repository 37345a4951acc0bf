"""Python's garbage collector, in a program that keeps most of what it makes for as long as there are devices.

A full collection looks at everything that is kept and holds up all threads meanwhile, for 0.3 s with 100,000
topics. So what was alive in one is left out of the next. Once a day everything is looked at again: something
that was left out, such as a connection that has ended since, may be garbage.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

_THRESHOLDS = (20_000, 1, 1)
"""New objects between two searches for cycles: more than a group of 1000 messages has while it is stored. It
leaves no cycles, and looking for some 20 times in each group took a twentieth of the writer's time. Older
objects are looked at soon, while they are few: no pause is much longer than that for the young ones."""
_SELDOM = 200_000
_EVERYTHING_EVERY_S = 24 * 60 * 60.0
_OLDEST = 2  # of the collector's generations: with it all objects are looked at


class Collections:
    """The collections of this process: none until `begin`."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._everything_s = now_s()
        gc.disable()  # hardly anything of what a start makes is garbage

    def begin(self) -> None:
        """Let collections happen, without what is there now. Call it again when a new start has replaced most
        of that."""
        if self._note in gc.callbacks:
            gc.unfreeze()
            gc.collect()
        else:
            gc.callbacks.append(self._note)
        gc.freeze()
        gc.set_threshold(*_THRESHOLDS)
        gc.enable()

    def end(self) -> None:
        """Leave the collector as Python has it."""
        if self._note in gc.callbacks:
            gc.callbacks.remove(self._note)
        gc.unfreeze()
        gc.enable()

    def _note(self, phase: str, info: dict[str, int]) -> None:
        """Called by the collector, on whatever thread, before and after each collection."""
        if info["generation"] < _OLDEST:
            return
        if phase == "stop":
            gc.freeze()
        elif self._now_s() - self._everything_s >= _EVERYTHING_EVERY_S:
            self._everything_s = self._now_s()
            gc.unfreeze()


def collect_seldom() -> None:
    """Look for cycles seldom, and not among what is there, in a program that goes through many events and
    ends: an event leaves none, and to look as often as usual takes a tenth of the time."""
    gc.freeze()
    gc.set_threshold(_SELDOM)
