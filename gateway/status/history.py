"""The last quarter of an hour in numbers, one row a second: rates for the charts.

No clock in here: the caller passes the time. `add` is for one thread, everything else for any.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from gateway.delivery.forecast import Totals, rate

KEPT_ROWS = 900
RATE_OVER_S = 5.0


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

    def add(self, time_ms: int, totals: Totals) -> None:
        """Keep one more second."""
        before = self._totals[-1] if self._totals else totals
        self._totals.append(totals)
        self._rows.append(
            Row(time_ms, rate(before, totals, "taken_in"), rate(before, totals, "acked"), totals.waiting)
        )

    @property
    def latest(self) -> Row | None:
        return self._rows[-1] if self._rows else None

    def rows(self) -> Sequence[Row]:
        return self._rows.copy()  # one step of the interpreter: no row is added meanwhile

    def rate(self, name: str) -> float:
        """Return the rate of one of the totals, per second, over the last few seconds."""
        totals = [*self._totals.copy()]
        if not totals:
            return 0.0
        limit_s = totals[-1].at_s - RATE_OVER_S
        return rate(next(one for one in totals if one.at_s >= limit_s), totals[-1], name)
