"""Limits of a rehearsal: differences that refuse a configuration, whoever sent it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.pipeline.rehearsal import WindowDifference

_ENOUGH = 10
"""Readings or messages; fewer than that show nothing."""


@dataclass(frozen=True)
class RehearsalLimits:
    """Largest differences that are accepted: shares of one, and a factor for messages."""

    fewer_readings: float = 0.5
    more_dropped: float = 0.1
    plugin_errors: float = 0.1
    more_messages: float = 10.0

    def objections(self, differences: Sequence[WindowDifference], decoded: tuple[int, int]) -> list[str]:
        """Return a sentence for each limit that is exceeded; `decoded` counts messages before and after.

        A window that is new or gone is no objection: somebody has written or removed it on purpose.
        """
        return [*self._of_messages(differences, decoded), *self._of_windows(differences)]

    def _of_messages(
        self, differences: Sequence[WindowDifference], decoded: tuple[int, int]
    ) -> Iterator[str]:
        if _loses(*decoded, self.fewer_readings):
            yield f"routes decode {decoded[1]:,} messages instead of {decoded[0]:,}"
        old, new = (sum(one.numbers["messages"][at] for one in differences) for at in (0, 1))
        if new > self.more_messages * max(old, _ENOUGH):
            yield f"windows send {new:,} messages instead of {old:,}"

    def _of_windows(self, differences: Sequence[WindowDifference]) -> Iterator[str]:
        for one in differences:
            if one.is_new or one.is_gone:
                continue
            old, new = one.numbers["readings"]
            if _loses(old, new, self.fewer_readings):
                yield f"window {one.window} takes {new:,} readings instead of {old:,}"
            limits = {"dropped_readings": self.more_dropped, "plugin_errors": self.plugin_errors}
            for what, limit in limits.items():
                before, after = one.numbers[what]
                if _grows(before, old, after, new, limit):
                    yield f"window {one.window}: {after:,} {what.replace('_', ' ')} instead of {before:,}"


def _loses(before: int, after: int, limit: float) -> bool:
    return before >= _ENOUGH and limit < 1 and before - after >= limit * before


def _grows(before: int, of_before: int, after: int, of_after: int, limit: float) -> bool:
    return of_after >= _ENOUGH and limit < 1 and after / of_after - before / max(of_before, 1) >= limit
