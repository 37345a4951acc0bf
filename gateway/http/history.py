"""The last quarter of an hour in numbers, one row a second: rates for the charts.

No clock in here: whoever samples brings the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from gateway.delivery.forecast import Totals, rate

KEPT_ROWS = 900
RATE_OVER_S = 5.0
STALLED_AFTER_S = 60.0


class Row(NamedTuple):
    """One second for the charts."""

    time_ms: int
    in_per_s: float
    out_per_s: float
    waiting: int


class History:
    """Rows for the charts, and the rates behind them."""

    def __init__(self) -> None:
        self._totals: deque[Totals] = deque(maxlen=round(RATE_OVER_S) + 1)
        self._rows: deque[Row] = deque(maxlen=KEPT_ROWS)
        self._progress_at_s: float | None = None

    def add(self, time_ms: int, totals: Totals) -> None:
        """One more second."""
        last = self._totals[-1] if self._totals else None
        if last is None or totals.acked != last.acked or not totals.waiting:
            self._progress_at_s = totals.at_s
        self._totals.append(totals)
        before = last or totals
        self._rows.append(
            Row(time_ms, rate(before, totals, "taken_in"), rate(before, totals, "acked"), totals.waiting)
        )

    @property
    def latest(self) -> Row | None:
        return self._rows[-1] if self._rows else None

    def rows(self) -> Iterable[Row]:
        return self._rows

    def rate(self, name: str) -> float:
        """Of one of the totals, per second, over the last few seconds."""
        if not self._totals:
            return 0.0
        return rate(self._before(RATE_OVER_S), self._totals[-1], name)

    def stalled_s(self) -> float:
        """For how long nothing was acknowledged although something waited."""
        if self._progress_at_s is None:
            return 0.0
        return self._totals[-1].at_s - self._progress_at_s

    def _before(self, span_s: float) -> Totals:
        """The oldest totals that are no older than `span_s`."""
        limit_s = self._totals[-1].at_s - span_s
        return next(totals for totals in self._totals if totals.at_s >= limit_s)
