"""Pause between commits: a commit costs one fsync, however much it carries."""

from __future__ import annotations

LEAST_INTERVAL_S = 0.012
BURST = 3
"""Commits in a row without a pause: one message is stored, claimed and settled at once."""
_SHORTEST_S = 1e-6  # less is what rounding left over


class CommitPace:
    """Spaces commits under load, so that each carries what came meanwhile; a lone one never waits.

    A bucket of BURST commits that fills by one each LEAST_INTERVAL_S, told as the time at which it is full.
    """

    def __init__(self, least_interval_s: float = LEAST_INTERVAL_S) -> None:
        self._least_interval_s = least_interval_s
        self._full_at_s = 0.0

    def pause_s(self, now_s: float) -> float:
        """Return how long the next commit should wait for more work to join it."""
        pause_s = self._full_at_s - now_s - (BURST - 1) * self._least_interval_s
        return pause_s if pause_s > _SHORTEST_S else 0.0

    def committed(self, now_s: float) -> None:
        """Note that a commit begins."""
        self._full_at_s = max(self._full_at_s, now_s) + self._least_interval_s
